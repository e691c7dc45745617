"""From a config to a task file, by asking a model.

::

    seed -> prompt -> generate -> parse -> filter -> verify -> deduplicate -> decontaminate -> task file
    \\________ the generator _________/

There is no state but the recorded answers: a run that was killed starts over, and finds recorded what was answered.

    OUT/TASK.jsonl       the samples
    OUT/TASK.manifest    JSON, written last: settings, counts of every step, costs, checksum of the samples
    OUT/TASK.answers     JSON Lines: every answer that was paid for, with its request
"""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

from mftcoder import __version__
from mftcoder.construct.answers import Answers
from mftcoder.construct.asking import Asker
from mftcoder.construct.endpoint import Endpoint, model_name
from mftcoder.construct.generators import GENERATORS
from mftcoder.construct.generators.work import Work
from mftcoder.construct.output import Tally, TaskFile, task_files, write_json
from mftcoder.construct.prompts import Prompts
from mftcoder.construct.quality import filter_stage
from mftcoder.construct.repetition import Sketchbook
from mftcoder.construct.samples import Sample, Stage, Verdict
from mftcoder.construct.settings import ConstructConfig
from mftcoder.construct.verification import sandbox_for, verify_stage
from mftcoder.data.records import parse_messages
from mftcoder.errors import MftcoderError, RunError
from mftcoder.locks import locked

_SAMPLES_PER_MESSAGE = 500
_AT_ONCE = max(2, os.cpu_count() or 1)  # samples that are verified together


def run(
    config: ConstructConfig,
    *,
    retry_failed: bool = False,
    allow_execution: bool = False,
    tell: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Makes the task file of ``config``; returns the manifest.

    The same config and the same recorded answers give the same bytes. ``retry_failed``: ask again what failed for good.
    ``allow_execution``: programs of the model may be executed, in a sandbox.

    Raises MftcoderError for a config that names what is not there, RunError where the endpoint is down or no sample
    is left.
    """
    out = Path(config.out)
    with (
        sandbox_for(config.verify, allowed=allow_execution, workers=_AT_ONCE) as sandbox,
        locked(out / f".{config.task}.lock", f"it makes {config.task}", tell),
    ):
        stages = {"filter": filter_stage(config.quality)}
        if config.verify:
            stages["verify"] = verify_stage(config.verify, sandbox)
        answers = Answers(out / f"{config.task}.answers", retry_failed=retry_failed)
        try:
            return asyncio.run(_run(config, stages, answers, tell))
        finally:
            answers.close()


def manifest_path(out: Path, task: str) -> Path:
    """Where the manifest of a task lies: not called .json, as it is no file of records."""
    return out / f"{task}.manifest"


async def _run(
    config: ConstructConfig, stages: dict[str, Stage], answers: Answers, tell: Callable[[str], None]
) -> dict[str, Any]:
    settings = config.generator
    prompts = Prompts(settings.type, settings.prompts, tuple(f"axis-{axis}" for axis in getattr(settings, "axes", ())))
    generated = Tally()
    async with Endpoint(config.endpoint) as endpoint:
        asker = Asker(config, answers, endpoint, generated)
        work = Work(asker, prompts, config.seed, config.endpoint.concurrency, {"generate": generated})
        samples = GENERATORS[settings.type](settings, work)
        with task_files(Path(config.out), [config.task]) as files:
            file = files[config.task]
            number = await _write(config, samples, stages, work, file, tell)
            asker.record_failures()
            manifest = _manifest(config, work, asker, number)
            if number == 0:
                raise _nothing(manifest)
            manifest["blake2b"] = file.checksum()
            file.publish()
            write_json(manifest_path(Path(config.out), config.task), manifest)
    if asker.spent:
        tell(f"stopped at {asker.spent}; raise it and call again to go on")
    tell(f"{asker.asked:,} requests were sent; {answers.requests:,} answers are recorded")
    return manifest


async def _write(
    config: ConstructConfig,
    samples: AsyncIterator[Sample],
    stages: dict[str, Stage],
    work: Work,
    file: TaskFile,
    tell: Callable[[str], None],
) -> int:
    """Writes what passes all steps into ``file``; returns how many samples that are."""
    book = Sketchbook(config.deduplicate, config.decontaminate)
    model = model_name(config.endpoint)
    passed = 0
    async for sample in _passing(samples, stages, work):
        record = _record(sample, config, work.prompts, model)
        book.add(parse_messages(record, "sample"))
        file.write(record)
        passed += 1
        if passed % _SAMPLES_PER_MESSAGE == 0:
            tell(f"{passed:,} samples")
    kept = book.kept(work.step("deduplicate"), work.step("decontaminate"))
    file.keep_only(kept)
    return len(kept)


async def _passing(samples: AsyncIterator[Sample], stages: dict[str, Stage], work: Work) -> AsyncIterator[Sample]:
    """The samples that pass all stages, in order; some are judged at once, beside the requests."""
    chunk: list[Sample] = []
    async for sample in samples:
        chunk.append(sample)
        if len(chunk) == _AT_ONCE:
            for passed in await _judged(chunk, stages, work):
                yield passed
            chunk = []
    for passed in await _judged(chunk, stages, work):
        yield passed


async def _judged(chunk: Sequence[Sample], stages: dict[str, Stage], work: Work) -> Sequence[Sample]:
    for name, stage in stages.items():
        tally = work.step(name)
        verdicts: list[Verdict] = await asyncio.gather(*(asyncio.to_thread(stage, sample) for sample in chunk))
        for verdict in verdicts:
            if verdict.reason:
                tally.left_out[verdict.reason] += 1
        chunk = [verdict.sample for verdict in verdicts if not verdict.reason]
        tally.used += len(chunk)
    return chunk


def _record(sample: Sample, config: ConstructConfig, prompts: Prompts, model: str) -> dict[str, Any]:
    """A line of the task file."""
    source = {
        "generator": config.generator.type,
        "model": model,
        "prompts": {name: prompts.hashes[name] for name in sample.prompts},
        "requests": list(sample.requests),
        **sample.origin,
        **({"parts": dict(sample.parts)} if sample.parts else {}),
        **({"proof": dict(sample.proof)} if sample.proof else {}),
    }
    group = {} if sample.group is None else {"group": sample.group}
    return {"messages": list(sample.messages), **group, "source": source}


def _manifest(config: ConstructConfig, work: Work, asker: Asker, number: int) -> dict[str, Any]:
    """What has become of everything; the same for the same recorded answers."""
    settings = config.model_dump(mode="json", exclude={"out": True, "endpoint": True})
    return {
        "mftcoder": __version__,
        "task": config.task,
        "samples": number,
        "complete": not asker.spent,
        "stopped_at": asker.spent or None,
        "model": model_name(config.endpoint),
        "settings": settings,
        "prompts": work.prompts.hashes,
        "steps": {name: step.counts("used") for name, step in work.steps.items()},
        "costs": asker.costs(),
    }


def _nothing(manifest: dict[str, Any]) -> MftcoderError:
    """The error for a task without a sample."""
    if limit := manifest["stopped_at"]:
        return RunError(f"{manifest['task']}: {limit} ended before a sample was there. Raise it and call again.")
    lost = [
        f"{name}: {', '.join(f'{reason} {number:,}' for reason, number in step['left_out'].items())}"
        for name, step in manifest["steps"].items()
        if step["left_out"]
    ]
    if not lost:
        return MftcoderError("generator: gives nothing to ask about. Name other seeds, topics or code.")
    return RunError(f"{manifest['task']}: no sample is left. Left out were, by {'; by '.join(lost)}. Change what asks.")
