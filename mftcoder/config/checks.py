"""What single keys cannot show: settings that contradict each other."""

import re
from collections import Counter
from collections.abc import Iterator

from mftcoder.config.problems import show
from mftcoder.config.schema import (
    COBA_STEPS,
    PROBE_EVERY_STEPS,
    CoBa,
    Config,
    Data,
    Given,
    GivenSampling,
    Probe,
    Training,
)


def contradictions(config: Config) -> list[str]:
    """Every contradiction in ``config``, as ``key: problem`` lines."""
    return [
        *_output_dir(config),
        *_model(config),
        *_tasks(config),
        *_held_out(config),
        *_sampling(config),
        *_schedule(config),
        *_early_stopping(config),
        *_loss(config),
        *_logging(config),
        *_sequence_parallel(config),
        *_export(config),
    ]


def _output_dir(config: Config) -> Iterator[str]:
    if "://" in config.output_dir:
        yield (
            f"output_dir: must be a folder of a file system, since checkpoints need renaming and locks; found "
            f"{show(config.output_dir)}. Train into a disk that all nodes share, and copy the finished run."
        )


def _model(config: Config) -> Iterator[str]:
    if config.model.quantization and config.model.lora is None:
        yield (
            "model.quantization: quantized weights cannot be trained, and model.lora is null. "
            'Add adapters, e.g. "lora": {}, or delete it.'
        )
    lora = config.model.lora
    if lora and lora.initialization == "pissa" and config.model.quantization:
        yield (
            'model.lora.initialization: "pissa" changes the base weights, and model.quantization freezes them in 4 '
            'bits. Choose "zero", or delete model.quantization.'
        )
    if lora and lora.initialization == "pissa" and lora.dora:
        yield (
            'model.lora.initialization: "pissa" and dora cannot be told apart again at export. '
            'Choose "zero", or set dora to false.'
        )
    if lora and lora.target_parameters and lora.dropout > 0:
        yield f"model.lora.dropout: must be 0 with target_parameters; found {lora.dropout:g}."
    if lora and lora.target_parameters and lora.dora:
        yield "model.lora.dora: does not work with target_parameters. Set it to false."

    scaling = config.model.rope_scaling
    if scaling and scaling.type == "default" and scaling.theta is None:
        yield 'model.rope_scaling.theta: missing; the type "default" changes nothing else. Give one, e.g. 1e6.'
    if repeated := [token for token, times in Counter(config.model.new_tokens).items() if times > 1]:
        yield f"model.new_tokens: {show(repeated)} stand there twice. Name each once."


def _tasks(config: Config) -> Iterator[str]:
    for index, task in enumerate(config.data.tasks):
        if (task.path is None) == (task.dataset is None):
            found = "neither" if task.path is None else "both"
            yield f"data.tasks.{index}: must have either path or dataset; found {found}."
    names = [task.name for task in config.data.tasks]
    for name, times in Counter(names).items():
        if times > 1:
            yield f'data.tasks: {times} tasks are named "{name}". Give each task a name of its own.'
    folders = Counter(name.lower() for name in set(names))
    if alike := [name for name in names if folders[name.lower()] > 1]:
        yield f"data.tasks: {show(alike)} would share a folder where file names ignore case. Rename all but one."
    if any(name.startswith("manifest.json") for name in folders):
        yield "data.tasks: no task can be named manifest.json: the shards have a file of that name. Rename it."


def _schedule(config: Config) -> Iterator[str]:
    training = config.training
    if training.min_learning_rate > training.learning_rate:
        yield (
            f"training.min_learning_rate: must be at most training.learning_rate, which is "
            f"{training.learning_rate:g}; found {training.min_learning_rate:g}."
        )
    if training.eval_strategy == "steps" and training.eval_steps is None:
        yield 'training.eval_steps: missing. With "eval_strategy": "steps" it says every how many steps.'
    for number, group in enumerate(training.learning_rates):
        try:
            re.compile(group.pattern)
        except re.error as error:
            yield f"training.learning_rates.{number}.pattern: no regex: {error}; found {show(group.pattern)}."
    for key in ("warmup_steps", "decay_steps"):
        number_of_steps = getattr(training, key)
        if number_of_steps > 1 and not number_of_steps.is_integer():
            yield f"training.{key}: must be a whole number, or a fraction below 1; found {number_of_steps:g}."
    yield from _ignored(training)


