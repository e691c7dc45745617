"""What a run is, in files beside its metrics: config.json, deepspeed.json, run.json."""

import re
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import try_to_load_from_cache

from mftcoder import __version__
from mftcoder.config.deepspeed import zero_stage
from mftcoder.config.schema import PROBE_EVERY_STEPS, Model
from mftcoder.data.manifest import Manifest
from mftcoder.data.mixture import epoch_note
from mftcoder.data.summary import notes as notes_of
from mftcoder.models.quantization import num_quantized
from mftcoder.training.checkpoint import write_json
from mftcoder.training.flops import Hardware
from mftcoder.training.state import Run
from mftcoder.versions import versions


def describe(
    run: Run, manifest: Manifest, parameters: tuple[int, int], settings: Mapping[str, Any], hardware: Hardware
) -> None:
    """Write the files, and tell the user the same in a few lines. ``parameters``: all, and trainable ones."""
    device = torch.cuda.get_device_name() if run.group.device.type == "cuda" else "cpu"
    notes = [f"{task.name}: {note}" for task in manifest.tasks for note in notes_of(task, manifest.inputs.settings)]
    run.metrics.tell(
        f"{parameters[1]:,} of {parameters[0]:,} parameters train; ZeRO stage {zero_stage(dict(settings))}, "
        f"{run.group.size} rank(s), {run.schedule.rows_per_step} rows per step, "
        f"{run.schedule.steps_per_epoch} steps per epoch, {run.total_steps} steps; "
        f"attention {run.engine.model.attention}"
    )
    for line in chain(_of_the_device(run, device, hardware), notes, _of_the_weighting(run)):
        run.metrics.tell(line)
    tasks = {
        task.name: task.splits["train"].model_dump(mode="json", exclude={"files"})
        | {"validation_samples": task.splits["validation"].samples if "validation" in task.splits else 0}
        for task in manifest.tasks
    }
    attention = run.engine.model.attention
    content = {
        "mftcoder": __version__,
        "versions": versions(),
        "world_size": run.group.size,
        "device": device,
        "attention": attention and {"backend": attention.backend, "reason": attention.reason},
        "peak_tflops": hardware.peak_tflops,
        "rows_per_step": run.schedule.rows_per_step,
        "steps_per_epoch": run.schedule.steps_per_epoch,
        "total_steps": run.total_steps,
        "num_parameters": parameters[0],
        "trainable_parameters": parameters[1],
        "model": {"commit": _commit(run.config.model)},
        "data": {"fingerprint": manifest.fingerprint, "commits": _commits(manifest), "tasks": tasks},
        "notes": notes,
    }
    write_json(run.output_dir / "config.json", run.config.model_dump(mode="json"))
    write_json(run.output_dir / "deepspeed.json", settings)
    write_json(run.output_dir / "run.json", content)


def _of_the_device(run: Run, device: str, hardware: Hardware) -> Iterator[str]:
    if quantization := run.config.model.quantization:
        yield f"{num_quantized(run.engine.model):,} parameters are held in {quantization.type}"
    if device != "cpu" and hardware.peak_tflops is None:
        yield f"the peak rate of {device} is not known, so mfu stays empty: set logging.peak_tflops"
    if run.config.training.full_determinism and device != "cpu":
        yield "training.full_determinism: deterministic algorithms only; slower, often by 5 to 20 %"


def _of_the_weighting(run: Run) -> Iterator[str]:
    yield epoch_note(run.config.data.sampling, run.tasks, run.schedule.mixture)
    if run.probe:
        sizes, every = [len(rows) for rows in run.probe.mini_batches], f"every {run.probe.every_steps} steps"
        if not any(sizes):
            yield "probe: no task has held-out samples, so the weighting has nothing to watch"
        elif len(sizes) > 1:
            yield f"probe: {len(sizes)} mini-batches of {min(sizes)} to {max(sizes)} rows in turn {every}"
        else:
            yield f"probe: {sizes[0]} row(s) {every}"
        if run.probe.sparse:
            yield f"probe: to look at a row of every task every {PROBE_EVERY_STEPS} steps would cost over 5 %"
    if (warmup := getattr(run.weighting, "warmup_steps", 0)) >= run.total_steps:
        yield f"loss.weighting: weights stay uniform, since warmup_steps is {warmup:,}"


def _commit(model: Model) -> str | None:
    """The commit on the hub that the base model was loaded from; None of a local folder."""
    if Path(model.path).is_dir():
        return None
    file = try_to_load_from_cache(
        model.path, "config.json", revision=model.revision
    )  # .../snapshots/COMMIT/config.json
    return Path(file).parent.name if isinstance(file, str) else None


def _commits(manifest: Manifest) -> dict[str, str]:
    """Of each task that comes from a dataset on the hub, the commit: files of one lie in a folder named by it."""
    found = {
        task.name: re.search(r"/datasets--[^/]+/snapshots/([0-9a-f]{40})/", file.path)
        for task in manifest.inputs.tasks
        for file in task.files
    }
    return {name: match[1] for name, match in found.items() if match}
