"""``mftcoder train``: from a config to a finished run."""

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from mftcoder import __version__
from mftcoder.config.deepspeed import resolve, zero_stage
from mftcoder.config.schema import Config
from mftcoder.data.chat import load_tokenizer
from mftcoder.data.loader import Loader, Schedule
from mftcoder.data.manifest import Manifest, check_matches
from mftcoder.data.mixture import Mixture
from mftcoder.data.prepare import notes as notes_of
from mftcoder.data.prepare import prepare, shards_path
from mftcoder.data.shards import Shards
from mftcoder.distributed import Group
from mftcoder.errors import MftcoderError
from mftcoder.losses.weighting import build
from mftcoder.models.adapter import num_parameters
from mftcoder.models.check import check_model
from mftcoder.models.load import load_config, load_token_nll, maximum_length
from mftcoder.training.checkpoint import Checkpoint, complete_checkpoints, verify_files, write_json
from mftcoder.training.early_stopping import EarlyStopping
from mftcoder.training.loop import Run, restore, train_loop
from mftcoder.training.metrics import Metrics, cut
from mftcoder.training.probe import probe_rows
from mftcoder.training.resume import check_identity, identity
from mftcoder.versions import versions

TOKENIZE_TIMEOUT_SECONDS = float(os.environ.get("MFTCODER_TOKENIZE_TIMEOUT", 24 * 3600))


def train(config: Config, *, resume: bool = False) -> None:
    """Run ``config`` on the ranks that the launcher started. ``resume`` goes on from the last complete checkpoint."""
    from mftcoder.engine.deepspeed import process_group

    with process_group() as group:
        checkpoint = group.on_main(lambda: _open_output(config, resume=resume))
        _ensure_shards(config, group)
        run = _set_up(config, group, checkpoint)
        try:
            train_loop(run)
        finally:
            run.metrics.close()


def _open_output(config: Config, *, resume: bool) -> Checkpoint | None:
    """The checkpoint to resume from; MftcoderError if output_dir is in use and ``resume`` was not asked for."""
    output_dir = Path(config.output_dir)
    used = (
        [path.name for path in output_dir.glob("*") if not path.name.startswith("shards")]
        if output_dir.exists()
        else []
    )
    if used and not resume:
        raise MftcoderError(
            f"output_dir: {output_dir} is not empty; found {', '.join(sorted(used)[:3])}. "
            "Add --resume to go on with this run, or choose a new output_dir."
        )
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MftcoderError(f"output_dir: cannot make {output_dir}: {error.strerror}. Choose another one.") from error
    found = complete_checkpoints(output_dir) if resume else []
    if resume:
        print(
            f"resuming from {found[-1].path}" if found else f"{output_dir}: no complete checkpoint yet; starting anew"
        )
    return found[-1] if found else None


def _ensure_shards(config: Config, group: Group) -> None:
    """Tokenize on rank 0 if the shards are not there; the others wait without a collective, which would time out."""
    folder = shards_path(config)
    if (folder / "manifest.json").exists():
        return
    if group.is_main:
        prepare(config, tell=print)
    else:
        group.wait_until(
            (folder / "manifest.json").exists, f"rank 0 to tokenize into {folder}", TOKENIZE_TIMEOUT_SECONDS
        )


def _set_up(config: Config, group: Group, checkpoint: Checkpoint | None) -> Run:
    from mftcoder.engine.deepspeed import DeepSpeedEngine, partitioned_loading

    training, output_dir = config.training, Path(config.output_dir)
    shards = Shards.open(shards_path(config))
    group.on_main(lambda: check_matches(shards.manifest, config, load_tokenizer(config.model, config.data.chat)))
    model_config = load_config(config.model)
    check_length(config, maximum_length(model_config))
    settings = resolve(config, world_size=group.size, hidden_size=model_config.get_text_config().hidden_size)
    tasks, schedule = shards.tasks, make_schedule(config, shards, group.size)
    total_steps = training.max_steps if training.max_steps > 0 else _steps(training.num_train_epochs, schedule)
    agreed = identity(config, settings, shards.manifest.fingerprint, tasks, schedule.rows_per_step, group.size)
    if checkpoint:
        group.on_main(lambda: check_identity(checkpoint, agreed))
        verify_files(checkpoint, group)
        group.on_main(lambda: cut(output_dir, checkpoint.step))

    with partitioned_loading(settings) if zero_stage(settings) == 3 else contextlib.nullcontext():
        model = load_token_nll(
            config.model, activation_checkpointing=training.activation_checkpointing, seed=config.seed
        )
    parameters = num_parameters(model)
    engine = DeepSpeedEngine(model, training, settings, group)
    isolate = config.data.packing.isolate_samples and config.data.packing.mode == "pack"
    engine.train(False)
    check_model(engine.model, lambda batch: engine(batch)[0], device=group.device, isolate_samples=isolate)
    engine.train(True)

    run = Run(
        config=config,
        tasks=tasks,
        group=group,
        engine=engine,
        weighting=build(config.loss.weighting, tasks),
        early_stopping=EarlyStopping(training.early_stopping_patience, training.early_stopping_unit),
        metrics=Metrics(output_dir, tasks, config.logging, total_steps, enabled=group.is_main),
        schedule=schedule,
        train_loader=_loader(config, shards, "train", group),
        probe=_probe(config, shards, schedule.rows_per_step, group),
        validation=_validation(config, shards, group),
        total_steps=total_steps,
        identity=agreed,
    )
    if checkpoint:
        engine.load(checkpoint.path)
        restore(run, dict(checkpoint.state))
    if group.is_main:
        _describe(run, shards.manifest, parameters, settings)
    return run