def _ignored(training: Training) -> Iterator[str]:
    """Settings that would have no effect beside others."""
    # By value: the config.json that a run writes holds the defaults too.
    every_default = Training.model_fields["save_steps"].default
    for what, strategy, every, ignored in (
        ("eval", training.eval_strategy, training.eval_steps, training.eval_steps is not None),
        ("save", training.save_strategy, training.save_steps, training.save_steps != every_default),
    ):
        if strategy != "steps" and ignored:
            yield (
                f'training.{what}_steps: would have no effect, since training.{what}_strategy is "{strategy}"; '
                f'found {every}. Set the strategy to "steps", or delete it.'
            )
    for key in ("decay_steps", "decay_type"):
        found = getattr(training, key)
        if training.lr_scheduler_type != "warmup_stable_decay" and found != Training.model_fields[key].default:
            yield (
                f"training.{key}: would have no effect, since training.lr_scheduler_type is "
                f'"{training.lr_scheduler_type}"; found {show(found)}. Choose "warmup_stable_decay", or delete it.'
            )
    if training.lr_scheduler_type == "constant" and training.min_learning_rate > 0:
        yield (
            'training.min_learning_rate: would have no effect, since training.lr_scheduler_type is "constant"; '
            f"found {training.min_learning_rate:g}. Choose another schedule, or delete it."
        )


def _early_stopping(config: Config) -> Iterator[str]:
    if config.training.early_stopping_patience is None:
        return
    if config.training.eval_strategy == "no":
        yield (
            'training.early_stopping_patience: needs validation, but training.eval_strategy is "no". '
            'Set it to "steps" or "epoch".'
        )
    if not config.data.holds_out:
        yield (
            "training.early_stopping_patience: needs validation samples, but data.validation_fraction is 0. "
            "Hold some out, e.g. 0.05."
        )


def _held_out(config: Config) -> Iterator[str]:
    default = Data.model_fields["validation_fraction"].default
    if config.data.validation_samples and config.data.validation_fraction != default:
        yield (
            "data.validation_samples: takes the place of data.validation_fraction, which is "
            f"{config.data.validation_fraction:g}. Delete one of them."
        )
    for number, task in enumerate(config.data.tasks):
        split = task.dataset.validation_split if task.dataset else None
        ways = {
            "validation": task.validation,
            "validation_fraction": task.validation_fraction,
            "validation_samples": task.validation_samples,
            "dataset.validation_split": split,
        }
        given = [name for name, value in ways.items() if value is not None]
        if len(given) > 1:
            yield f"data.tasks.{number}: {' and '.join(given)} exclude each other. Delete all but one."


def _sampling(config: Config) -> Iterator[str]:
    sampling, names = config.data.sampling, [task.name for task in config.data.tasks]
    if isinstance(sampling, GivenSampling):
        if unknown := [name for name in sampling.shares if name not in names]:
            yield f"data.sampling.shares: {show(unknown)} are no tasks; data.tasks has {show(names)}."
        if missing := [name for name in names if name not in sampling.shares]:
            yield f"data.sampling.shares: {show(missing)} have none. Give every task of data.tasks a share."


