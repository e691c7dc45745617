"""``mftcoder train``: from a config to a finished run."""

import contextlib
import os
from pathlib import Path
from typing import Any

from transformers import PretrainedConfig

from mftcoder.config.deepspeed import resolve, zero_stage
from mftcoder.config.schema import Config, GradNorm, GradNormValid
from mftcoder.data.chat import check_vocabulary, load_tokenizer
from mftcoder.data.location import is_remote
from mftcoder.data.manifest import changed_sources, check_matches
from mftcoder.data.prepare import prepare, shards_path
from mftcoder.data.shards import Shards, Verify
from mftcoder.distributed import Group, wait
from mftcoder.engine.protocol import Engine
from mftcoder.errors import MftcoderError
from mftcoder.losses.guard import OverfitGuard
from mftcoder.losses.reductions import build_reduction
from mftcoder.losses.weighting import build
from mftcoder.models.adapter import num_parameters
from mftcoder.models.check import check_model
from mftcoder.models.load import load_token_nll
from mftcoder.models.model_config import check_isolation, check_length, load_config
from mftcoder.models.quantization import check_unquantized
from mftcoder.models.sequence_parallel import check_sequence_parallel
from mftcoder.models.task_gradients import check_head_gradients
from mftcoder.training.checkpoint import Checkpoint, reading, verify_files
from mftcoder.training.determinism import deterministic
from mftcoder.training.early_stopping import EarlyStopping
from mftcoder.training.flops import Hardware
from mftcoder.training.launcher import Launcher
from mftcoder.training.loop import train_loop
from mftcoder.training.metrics import Metrics, cut
from mftcoder.training.output import SECONDS_TO_SEE, check_shared, open_output, set_aside_later
from mftcoder.training.profiling import Profiling, check_ranks
from mftcoder.training.pushing import Pushing, check_push
from mftcoder.training.ranks import RankTimes
from mftcoder.training.record import describe
from mftcoder.training.resume import check_identity, identity, with_rows_of
from mftcoder.training.rows import (
    expected_units,
    make_loader,
    make_schedule,
    probe_rows,
    total_steps,
    validation_rows,
    weighted_sampling,
)
from mftcoder.training.signals import Requests
from mftcoder.training.state import Run, restore
from mftcoder.training.trackers import check_installed
from mftcoder.training.trained import find_start
from mftcoder.training.watchdog import Watchdog

TOKENIZE_TIMEOUT_SECONDS = float(os.environ.get("MFTCODER_TOKENIZE_TIMEOUT", 24 * 3600))


def train(config: Config, *, resume: str | None = None, verify: Verify = "quick") -> None:
    """Run ``config`` on the ranks that the launcher started.

    Args:
        resume: go on from the "last", "best" or "step-N" of the complete checkpoints, if there is any.
        verify: how the shards are checked before; see ``Shards.open``.
    """
    from mftcoder.engine.deepspeed import process_group

    launcher, output_dir = Launcher(), Path(config.output_dir)
    pushing = None
    ranks_per_row = config.training.sequence_parallel_size
    with (
        deterministic(config.training.full_determinism),
        Requests().listening() as requests,
        process_group(ranks_per_row) as group,
        Watchdog(group, config.training.watchdog_seconds, output_dir, launcher).watching() as watchdog,
        contextlib.ExitStack() as held,
    ):
        group.on_main(lambda: check_installed(config))
        group.on_main(lambda: check_push(config))
        checkpoint = group.on_main(lambda: open_output(output_dir, held, resume=resume))
        check_shared(output_dir, "output_dir", group)
        if checkpoint:
            config = group.on_main(lambda: with_rows_of(config, checkpoint, group.data_size))
        _ensure_shards(config, group)
        if verify == "full" and os.environ.get("LOCAL_RANK", "0") == "0":  # the ranks of a host read the same files
            Shards.open(shards_path(config), verify)
        run = set_up(config, group, checkpoint)
        run.requests, run.watchdog = requests, watchdog
        run.engine.model.register_forward_hook(watchdog.beat)
        if config.export.push_every and group.is_main:
            run.pushing = pushing = Pushing(config, run.metrics.tell)
        try:
            with requests.acted_upon(), watchdog.taking_steps():
                train_loop(run)
        except BaseException:
            if pushing:
                pushing.stop()
            raise
        finally:
            run.profiling.close()
            run.metrics.close()
        if pushing:
            pushing.ended()
    if pushing:  # the other ranks may leave
        pushing.wait()


