"""What a plan says of a task, as rows in the folder of the shards."""

from pathlib import Path

import numpy as np

from mftcoder.data.holdout import SPLITS
from mftcoder.data.inputs import Settings
from mftcoder.data.manifest import SplitCounts, TaskCounts
from mftcoder.data.packing import Layout, pack
from mftcoder.data.planning import Plan
from mftcoder.data.shards import write_rows


def write_task(folder: Path, plan: Plan, settings: Settings) -> TaskCounts:
    """Write the rows of a task's splits into ``folder``; the counts of what became of its records."""
    samples, pieces, held = plan.samples, plan.pieces, plan.held
    num_split_off = np.arange(len(pieces.sample)) - np.unique(pieces.sample, return_inverse=True)[1]
    ids = samples.records[pieces.sample] + num_split_off  # every record takes one, a split one as many as its pieces
    splits = {}
    for split, members in held.members.items():
        if not len(members):
            continue
        lengths = pieces.lengths[members]
        layout = pack(lengths, settings.sequence_length, settings.packing, settings.seed, int(split))
        layout = Layout(members[layout.order], layout.row_starts)
        files, num_supervised = write_rows(
            folder, f"{plan.task}/{SPLITS[split]}", samples, pieces, ids, layout, settings.bytes_per_file
        )
        num_tokens, num_rows = int(lengths.sum()), len(layout.row_starts) - 1
        padding_share = 1 - num_tokens / (num_rows * settings.sequence_length)
        splits[SPLITS[split]] = SplitCounts(
            samples=len(members),
            tokens=num_tokens,
            supervised_tokens=num_supervised,
            rows=num_rows,
            median_tokens=float(np.median(lengths)),
            longest_tokens=int(lengths.max()),
            length_counts=np.bincount(np.frexp(lengths)[1] - 1).tolist(),
            padding_share=None if settings.packing == "pad" else padding_share,
            files=files,
        )
    num_records = sum(count.records for count in plan.counts)
    return TaskCounts(
        name=plan.task,
        records=num_records,
        bad=sum(len(count.bad) for count in plan.counts),
        samples=num_records + int(num_split_off[-1]),
        split=plan.fitting["split"],
        truncated=plan.fitting["truncated"],
        lost_tokens=plan.fitting["lost_tokens"],
        dropped=dict(sorted(plan.dropped.items())),
        noted=dict(sorted(plan.noted.items())),
        leaked=plan.leaked,
        shared_probe=held.shared_probe,
        splits=splits,
    )
