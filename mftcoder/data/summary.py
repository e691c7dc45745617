"""What a folder of shards holds, in words and numbers."""

from rich.table import Table

from mftcoder.data.bad_records import LISTED
from mftcoder.data.filtering import FILTERED
from mftcoder.data.inputs import Settings
from mftcoder.data.manifest import Manifest, TaskCounts


def table(manifest: Manifest) -> Table:
    """What the shards hold, one line per task and split; below it what every task's records became."""
    result = Table(title=f"shards {manifest.fingerprint}", title_justify="left", caption_justify="left")
    for heading in ("task", "split"):
        result.add_column(heading, overflow="fold")
    for heading in ("samples", "tokens", "supervised", "rows", "padding"):
        result.add_column(heading, justify="right", no_wrap=True)
    captions = []
    for task, source in zip(manifest.tasks, manifest.inputs.tasks, strict=True):
        for index, (name, split) in enumerate(task.splits.items()):
            padding = "–" if split.padding_share is None else f"{split.padding_share:.2%}"
            counts = (split.samples, split.tokens, split.supervised_tokens, split.rows)
            result.add_row(task.name if index == 0 else "", name, *(f"{number:,}" for number in counts), padding)
        result.add_section()
        records = f"{task.records:,} records of format {source.format}"
        sizes = size_notes(task, manifest)
        captions.append("; ".join([f"{task.name}: {records}", *sizes, *notes(task, manifest.inputs.settings)]) + ".")
    result.caption = "\n".join(captions)
    return result


def size_notes(task: TaskCounts, manifest: Manifest) -> list[str]:
    """How large a task is, a phrase each: beside the others, and by its samples."""
    trained = [other.splits["train"] for other in manifest.tasks]
    train = task.splits["train"]
    of = {
        "rows": train.rows / sum(part.rows for part in trained),
        "supervised tokens": train.supervised_tokens / sum(part.supervised_tokens for part in trained),
    }
    shares = " and ".join(f"{share:.1%} of the {what}" for what, share in of.items())
    lengths = f"samples of {train.median_tokens:,.0f} tokens in the median, {train.longest_tokens:,} at most"
    return [shares, lengths] if len(trained) > 1 else [lengths]


def notes(task: TaskCounts, settings: Settings) -> list[str]:
    """What happened to a task's records that its owner should know, a phrase each."""
    found = [f"{task.bad:,} bad records passed over, listed in {LISTED}"] if task.bad else []
    found += [f"{number:,} records {what}" for what, number in task.noted.items()]
    found += [f"{number:,} samples dropped: {reason}" for reason, number in task.dropped.items()]
    if settings.filters:
        found.append(f"what the filters found is listed in {FILTERED}")
    if task.truncated:
        found.append(f"{task.truncated:,} samples truncated to a row: {task.lost_tokens:,} tokens left out")
    if task.split:
        found.append(f"{task.split:,} samples longer than a row were split")
    if task.shared_probe:
        found.append("too small for two parts: probe and validation are the same samples")
    if task.leaked:
        found.append(
            f"{task.leaked:,} training samples are held out too: the same record or group, in this or another task"
        )
    amount = settings.held_out[task.name]
    if "validation" not in task.splits:
        reasons = {0: "validation_fraction is 0", "files": "no sample of its files has a supervised token"}
        found.append(f"no validation: {reasons.get(amount, 'there is only one group of samples')}")
    elif isinstance(amount, int):
        parts = ["validation"] if task.shared_probe else ["probe", "validation"]
        if (held := sum(task.splits[part].samples for part in parts)) < amount:
            found.append(f"{held:,} samples are held out, where {amount:,} were asked for: at most half are")
    return found