def _ensure_shards(config: Config, group: Group) -> None:
    """Tokenize on rank 0 if the shards are not there; the others wait without a collective, which would time out."""
    folder = shards_path(config)
    manifest = folder / "manifest.json"
    if not group.on_main(manifest.exists):
        if not is_remote(folder):
            check_shared(folder.parent, "data.shards", group)
        if group.is_main:
            prepare(config, tell=print)
        else:
            group.wait_until(manifest.exists, f"rank 0 to tokenize into {folder}", TOKENIZE_TIMEOUT_SECONDS)
    if group.size > 1 and (lacking := group.without(wait(manifest.exists, SECONDS_TO_SEE))):
        group.on_main(lambda: _refuse(f"data.shards: rank 0 has {folder}, but not {lacking}. Copy or share it."))


def _check_same_shards(shards: Shards, group: Group) -> None:
    """MftcoderError if a host has other shards than rank 0."""
    fingerprint = group.on_main(lambda: shards.manifest.fingerprint)
    if group.size > 1 and (other := group.without(shards.manifest.fingerprint == fingerprint)):
        group.on_main(lambda: _refuse(f"data.shards: {shards.folder} holds other shards on {other}. Copy rank 0's."))


def _refuse(message: str) -> None:
    raise MftcoderError(message)


def set_up(config: Config, group: Group, checkpoint: Checkpoint | None) -> Run:
    """A run that is ready for ``train_loop``: at its start, or where ``checkpoint`` left it. The shards exist."""
    training, output_dir = config.training, Path(config.output_dir)
    shards = Shards.open(shards_path(config))
    _check_same_shards(shards, group)
    model_config = load_config(config.model)
    settings = resolve(config, world_size=group.size, hidden_size=model_config.get_text_config().hidden_size)
    group.on_main(lambda: _check(config, shards, model_config, settings))
    group.on_main(lambda: check_ranks(config.logging.profile, group.size))
    tasks, schedule = shards.tasks, make_schedule(config, shards, group.size)
    last_step = total_steps(config, schedule)
    started_on = checkpoint.state.get("started_on") if checkpoint else None
    agreed = identity(config, settings, shards.manifest.fingerprint, tasks, schedule.rows_per_step, group, started_on)
    start = None if checkpoint else group.on_main(lambda: find_start(config))
    if start:
        verify_files(start, group)
    shared_anew = _make_way(checkpoint, agreed, output_dir, group) if checkpoint else None
    group.on_main(lambda: cut(output_dir, checkpoint.step if checkpoint else -1))

    engine, parameters = load_engine(config, settings, group)
    probe = probe_rows(config, shards, schedule.rows_per_step, group)
    looks = {"num_mini_batches": len(probe.mini_batches), "every_steps": probe.every_steps} if probe else {}
    weighting = build(config.loss.weighting, tasks, **looks)
    if isinstance(config.loss.weighting, GradNorm | GradNormValid):
        engine.model.watch_gradients(len(tasks), config.loss.weighting.shared)
    reduction = build_reduction(config.loss.reduction, tasks)
    guard, by_epoch = config.loss.guard, config.denominator == "epoch"
    hardware = Hardware.of(group, engine.model, config.logging.peak_tflops)
    metrics = Metrics(
        config,
        tasks,
        hardware,
        first_step=checkpoint.step + 1 if checkpoint else 0,
        total_steps=last_step,
        enabled=group.is_main,
        ranks=RankTimes(group) if group.size > 1 else None,
    )
    run = Run(
        config=config,
        tasks=tasks,
        group=group,
        engine=engine,
        reduction=reduction,
        weighting=weighting,
        guard=OverfitGuard(tasks, patience=guard.patience, tolerance=guard.tolerance) if guard else None,
        sampling=weighted_sampling(config, schedule),
        early_stopping=EarlyStopping(training.early_stopping_patience, training.early_stopping_unit),
        metrics=metrics,
        profiling=Profiling(config.logging.profile, output_dir, group, metrics.tell),
        schedule=schedule,
        train_loader=make_loader(config, shards, "train", group),
        probe=probe,
        validation=validation_rows(config, shards, group),
        total_steps=last_step,
        expected_units=expected_units(shards, reduction.unit, schedule) if by_epoch else None,
        identity=agreed,
    )
    if checkpoint:
        _go_on(run, checkpoint, shared_anew)
    elif start:
        metrics.tell(f"weights from {start.path}; all else begins anew")
        engine.load_by_name(start.path, weights_only=True)
    if group.is_main:
        describe(run, shards.manifest, parameters, settings, hardware)
    return run


