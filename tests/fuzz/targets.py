"""All targets: name to what prepares one in a folder of its own, and gives what runs an input drawn there."""

from collections.abc import Callable
from pathlib import Path
from random import Random

import configs_targets
import data_targets
import run_targets

TARGETS: dict[str, Callable[[Path], Callable[[Random], None]]] = {
    "configs": configs_targets.configs,
    "deepspeed": configs_targets.deepspeed_settings,
    "predecessors": configs_targets.predecessors,
    "constructs": configs_targets.constructs,
    "noise": configs_targets.noise,
    "records": data_targets.records,
    "tables": data_targets.tables,
    "templates": data_targets.templates,
    "shards": data_targets.shards,
    "samples": data_targets.samples,
    "runs": run_targets.runs,
    "losses": run_targets.losses,
    "checkpoints": run_targets.checkpoints,
}
# Of a campaign; what is cheap, and what people write by hand, comes more often.
SHARES = {
    "configs": 14,
    "deepspeed": 2,
    "predecessors": 14,
    "constructs": 10,
    "noise": 10,
    "records": 10,
    "tables": 6,
    "templates": 5,
    "shards": 5,
    "samples": 2,
    "runs": 7,
    "losses": 7,
    "checkpoints": 8,
}
