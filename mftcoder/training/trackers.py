"""Where metrics go beside metrics.jsonl: TensorBoard, Weights & Biases, trackio. On rank 0 only.

A tracker is a convenience: when it fails, that is told once and the training goes on without it.
"""

import importlib.util
import json
import re
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from mftcoder.config.schema import Config
from mftcoder.errors import MftcoderError
from mftcoder.training.checkpoint import write_json

IDENTITY = "tracking.json"  # in output_dir: the id under which a resumed run goes on
SECRET_KEY = re.compile(r"(^|_)(token|secret|password|key|credentials?)$", re.IGNORECASE)


class Tracker(Protocol):
    """One service."""

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Note numbers by name; one step may come several times."""
        ...

    def close(self) -> None:
        """Everything is written when this returns."""
        ...


class TensorBoard:
    """Event files in the run's folder."""

    def __init__(self, config: Config, first_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(Path(config.output_dir) / "tensorboard"), purge_step=first_step)

    def log(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class Wandb:
    """A run of Weights & Biases; account, server and offline mode are set by its own WANDB_* variables."""

    def __init__(self, config: Config, first_step: int) -> None:
        import wandb

        self._run = wandb.init(
            project=config.logging.project,
            name=run_name(config),
            id=run_identity(config),
            resume="allow",
            dir=config.output_dir,
            config=without_secrets(config.model_dump(mode="json")),
            settings=wandb.Settings(console="off"),  # the terminal belongs to the progress line
        )
        # Its own counter of steps never goes back, as a resumed run must.
        self._run.define_metric("*", step_metric="step")

    def log(self, values: Mapping[str, float], step: int) -> None:
        self._run.log({**values, "step": step})

    def close(self) -> None:
        self._run.finish()


class Trackio:
    """A run of trackio, on this machine or where its own TRACKIO_* variables say."""

    def __init__(self, config: Config, first_step: int) -> None:
        import trackio

        self._run = trackio.init(
            project=config.logging.project,
            name=f"{run_name(config)}-{run_identity(config)}",  # it knows runs by their names
            resume="allow",
            config=without_secrets(config.model_dump(mode="json")),
        )

    def log(self, values: Mapping[str, float], step: int) -> None:
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        self._run.finish()


TRACKERS: dict[str, Callable[[Config, int], Tracker]] = {
    "tensorboard": TensorBoard,
    "wandb": Wandb,
    "trackio": Trackio,
}


class Trackers:
    """All that ``logging.report_to`` names."""

    def __init__(self, config: Config, first_step: int, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._open: dict[str, Tracker] = {}
        for name in config.logging.report_to:
            self._attempt(name, self._start, name, config, first_step)

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Note numbers by name."""
        for name, tracker in list(self._open.items()):
            self._attempt(name, tracker.log, values, step)

    def close(self) -> None:
        """Everything that was noted is written when this returns."""
        for name, tracker in list(self._open.items()):
            self._attempt(name, tracker.close)
        self._open.clear()

    def _start(self, name: str, config: Config, first_step: int) -> None:
        self._open[name] = TRACKERS[name](config, first_step)

    def _attempt(self, name: str, action: Callable[..., None], *arguments: Any) -> None:
        try:
            action(*arguments)
        except Exception as error:  # no network, no account, a full disk …: whatever a service can raise
            self._open.pop(name, None)
            self._tell(
                f"logging.report_to: {name} failed and gets nothing any more; metrics.jsonl has everything: "
                f"{type(error).__name__}: {error}"
            )


def check_installed(config: Config) -> None:
    """MftcoderError that names the packages of ``logging.report_to`` which are missing."""
    missing = [name for name in config.logging.report_to if importlib.util.find_spec(name) is None]
    if missing:
        raise MftcoderError(
            f"logging.report_to: {', '.join(missing)} not installed. pip install {' '.join(missing)}, or leave it out."
        )


def run_name(config: Config) -> str:
    """What the services call the run."""
    return config.logging.run_name or Path(config.output_dir).resolve().name


def run_identity(config: Config) -> str:
    """The id of a run: drawn when it starts, the same when it is resumed."""
    path = Path(config.output_dir) / IDENTITY
    if not path.exists():
        write_json(path, {"id": uuid.uuid4().hex[:8]})
    return json.loads(path.read_text())["id"]


def without_secrets(value: Any, key: str = "") -> Any:
    """A config as it may leave the machine: without values of keys like "api_key", and URLs without who and query."""
    if isinstance(value, dict):
        return {name: without_secrets(item, name) for name, item in value.items()}
    if isinstance(value, list):
        return [without_secrets(item, key) for item in value]
    if not isinstance(value, str):
        return value
    if SECRET_KEY.search(key):
        return "…"
    if "://" in value:
        return re.sub(r"\?.*", "", re.sub(r"(://)[^/@]*@", r"\1", value))
    return value
