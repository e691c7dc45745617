"""Everything about a run that can be checked before it starts, on a machine without its GPUs."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from mftcoder.config.deepspeed import zero_stage
from mftcoder.config.schema import Config
from mftcoder.data.chat import check_vocabulary, load_tokenizer, new_token_pieces
from mftcoder.data.encoding import Encoder
from mftcoder.data.making import first_problems
from mftcoder.data.manifest import changed_sources, check_matches
from mftcoder.data.mixture import epoch_note
from mftcoder.data.prepare import shards_path
from mftcoder.data.reading import Part
from mftcoder.data.shards import Shards, Verify
from mftcoder.data.sources import held_out_files, source_files
from mftcoder.data.task_records import record_format
from mftcoder.errors import MftcoderError
from mftcoder.models.families import adapter_of, tokens_of
from mftcoder.models.footprint import UnforeseeableError
from mftcoder.models.model_config import check_isolation, check_length, is_text_part, load_config, maximum_length
from mftcoder.models.quantization import check_unquantized
from mftcoder.models.sequence_parallel import check_sequence_parallel
from mftcoder.models.task_gradients import check_head_gradients
from mftcoder.training.memory import GIB, plan, settings_of, smaller_plans
from mftcoder.training.profiling import check_ranks
from mftcoder.training.rows import make_schedule, rows_per_step
from mftcoder.training.trackers import check_installed


@dataclass(frozen=True)
class Check:
    """One thing that was looked at: what was found, or what is wrong."""

    name: str
    ok: bool
    finding: str


def validate(
    config: Config, world_size: int = 1, verify: Verify = "quick", gpu_gib: float | None = None
) -> list[Check]:
    """Run every check of ``CHECKS`` on ``config``, as it would run on ``world_size`` ranks. Writes nothing.

    With ``verify`` "full" the shards are read whole. With ``gpu_gib``, the memory of a GPU in GiB, a run that would not
    fit into it is a problem.
    """
    checks, more = [], {"contents": _contents} if verify == "full" else {}
    for name, check in (CHECKS | more | {"memory": partial(_memory, gpu_gib=gpu_gib)}).items():
        try:
            checks.append(Check(name, True, check(config, world_size)))
        except MftcoderError as error:
            checks.append(Check(name, False, str(error)))
    return checks


def _model(config: Config, world_size: int) -> str:
    model = load_config(config.model)
    check_unquantized(model, config.model.path)
    longest = maximum_length(model)
    check_length(config, model)
    check_isolation(config, model)
    check_sequence_parallel(config, model)
    if getattr(config.loss.weighting, "shared", None) == "lm_head":
        check_head_gradients(model, len(config.data.tasks))
    part = " (the text part of a larger model)" if is_text_part(config.model) else ""
    return f"{model.model_type}{part}, made for {f'up to {longest:,}' if longest else 'any number of'} tokens"


def _deepspeed(config: Config, world_size: int) -> str:
    from mftcoder.engine.settings import check_settings

    settings = settings_of(config, world_size)
    check_settings(settings)
    return f"ZeRO stage {zero_stage(settings)}"


def _tokenizer(config: Config, world_size: int) -> str:
    tokenizer = load_tokenizer(config.model, config.data.chat)
    model = load_config(config.model)
    check_vocabulary(tokenizer, model, config.model.new_tokens)
    found = [f"{len(tokenizer):,} tokens"]
    if new := new_token_pieces(config.model) if config.model.new_tokens else {}:
        found.append(f"{len(new)} of them new")
    found.append("a chat template" if tokenizer.chat_template else "no chat template: plain text only")
    if known := tokens_of(adapter_of(model), tokenizer):
        found.append(f"{' '.join(known.roles + known.infilling)} as {known.name} has them")
    return ", ".join(found)


def _tasks(config: Config, world_size: int) -> str:
    """The first records of every task parse and encode."""
    encoder = Encoder.of(config, load_tokenizer(config.model, config.data.chat))
    found, problems = [], []
    for task in config.data.tasks:
        try:
            files, form = source_files(task) + held_out_files(task), record_format(task)
            problems += first_problems(Part(files[0]), task, form, encoder, config.data.max_bad_records)
            found.append(f"{task.name} ({len(files)} {'file' if len(files) == 1 else 'files'}, {form})")
        except MftcoderError as error:
            problems.append(str(error))
    if problems:
        raise MftcoderError("\n".join(problems))
    return ", ".join(found)


def _batch(config: Config, world_size: int) -> str:
    rows, length = rows_per_step(config.training, world_size), config.data.sequence_length
    return (
        f"{rows:,} rows of at most {length:,} tokens per step, on {world_size} {'rank' if world_size == 1 else 'ranks'}"
    )


def _logging(config: Config, world_size: int) -> str:
    check_installed(config)
    check_ranks(config.logging.profile, world_size)
    return f"metrics.jsonl{''.join(f', {name}' for name in config.logging.report_to)}"


def _shards(config: Config, world_size: int) -> str:
    folder = shards_path(config)
    if not folder.exists():
        return f"{folder} does not exist yet: training tokenizes first"
    shards = Shards.open(folder)
    check_matches(shards.manifest, config, load_tokenizer(config.model, config.data.chat))
    schedule = make_schedule(config, shards, world_size)
    found = f"{folder}: {len(schedule.mixture):,} rows, {schedule.steps_per_epoch:,} steps per epoch"
    found += f"\n{epoch_note(config.data.sampling, shards.tasks, schedule.mixture)}"
    if changed := changed_sources(shards.manifest, config):
        found += f"\nthe files of {', '.join(changed)} have changed; mftcoder tokenize --overwrite takes them in"
    return found


def _contents(config: Config, world_size: int) -> str:
    files = Shards.open(shards_path(config), "full").manifest.files
    return f"{len(files):,} files of {sum(file.size for file in files):,} bytes are as they were written"


def _memory(config: Config, world_size: int, *, gpu_gib: float | None) -> str:
    """What a step takes on each GPU; MftcoderError with what would help if that is more than ``gpu_gib``."""
    try:
        settings_of(config, world_size)
    except MftcoderError:
        return "not planned, for the problems with the model or with DeepSpeed's settings"
    try:
        planned = plan(config, world_size)
    except UnforeseeableError as error:
        return f"cannot be foretold for this model: {error}"
    found = f"{planned.trainable:,} of {planned.parameters:,} parameters are trained\n{planned.describe()}"
    if gpu_gib is None or planned.total <= gpu_gib * GIB:
        return found
    remedies = [
        f"{change}: {smaller.total / GIB:,.1f} GiB"
        for change, smaller in smaller_plans(config, world_size)
        if smaller.total <= gpu_gib * GIB
    ]
    advice = "\n".join(["What would make it fit:", *remedies]) if remedies else "No single change makes it fit."
    raise MftcoderError(f"{found}\nIt does not fit into {gpu_gib:g} GiB. {advice}")


CHECKS: dict[str, Callable[[Config, int], str]] = {
    "model": _model,
    "deepspeed": _deepspeed,
    "tokenizer": _tokenizer,
    "tasks": _tasks,
    "batch": _batch,
    "logging": _logging,
    "shards": _shards,
}