def _loss(config: Config) -> Iterator[str]:
    weighting, names = config.loss.weighting, [task.name for task in config.data.tasks]
    for section, key in (
        ("weighting", "weights"),
        ("weighting", "minimum_losses"),
        ("weighting", "prior"),
        ("weighting", "target_losses"),
        ("reduction", "alpha"),
    ):
        given = getattr(getattr(config.loss, section), key, {})
        if isinstance(given, dict) and (unknown := [name for name in given if name not in names]):
            yield f"loss.{section}.{key}: {show(unknown)} are no tasks; data.tasks has {show(names)}."
    if isinstance(weighting, Given):
        if missing := [name for name in names if name not in weighting.weights]:
            yield f"loss.weighting.weights: {show(missing)} have none. Give every task of data.tasks a weight."
        if not any(weighting.weights.values()):
            yield "loss.weighting.weights: all are 0. At least one must be greater."
    if weighting.type.startswith("gradnorm") and config.model.dtype == "float16":
        yield (
            f'loss.weighting: {weighting.type} reads gradients, which "float16" multiplies by a scale that changes. '
            'Set model.dtype to "bfloat16".'
        )
    floor = getattr(weighting, "floor", 0.0)
    if len(names) > 1 and len(names) * floor >= 1:
        yield f"loss.weighting.floor: must be less than 1/K with K = {len(names)} tasks; found {floor:g}."
    probe = getattr(weighting, "probe", None)
    if probe and not config.data.holds_out:
        yield (
            f"loss.weighting: {weighting.type} watches validation losses, but data.validation_fraction is 0. "
            "Hold some samples out, e.g. 0.05."
        )
    if config.loss.guard and (probe is None or getattr(weighting, "preset", "efficient") != "efficient"):
        yield (
            "loss.guard: needs a weighting that looks at the whole probe (coba, multiplicative or one that ends in "
            f"_valid); found {weighting.type}."
        )
    if config.data.sampling.type == "weighted" and config.loss.denominator == "epoch":
        yield (
            'loss.denominator: "epoch" counts on every task giving the same share of rows all along, but data.sampling '
            'is "weighted". Choose "step", or another sampling.'
        )
    if isinstance(weighting, CoBa):
        yield from _coba(weighting)


def _coba(coba: CoBa) -> Iterator[str]:
    if coba.preset != "efficient" and coba.probe != Probe():
        yield (
            f'loss.weighting.probe: the preset "{coba.preset}" looks at one mini-batch of the held-out rows at every '
            "step. Delete it."
        )
    window, warmup = (
        default if given is None else given
        for given, default in zip((coba.window_steps, coba.warmup_steps), COBA_STEPS[coba.preset], strict=True)
    )
    every = coba.probe.every_steps or PROBE_EVERY_STEPS
    if coba.preset == "efficient" and coba.window_steps is not None and every >= window:
        yield (
            f"loss.weighting.probe.every_steps: must be less than loss.weighting.window_steps, which is "
            f"{window}, so that a slope has two points; found {every}."
        )
    if coba.preset == "released" and window < warmup:
        yield (
            f'loss.weighting.window_steps: with the preset "released" it must be at least warmup_steps, which is '
            f"{warmup}; found {window}."
        )


def _logging(config: Config) -> Iterator[str]:
    profile = config.logging.profile
    if profile and profile.steps[0] > profile.steps[1]:
        yield f"logging.profile.steps: must be the first and the last step; found {show(profile.steps)}."


def _sequence_parallel(config: Config) -> Iterator[str]:
    """Where a part of a row is not enough, and that cannot be seen later."""
    training = config.training
    if training.sequence_parallel_size == 1:
        return
    reason = "beside training.sequence_parallel_size, whose ranks see parts of rows only"
    if training.neftune_noise_alpha is not None:
        yield f"training.neftune_noise_alpha: does not work {reason}. Delete it."
    if training.torch_compile:
        yield f"training.torch_compile: does not work {reason}. Set it to false."
    if config.loss.weighting.type.startswith("gradnorm"):
        yield f"loss.weighting: {config.loss.weighting.type} does not work {reason}. Choose another."


def _export(config: Config) -> Iterator[str]:
    settings = config.export
    if settings.push_every and settings.push_to is None:
        yield 'export.push_to: push_every needs a repository to push to. Name it, "ORG/NAME", or delete push_every.'
    if settings.push_to and settings.push_every is None:
        yield 'export.push_every: says when to push to push_to; choose "save" or "end".'
    if settings.adapter and config.model.lora is None:
        yield "export.adapter: model.lora is null, so there is no adapter. Delete it."
