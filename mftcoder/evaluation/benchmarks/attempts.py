"""What one model makes of benchmarks: its completions, and what became of each."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

from mftcoder import __version__
from mftcoder.config.load import read_json
from mftcoder.errors import MftcoderError
from mftcoder.evaluation.benchmarks.asking import program_of
from mftcoder.evaluation.benchmarks.store import Store
from mftcoder.evaluation.benchmarks.work import Benchmark, Work
from mftcoder.evaluation.benchmarks.writing import Wanted, Writer
from mftcoder.training.trained import weights_fingerprint

_TOLD = 10  # lines of progress for a benchmark


class Attempt(NamedTuple):
    """One completion: how its writing ended, and what its tests said."""

    finish: str
    outcome: str


Attempts = dict[str, list[Attempt]]  # by problem, as many as there are samples


def attempts(model: str, benchmarks: Sequence[Benchmark], folder: Path, work: Work) -> tuple[list[Attempts], bool]:
    """What became of each completion, by benchmark; and whether the chat template was used.

    Args:
        model: a run, a checkpoint, a folder that transformers loads, or a hub id.
        folder: of its completions. What lies there is kept; MftcoderError if it is another model's, or asked otherwise.
    """
    writer, weights = Writer(model), weights_fingerprint(model)
    chat = _uses_chat(model, writer, folder / f"{benchmarks[0].name}.settings.json", work.options.chat)
    settings = {"model": model, "weights": weights, "chat": chat, "sampling": asdict(work.options.sampling)}
    found = []
    for benchmark in benchmarks:
        depends_on = {"mftcoder": __version__, "benchmark": benchmark.digest(), **settings}
        with Store(folder, benchmark.name, depends_on) as store:
            found.append(_attempts(benchmark, store, writer, work, chat=chat))
    return found, chat


def _uses_chat(model: str, writer: Writer, stored: Path, wanted: bool | None) -> bool:
    """As in the completions that are there, or where the model has a template."""
    if wanted is None:
        return bool(read_json(stored).get("chat")) if stored.exists() else writer.has_chat_template
    if wanted and not writer.has_chat_template:
        raise MftcoderError(f"--chat: {model} has no chat template. Leave it out.")
    return wanted


def _attempts(benchmark: Benchmark, store: Store, writer: Writer, work: Work, *, chat: bool) -> Attempts:
    all_of_it = [
        Wanted(number, problem, sample)
        for number, problem in enumerate(benchmark.problems)
        for sample in range(work.options.samples)
    ]
    _write(benchmark, [one for one in all_of_it if store.get(one.key, "completion") is None], store, writer, work, chat)
    programs = [
        (one.key, one.problem, program_of(one.problem, store.get(one.key, "completion"), chat=chat))
        for one in all_of_it
    ]
    work.judge_all(programs, store)
    store.finish(one.key for one in all_of_it)
    outcomes = Counter(str(store.get(one.key, "outcome")) for one in all_of_it)
    told = ", ".join(f"{outcome} {count:,}" for outcome, count in outcomes.most_common())
    work.tell(f"{benchmark.name}: {len(all_of_it):,} completions: {told}")
    found: Attempts = {problem.name: [] for problem in benchmark.problems}
    for one in all_of_it:
        found[one.problem.name].append(Attempt(store.get(one.key, "finish"), store.get(one.key, "outcome")))
    return found


def _write(
    benchmark: Benchmark, wanted: Sequence[Wanted], store: Store, writer: Writer, work: Work, chat: bool
) -> None:
    if not wanted:
        return
    done, sampling = 0, work.options.sampling
    for batch in writer.write(wanted, sampling, chat=chat, batch_size=work.options.batch_size):
        for one, written in batch:
            store.add(one.key, completion=written.text, finish=written.finish)
        before, done = done, done + len(batch)
        if done * _TOLD // len(wanted) > before * _TOLD // len(wanted):
            work.tell(f"{benchmark.name}: {done:,} of {len(wanted):,} completions")
