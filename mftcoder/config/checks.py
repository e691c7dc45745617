"""What single keys cannot show: settings that contradict each other."""

from collections import Counter
from collections.abc import Iterator

from mftcoder.config.problems import show
from mftcoder.config.schema import CoBa, Config, Given


def contradictions(config: Config) -> list[str]:
    """Every contradiction in ``config``, as ``key: problem`` lines."""
    return [*_tasks(config), *_schedule(config), *_early_stopping(config), *_weighting(config)]


def _tasks(config: Config) -> Iterator[str]:
    for name, times in Counter(task.name for task in config.data.tasks).items():
        if times > 1:
            yield f'data.tasks: {times} tasks are named "{name}". Give each task a name of its own.'


def _schedule(config: Config) -> Iterator[str]:
    training = config.training
    if training.min_learning_rate > training.learning_rate:
        yield (
            f"training.min_learning_rate: must be at most training.learning_rate, which is "
            f"{training.learning_rate:g}; found {training.min_learning_rate:g}."
        )
    if training.warmup_steps > 1 and not training.warmup_steps.is_integer():
        yield f"training.warmup_steps: must be a whole number, or a fraction below 1; found {training.warmup_steps:g}."
    if training.eval_strategy == "steps" and training.eval_steps is None:
        yield 'training.eval_steps: missing. With "eval_strategy": "steps" it says every how many steps.'


def _early_stopping(config: Config) -> Iterator[str]:
    if config.training.early_stopping_patience is None:
        return
    if config.training.eval_strategy == "no":
        yield (
            'training.early_stopping_patience: needs validation, but training.eval_strategy is "no". '
            'Set it to "steps" or "epoch".'
        )
    if config.data.validation_fraction == 0:
        yield (
            "training.early_stopping_patience: needs validation samples, but data.validation_fraction is 0. "
            "Hold some out, e.g. 0.05."
        )


def _weighting(config: Config) -> Iterator[str]:
    weighting, names = config.loss.weighting, [task.name for task in config.data.tasks]
    if isinstance(weighting, Given):
        if missing := [name for name in names if name not in weighting.weights]:
            yield f"loss.weighting.weights: {show(missing)} have none. Give every task of data.tasks a weight."
        if unknown := [name for name in weighting.weights if name not in names]:
            yield f"loss.weighting.weights: {show(unknown)} are no tasks; data.tasks has {show(names)}."
        if not any(weighting.weights.values()):
            yield "loss.weighting.weights: all are 0. At least one must be greater."
    if isinstance(weighting, CoBa):
        yield from _coba(config, weighting, len(names))


def _coba(config: Config, coba: CoBa, num_tasks: int) -> Iterator[str]:
    if num_tasks > 1 and num_tasks * coba.floor >= 1:
        yield (f"loss.weighting.floor: must be less than 1/K with K = {num_tasks} tasks; found {coba.floor:g}.")
    if config.data.validation_fraction == 0:
        yield (
            "loss.weighting: coba watches validation losses, but data.validation_fraction is 0. "
            "Hold some samples out, e.g. 0.05."
        )
    if coba.probe.every_steps >= coba.window_steps:
        yield (
            f"loss.weighting.probe.every_steps: must be less than loss.weighting.window_steps, which is "
            f"{coba.window_steps}, so that a slope has two points; found {coba.probe.every_steps}."
        )
