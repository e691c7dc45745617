"""The probe: a fixed, task-stratified set of validation rows that weightings watch.

Few, large looks at the same rows beat many small ones at changing rows: the noise of a slope is the noise between two
looks, and with the same rows most of it cancels.
"""

from collections.abc import Sequence

from mftcoder.config.schema import Probe
from mftcoder.data.shards import Rows

SHARE_OF_TRAINING = (
    0.15  # probe tokens per token trained between two looks; a forward pass costs about a third of a step
)


def probe_rows(tasks: Sequence[Rows], settings: Probe, tokens_per_step: float) -> list[tuple[int, int]]:
    """(task id, row) of the probe's rows: for each task as many of its first rows as fit an equal share of the tokens.

    The rows of a shard lie in an order that was drawn by seed, so its first rows are a random sample. Every task that
    has rows gives at least one.

    Args:
        tasks: the probe split's rows of each task.
        settings: the size wanted, and how often it is looked at.
        tokens_per_step: what a training step trains on, for the default size.
    """
    tokens = settings.tokens or SHARE_OF_TRAINING * settings.every_steps * tokens_per_step
    chosen = []
    for task, rows in enumerate(tasks):
        used = 0
        for row in range(len(rows)):
            used += len(rows[row].input_ids)
            if row > 0 and used > tokens / len(tasks):
                break
            chosen.append((task, row))
    return chosen
