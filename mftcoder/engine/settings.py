"""DeepSpeed's settings, held against DeepSpeed's own parser before anything starts."""

import logging
from collections.abc import Iterator, Mapping
from typing import Any

from deepspeed.runtime.config import DeepSpeedConfig
from deepspeed.utils import logger
from pydantic import ValidationError

from mftcoder.config.problems import nearest, show
from mftcoder.errors import MftcoderError

ONE_ROW = {"train_micro_batch_size_per_gpu": 1}  # the least that DeepSpeed's parser must be told


class _Asked(dict):
    """Settings that remember which of their keys somebody looked for."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        super().__init__(settings)
        self.keys_asked = {"data_parallel_size", "sequence_parallel_size"}  # ``deepspeed.initialize`` looks for these

    def __contains__(self, key: object) -> bool:
        self.keys_asked.add(str(key))
        return super().__contains__(key)

    def __getitem__(self, key: str) -> Any:
        self.keys_asked.add(key)
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        self.keys_asked.add(key)
        return super().get(key, default)


def check_settings(settings: Mapping[str, Any]) -> None:
    """MftcoderError that lists what DeepSpeed's parser refuses in resolved ``settings``, or would silently ignore."""
    # The merge has made the batch sizes consistent; the parser would hold them against the ranks that are here now.
    batch_sizes = {"train_batch_size", "gradient_accumulation_steps", *ONE_ROW}
    settings = {key: value for key, value in settings.items() if key not in batch_sizes}
    problems = [problem for section in settings for problem in _refused(section, settings[section])]
    asked = _Asked({**ONE_ROW, **settings})
    try:
        _parse(asked)
    except Exception as error:  # assertions, type errors …: whatever the parser stumbles over
        problems = problems or [" ".join(str(error).split())]
    else:
        known = sorted(asked.keys_asked)
        problems += [
            f"{key}: unknown key{nearest(key, known) or '. Delete it.'}" for key in settings if key not in known
        ]
    if problems:
        raise MftcoderError("\n".join(f"deepspeed: {problem}" for problem in problems))


def _refused(section: str, value: Any) -> Iterator[str]:
    """What is wrong inside one section; DeepSpeed's message would not say in which."""
    try:
        _parse({**ONE_ROW, section: value})
    except ValidationError as error:
        for details in error.errors():
            place = ".".join(str(part) for part in details["loc"] if part != section)
            what = "unknown key" if details["type"] == "extra_forbidden" else details["msg"]
            yield f"{section}.{place}: {what}; found {show(details['input'])}."
    except Exception:
        return  # a section may need others; all together are parsed as well


def _parse(settings: dict[str, Any]) -> None:
    level = logger.level
    logger.setLevel(logging.ERROR)  # deprecations are told when the run starts
    try:
        DeepSpeedConfig(settings)
    finally:
        logger.setLevel(level)
