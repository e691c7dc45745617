"""What the measurements of this folder run on: a new small Llama and its tokenizer, and shards of given task files."""

from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from new_model import new_model, new_tokenizer
from transformers.utils import logging

from mftcoder.config.load import parse
from mftcoder.config.schema import Config, Task
from mftcoder.data.prepare import prepare
from mftcoder.data.records import Text
from mftcoder.data.task_records import read_records

RECORDS_FOR_TOKENIZER = 2000  # of each task
SMALL = {"vocabulary": 2048, "hidden_size": 128, "layers": 4, "sequence_length": 128}  # 1.05M parameters
TINY = {"vocabulary": 1024, "hidden_size": 64, "layers": 2, "sequence_length": 128}  # 0.2M parameters


def new_project(
    folder: Path,
    files: Mapping[str, Path],
    *,
    sequence_length: int,
    vocabulary: int,
    hidden_size: int,
    layers: int,
    validation_fraction: float,
    seed: int,
    training: Mapping[str, Any],
) -> Config:
    """A config whose model and shards lie in ``folder``. ``files``: task name to the file of its records."""
    config = parse(
        {
            "output_dir": str(folder / "run"),
            "seed": seed,
            "model": {"path": str(folder / "model"), "dtype": "float32"},
            "data": {
                "shards": str(folder / "shards"),
                "sequence_length": sequence_length,
                "validation_fraction": validation_fraction,
                "tasks": [{"name": name, "path": str(file)} for name, file in files.items()],
            },
            "training": {"eval_strategy": "no", **training},
            "logging": {"logging_steps": 50, "report_to": []},
        }
    )
    logging.disable_progress_bar()
    tokenizer = new_tokenizer((text for task in config.data.tasks for text in texts(task)), vocabulary)
    new_model(tokenizer, config, hidden_size, layers).save_pretrained(config.model.path)
    tokenizer.save_pretrained(config.model.path)
    prepare(config, tell=lambda _: None)
    return config


def texts(task: Task) -> Iterator[str]:
    """What the tokenizer of a new model is learnt from."""
    for record in islice(read_records(task), RECORDS_FOR_TOKENIZER):
        yield record.text if isinstance(record, Text) else "\n".join(message.content for message in record.messages)