def check_length(config: Config, longest: int | None) -> None:
    """MftcoderError if rows are longer than the model can take."""
    if longest and config.data.sequence_length > longest:
        raise MftcoderError(
            f"data.sequence_length: must be at most {longest} (the model's max_position_embeddings); "
            f"found {config.data.sequence_length}. Lower it and tokenize again."
        )


def make_schedule(config: Config, shards: Shards, world_size: int) -> Schedule:
    """Which rows make up which step, on ``world_size`` ranks."""
    rows = tuple(len(shards.rows(task, "train")) for task in shards.tasks)
    training = config.training
    per_step = training.per_device_train_batch_size * training.gradient_accumulation_steps * world_size
    return Schedule(Mixture(rows, config.seed), per_step)


def _steps(epochs: float, schedule: Schedule) -> int:
    return max(1, round(epochs * schedule.steps_per_epoch))


def _loader(config: Config, shards: Shards, split: str, group: Group) -> Loader:
    packing = config.data.packing
    return Loader(
        tasks=[shards.rows(task, split) for task in shards.tasks],
        rank=group.rank,
        num_ranks=group.size,
        isolate_samples=packing.isolate_samples,
        length=config.data.sequence_length if packing.mode == "pad_to_max" else None,
    )


def _validation(config: Config, shards: Shards, group: Group) -> tuple[Loader, list[tuple[int, int]]]:
    loader = _loader(config, shards, "validation", group)
    return loader, [(task, row) for task, rows in enumerate(loader.tasks) for row in range(len(rows))]


def _probe(
    config: Config, shards: Shards, rows_per_step: int, group: Group
) -> tuple[Loader, list[tuple[int, int]], int] | None:
    settings = getattr(config.loss.weighting, "probe", None)
    if settings is None:
        return None
    loader = _loader(config, shards, "probe", group)
    train = [shards.manifest.task(name).splits["train"] for name in shards.tasks]
    tokens_per_step = rows_per_step * sum(t.tokens for t in train) / sum(t.rows for t in train)
    return loader, probe_rows(loader.tasks, settings, tokens_per_step), settings.every_steps


def _describe(run: Run, manifest: Manifest, parameters: tuple[int, int], settings: Mapping[str, Any]) -> None:
    """config.json, deepspeed.json and run.json, and the same in a few lines."""
    write_json(run.output_dir / "config.json", run.config.model_dump(mode="json"))
    write_json(run.output_dir / "deepspeed.json", settings)
    notes = [f"{task.name}: {note}" for task in manifest.tasks for note in notes_of(task, manifest.inputs.settings)]
    run.metrics.tell(
        f"{parameters[1]:,} of {parameters[0]:,} parameters train; ZeRO stage {zero_stage(dict(settings))}, "
        f"{run.group.size} rank(s), {run.schedule.rows_per_step} rows per step, "
        f"{run.schedule.steps_per_epoch} steps per epoch, {run.total_steps} steps; "
        f"attention {run.engine.model.causal.config._attn_implementation}"
    )
    for note in notes:
        run.metrics.tell(note)
    if run.probe:
        run.metrics.tell(f"probe: {len(run.probe[1])} rows every {run.probe[2]} steps")
    tasks = {
        task.name: task.splits["train"].model_dump(mode="json", exclude={"files"})
        | {"validation_samples": task.splits["validation"].samples if "validation" in task.splits else 0}
        for task in manifest.tasks
    }
    content = {
        "mftcoder": __version__,
        "versions": versions(),
        "world_size": run.group.size,
        "device": torch.cuda.get_device_name() if run.group.device.type == "cuda" else "cpu",
        "rows_per_step": run.schedule.rows_per_step,
        "steps_per_epoch": run.schedule.steps_per_epoch,
        "total_steps": run.total_steps,
        "num_parameters": parameters[0],
        "trainable_parameters": parameters[1],
        "data": {"fingerprint": manifest.fingerprint, "tasks": tasks},
        "notes": notes,
    }
    write_json(run.output_dir / "run.json", content)