def _make_way(checkpoint: Checkpoint, agreed: dict[str, Any], output_dir: Path, group: Group) -> str | None:
    """Check ``checkpoint``, and set aside what came after it; returns how otherwise it was divided among ranks."""
    shared_anew = group.on_main(lambda: check_identity(checkpoint, agreed))
    verify_files(checkpoint, group)
    group.on_main(lambda: set_aside_later(output_dir, checkpoint.step))
    return shared_anew


def _go_on(run: Run, checkpoint: Checkpoint, shared_anew: str | None) -> None:
    """Bring ``run`` to where ``checkpoint`` left it; ``shared_anew``: how otherwise that was divided among ranks."""
    if shared_anew:
        run.metrics.tell(f"divided among the ranks anew, equal up to rounding: {shared_anew}")
        run.engine.load_by_name(checkpoint.path, weights_only=False)
    else:
        run.engine.load(checkpoint.path)
    with reading(checkpoint):
        restore(run, dict(checkpoint.state))


def _check(config: Config, shards: Shards, model_config: PretrainedConfig, settings: dict[str, Any]) -> None:
    """MftcoderError if shards, model and settings do not go together."""
    from mftcoder.engine.settings import check_settings

    tokenizer = load_tokenizer(config.model, config.data.chat)
    check_matches(shards.manifest, config, tokenizer)
    check_vocabulary(tokenizer, model_config, config.model.new_tokens)
    check_unquantized(model_config, config.model.path)
    check_length(config, model_config)
    check_isolation(config, model_config)
    check_sequence_parallel(config, model_config)
    if getattr(config.loss.weighting, "shared", None) == "lm_head":
        check_head_gradients(model_config, len(config.data.tasks))
    check_settings(settings)
    if changed := changed_sources(shards.manifest, config):
        print(
            f"data.shards: {shards.folder} was made before the sources changed: {', '.join(changed)}. "
            "To train on them as they are now: mftcoder tokenize --overwrite"
        )


def load_engine(config: Config, settings: dict[str, Any], group: Group) -> tuple[Engine, tuple[int, int]]:
    """The engine around the base model, once that is proved to be understood; and its (all, trainable) parameters."""
    from mftcoder.engine.deepspeed import DeepSpeedEngine, partitioned_loading

    if config.model.dtype == "float16" and group.device.type == "cpu":
        raise MftcoderError(
            'model.dtype: "float16" trains on a GPU only, and there is none. Use "bfloat16" or "float32".'
        )
    with partitioned_loading(settings) if zero_stage(settings) == 3 else contextlib.nullcontext():
        model = load_token_nll(config.model, config.training, seed=config.seed)
    check_sequence_parallel(config, model.causal.config, model.attention.backend if model.attention else None)
    parameters = num_parameters(model)
    engine = DeepSpeedEngine(model, config.training, settings, group)
    isolate = config.data.packing.isolate_samples and config.data.packing.mode == "pack"
    engine.train(False)
    check_model(engine.model, lambda batch: engine(batch)[0], device=group.device, isolate_samples=isolate)
    engine.train(True)
    return engine, parameters
