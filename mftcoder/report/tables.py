"""The tables of the page, as plain rows for the template."""

import json
from typing import Any

from mftcoder.report.run_folder import Run, flatten, mapping

SAMPLES_PER_TASK = 8
MOST_BINS = 40  # of lengths, each twice the one before
TEXT_LIMIT = 4000  # characters of one prompt, reference or answer


def generation_groups(runs: list[Run]) -> dict[str, dict[str, Any]]:
    """Per task: its first prompts with reference and the answer of every run, and how many prompts were left out."""
    prompts: dict[str, dict[str, list[tuple[str, str]]]] = {}  # task -> prompt -> (whose, text)
    for run in runs:
        for sample in run.generations:
            texts = prompts.setdefault(_text(sample.get("task")), {}).setdefault(_text(sample.get("prompt")), [])
            if not texts and sample.get("reference") is not None:
                texts.append(("reference", _text(sample["reference"])))
            texts.append((run.label if len(runs) > 1 else "generated", _text(sample.get("generated"))))
    groups = {}
    for task, answers in prompts.items():
        shown = list(answers.items())[:SAMPLES_PER_TASK]
        samples = [(_shorten(prompt), [(name, _shorten(text)) for name, text in texts]) for prompt, texts in shown]
        groups[task] = {"samples": samples, "left_out": len(answers) - len(samples)}
    return groups


def data_tables(runs: list[Run]) -> list[dict[str, Any]]:
    """The data of each run, once for runs that share them: fingerprint, columns, and a row of counts per task."""
    tables: dict[str, dict[str, Any]] = {}
    for run in runs:
        data = mapping(run.info.get("data"))
        tasks = {task: mapping(counts) for task, counts in mapping(data.get("tasks")).items()}
        if not tasks:
            continue
        columns = dict.fromkeys(
            key for counts in tasks.values() for key, value in counts.items() if isinstance(value, str | int | float)
        )
        rows = {task: [counts.get(column) for column in columns] for task, counts in tasks.items()}
        table = {"fingerprint": data.get("fingerprint"), "columns": list(columns), "rows": rows, "runs": []}
        table |= {"shares": shares(tasks), "histograms": histograms(tasks)}
        tables.setdefault(json.dumps(data, sort_keys=True), table)["runs"].append(run.label)
    return list(tables.values())


def shares(tasks: dict[str, dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Of each count that all tasks have: task to its part of the sum."""
    found = {}
    for key in ("samples", "rows", "tokens", "supervised_tokens"):
        counts = {task: _count(numbers.get(key)) for task, numbers in tasks.items()}
        if len(tasks) > 1 and all(counts.values()):
            found[key] = {task: count / sum(counts.values()) for task, count in counts.items()}
    return found


def histograms(tasks: dict[str, dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Task to the bars of its samples' lengths, the same bins for all: range of tokens, count, part of the tallest."""
    counted = {}
    for task, numbers in tasks.items():
        counts = numbers.get("length_counts")
        counts = [_count(count) for count in counts[:MOST_BINS]] if isinstance(counts, list) else []
        if any(counts):
            counted[task] = counts
    first = min((next(i for i, count in enumerate(counts) if count) for counts in counted.values()), default=0)
    stop = max(map(len, counted.values()), default=0)
    return {
        task: [
            {"range": f"{2**i:,}–{2 ** (i + 1) - 1:,}", "count": count, "height": count / max(counts)}
            for i, count in enumerate([*counts, *[0] * (stop - len(counts))][first:], start=first)
        ]
        for task, counts in counted.items()
    }


def evaluation_rows(runs: list[Run]) -> list[dict[str, Any]]:
    """A row per run and task of evaluation.json; changes are relative; values that are missing are None."""
    rows = []
    for run in runs:
        for task, result in mapping(run.evaluation.get("tasks")).items():
            interval = mapping(result).get("interval")
            low, high = interval if isinstance(interval, list) and len(interval) == 2 else (None, None)
            numbers = {key: mapping(result).get(key) for key in ("against", "nll", "change", "tokens")}
            numbers |= {"low": low, "high": high}
            rows.append({"run": run.label, "split": run.evaluation.get("split"), "task": task, **numbers})
    return rows


def facts(run: Run) -> dict[str, str]:
    """run.json without what the page shows elsewhere: dotted key to text."""
    info = {key: value for key, value in run.info.items() if key not in ("notes", "data")}
    return {key: value.strip('"') for key, value in flatten(info).items()}


def _count(value: Any) -> int:
    return value if isinstance(value, int) and value > 0 else 0


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, indent=1)


def _shorten(text: str) -> str:
    left_out = len(text) - TEXT_LIMIT
    return text if left_out <= 0 else f"{text[:TEXT_LIMIT]}\n… {left_out:,} more characters"
