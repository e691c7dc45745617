"""From records to the batches of all ranks: every supervised token once per epoch, however packed and dealt out."""

import random
from collections import defaultdict

import numpy as np
import pytest
from transformers import AutoTokenizer

from mftcoder.data import encoding
from mftcoder.data.batch import Batch
from mftcoder.data.prepare import prepare, shards_path
from mftcoder.data.shards import Shards
from mftcoder.distributed import Group
from mftcoder.training.rows import make_loader, make_schedule

LENGTH = 128
WORDS = ("hello", "there", "so", "it is", "said", "that two", "plus", "add", "return", "é", "数", "\t", "😀")
COUNTS = {"many": 60, "some": 17, "one": 1}
MODES = ("pack", "pad", "pad_to_max")


def records() -> dict[str, list[dict]]:
    """Conversations of up to a row, each unlike all others, and texts of up to four rows."""
    draw = random.Random(0)

    def words(most: int) -> str:
        return " ".join(draw.choices(WORDS, k=draw.randint(1, most)))

    def turns(name: str, n: int) -> list[dict]:
        return [
            {"role": role, "content": f"{name} {n} {role[0]}{turn} {words(4)}"}
            for turn in range(draw.randint(1, 2))
            for role in ("user", "assistant")
        ]

    tasks = {name: [{"messages": turns(name, n)} for n in range(count)] for name, count in COUNTS.items()}
    return tasks | {"texts": [{"text": f"text {n}: {words(120)}"} for n in range(12)]}


def rendered(record: dict) -> str:
    """By hand, as the template of the tokenizer says."""
    if "text" in record:
        return record["text"] + "<|im_end|>"
    return "".join(f"<|im_start|>{turn['role']}\n{turn['content']}<|im_end|>\n" for turn in record["messages"])


def answers(record: dict) -> str:
    return "".join(turn["content"] + "<|im_end|>" for turn in record["messages"] if turn["role"] == "assistant")


@pytest.fixture(params=MODES)
def prepared(request, make_config, monkeypatch):
    monkeypatch.setattr(encoding, "_RECORDS_PER_CHUNK", 7)
    config = make_config(records(), sequence_length=LENGTH, validation_fraction=0.0, packing={"mode": request.param})
    manifest = prepare(config, tell=lambda _: None)
    assert not any(task.truncated or task.dropped for task in manifest.tasks)
    return config, Shards.open(shards_path(config)), AutoTokenizer.from_pretrained(config.model.path)


def test_unpacked_rows_are_the_records_and_no_row_is_too_long(prepared):
    _, shards, tokenizer = prepared
    for task, its_records in records().items():
        found: dict[int, str] = {}
        for row in shards.rows(task):
            assert len(row.input_ids) == row.segment_lengths.sum() <= LENGTH
            segments = np.split(row.input_ids, np.cumsum(row.segment_lengths)[:-1])
            for sample, ids in zip(row.sample_ids.tolist(), segments, strict=True):
                assert sample not in found
                found[sample] = ids.tolist()
        in_order = [found[sample] for sample in sorted(found)]
        if task == "texts":  # cut into pieces, which stay in order
            whole = tokenizer.decode([token for ids in in_order for token in ids])
            assert whole == "".join(map(rendered, its_records))
        else:
            assert [tokenizer.decode(ids) for ids in in_order] == list(map(rendered, its_records))


def dealt(config, shards: Shards, ranks: int, epoch: int) -> list[list[list[Batch]]]:
    """Of every step of an epoch, the micro-batches of every rank; steps are of 8 rows on any number of ranks."""
    settings = config.training.model_copy(update={"per_device_train_batch_size": 1, "gradient_accumulation_steps": 8})
    schedule = make_schedule(config.model_copy(update={"training": settings}), shards, world_size=1)
    loaders = [make_loader(config, shards, "train", Group(rank, ranks)) for rank in range(ranks)]
    first = epoch * schedule.steps_per_epoch
    return [
        [list(loader.deal(schedule.rows(step), 1)) for loader in loaders]
        for step in range(first, first + schedule.steps_per_epoch)
    ]


def targets_by_sample(batch: Batch) -> dict[tuple[int, int], list[int]]:
    """(task, sample) -> its supervised tokens, of every sample that is in ``batch``."""
    found = defaultdict(list)
    tasks = batch.supervised_tasks.tolist()
    keys = batch.sample_keys[batch.sample_ids].tolist()
    for task, key, target in zip(tasks, keys, batch.targets.tolist(), strict=True):
        found[task, key].append(target)
    return found


@pytest.mark.parametrize("ranks", [1, 2, 3, 8])
def test_every_supervised_token_of_every_sample_is_trained_on_once_per_epoch(ranks, prepared):
    config, shards, tokenizer = prepared
    to_max = config.data.packing.mode == "pad_to_max"
    for epoch in range(2):
        seen: dict[tuple[int, int], list[int]] = {}
        for by_rank in dealt(config, shards, ranks, epoch):
            for batch in (batch for batches in by_rank for batch in batches):
                assert batch.input_ids.shape[1] == LENGTH if to_max else batch.input_ids.shape[1] <= LENGTH
                samples = targets_by_sample(batch)
                assert not samples.keys() & seen.keys()
                seen |= samples
        for number, (task, its_records) in enumerate(records().items()):
            supervised = [tokenizer.decode(seen[key]) for key in sorted(seen) if key[0] == number]
            if task != "texts":
                assert supervised == list(map(answers, its_records))
        # A text is supervised but for the first token of each of its pieces.
        pieces = sum(len(row.sample_ids) for row in shards.rows("texts"))
        assert pieces > len(records()["texts"])
        tokens = sum(len(row.input_ids) for row in shards.rows("texts"))
        number = list(records()).index("texts")
        assert sum(len(targets) for key, targets in seen.items() if key[0] == number) == tokens - pieces


@pytest.mark.parametrize("ranks", [2, 3, 8])
def test_the_order_is_the_same_on_any_number_of_ranks(ranks, prepared):
    config, shards, _ = prepared

    def order(on: int) -> list[list[tuple]]:
        return [
            [
                (int(batch.task_ids[0]), *batch.sample_keys.tolist())
                for number in range(len(by_rank[0]))
                for batches in by_rank
                for batch in [batches[number]]
                if batch.segment_ids.any()
            ]
            for by_rank in dealt(config, shards, on, epoch=1)
        ]

    assert order(ranks) == order(1)
