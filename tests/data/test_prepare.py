import hashlib
import itertools
import json
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from mftcoder.config.schema import Config
from mftcoder.data.chat import load_tokenizer
from mftcoder.data.manifest import Manifest, check_matches
from mftcoder.data.prepare import prepare, shards_path
from mftcoder.data.shards import Shards
from mftcoder.data.summary import table
from mftcoder.errors import MftcoderError

SPLITS = ("train", "probe", "validation")


def quiet(_: str) -> None:
    pass


def pairs(count: int, **extra: str) -> list[dict]:
    return [{"prompt": f"two plus {i}", "answer": "so " * (i % 11) + str(i), **extra} for i in range(count)]


def samples_of(config: Config, task: str, splits: tuple[str, ...] = SPLITS) -> list[tuple[int, tuple[int, ...], tuple]]:
    """(id, token ids, mask) of all samples in the shards of ``config``."""
    found = []
    for split in splits:
        for row in Shards.open(shards_path(config), verify="full").rows(task, split):
            cuts = np.cumsum(row.segment_lengths)[:-1]
            parts = zip(row.sample_ids, np.split(row.input_ids, cuts), np.split(row.supervised, cuts), strict=True)
            found += [(int(id), tuple(ids.tolist()), tuple(mask.tolist())) for id, ids, mask in parts]
    return found


def rendered(config: Config, record: dict) -> tuple[int, ...]:
    tokenizer = load_tokenizer(config.model, config.data.chat)
    messages = [{"role": "user", "content": record["prompt"]}, {"role": "assistant", "content": record["answer"]}]
    return tuple(tokenizer.apply_chat_template(messages, return_dict=False))


@pytest.mark.parametrize("mode", ["pack", "pad", "pad_to_max"])
def test_every_record_is_in_exactly_one_row_of_one_split(make_config: Callable[..., Config], mode: str) -> None:
    records = pairs(75)
    config = make_config({"a": records}, packing={"mode": mode})
    manifest = prepare(config, tell=quiet)
    found = sorted(samples_of(config, "a"))
    assert [id for id, _, _ in found] == list(range(75))
    assert [ids for _, ids, _ in found] == [rendered(config, record) for record in records]
    counts = manifest.task("a").splits
    assert [counts[split].samples for split in SPLITS] == [60, 8, 7]
    assert sum(counts[split].tokens for split in SPLITS) == sum(len(ids) for _, ids, _ in found)
    assert sum(counts[split].supervised_tokens for split in SPLITS) == sum(sum(mask) for _, _, mask in found)
    train = Shards.open(shards_path(config)).rows("a")
    assert counts["train"].rows == len(train)
    slots = 128 * len(train)
    assert counts["train"].padding_share == (
        None if mode == "pad" else 1 - sum(len(r.input_ids) for r in train) / slots
    )


def test_the_result_does_not_depend_on_the_number_of_processes(make_config: Callable[..., Config]) -> None:
    tasks = {"a": pairs(1200), "b": [{"text": f"def add{i}(a, b):\n    return a + b\n" * 20} for i in range(30)]}
    one = prepare(make_config(tasks, output="one"), tell=quiet, num_workers=1)
    config = make_config(tasks, output="two")
    two = prepare(config, tell=quiet, num_workers=2)
    assert one.fingerprint == two.fingerprint
    assert one.tasks == two.tasks
    assert sorted(id for id, _, _ in samples_of(config, "a")) == list(range(1200))


def test_the_split_is_the_same_when_records_are_reordered_and_for_any_packing(
    make_config: Callable[..., Config],
) -> None:
    records = pairs(60)
    first = make_config({"a": records}, output="first")
    prepare(first, tell=quiet)
    held = {ids for _, ids, _ in samples_of(first, "a", ("probe", "validation"))}
    second = make_config({"a": records[::-1]}, output="second", packing={"mode": "pad"})
    prepare(second, tell=quiet)
    assert {ids for _, ids, _ in samples_of(second, "a", ("probe", "validation"))} == held
    other_seed = make_config({"a": records}, output="third", seed=8)
    prepare(other_seed, tell=quiet)
    assert {ids for _, ids, _ in samples_of(other_seed, "a", ("probe", "validation"))} != held


def test_groups_and_equal_records_are_not_divided(make_config: Callable[..., Config]) -> None:
    grouped = [{**record, "group": f"file{i % 7}"} for i, record in enumerate(pairs(70))]
    config = make_config({"grouped": grouped, "repeated": pairs(10) * 7})
    prepare(config, tell=quiet)
    for task in ("grouped", "repeated"):
        sides = [{id % (7 if task == "grouped" else 10) for id, _, _ in samples_of(config, task, (s,))} for s in SPLITS]
        assert all(sides)
        assert sum(map(len, sides)) == len(set.union(*sides))


def test_tasks_too_small_for_parts_say_so(make_config: Callable[..., Config]) -> None:
    config = make_config({"one": pairs(1), "two": pairs(2), "same": pairs(1) * 3})
    manifest = prepare(config, tell=quiet)
    assert set(manifest.task("one").splits) == {"train"}
    assert set(manifest.task("same").splits) == {"train"}
    assert manifest.task("two").shared_probe
    assert samples_of(config, "two", ("probe",)) == samples_of(config, "two", ("validation",))
    assert len(Shards.open(shards_path(config)).rows("one", "validation")) == 0
    console = Console(width=120, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(table(manifest))
    printed = " ".join(console.export_text().split())
    assert "probe and validation are the same samples" in printed
    assert "no validation: there is only one group of samples" in printed


def test_over_long_conversations_are_cut_or_dropped_and_counted(make_config: Callable[..., Config]) -> None:
    records = [
        {"prompt": "two", "answer": "so " * 200},  # cut within the answer
        {"prompt": "so " * 200, "answer": "two"},  # nothing supervised is left
        *pairs(10),
    ]
    cut = make_config({"a": records}, output="cut", sequence_length=64)
    counts = prepare(cut, tell=quiet).task("a")
    lengths = [len(rendered(cut, record)) for record in records]
    assert (counts.truncated, counts.lost_tokens) == (1, lengths[0] - 64)
    assert counts.dropped == {"no supervised token left after truncation": 1}
    found = {id: ids for id, ids, _ in samples_of(cut, "a")}
    assert set(found) == set(range(12)) - {1}
    assert found[0] == rendered(cut, records[0])[:64]
    dropping = make_config({"a": records}, output="drop", sequence_length=64, over_long="drop")
    counts = prepare(dropping, tell=quiet).task("a")
    assert counts.dropped == {"longer than a row": 2}
    assert (counts.truncated, counts.records, counts.samples) == (0, 12, 12)


def test_long_texts_become_pieces_of_one_split(make_config: Callable[..., Config]) -> None:
    texts = [{"text": f"def add{i}(a, b):\n    return a + b\n" * (5 * i + 1)} for i in range(6)]
    config = make_config({"a": texts}, sequence_length=32)
    counts = prepare(config, tell=quiet).task("a")
    tokenizer = load_tokenizer(config.model, config.data.chat)
    expected = [[*tokenizer(record["text"]).input_ids, tokenizer.eos_token_id] for record in texts]
    pieces = [len(ids) // 32 + (len(ids) % 32 > 1) for ids in expected]  # nothing predicts a piece of one token
    assert counts.split == sum(number > 1 for number in pieces)
    assert counts.samples == sum(pieces)
    found = sorted(samples_of(config, "a"))
    assert all(not mask[0] and all(mask[1:]) for _, _, mask in found)
    assert counts.lost_tokens == sum(len(ids) % 32 == 1 for ids in expected)
    kept = [token for ids in expected for token in (ids[:-1] if len(ids) % 32 == 1 else ids)]
    assert [token for _, ids, _ in found for token in ids] == kept
    first_pieces = np.cumsum([0, *pieces])
    split_of = {id: split for split in SPLITS for id, _, _ in samples_of(config, "a", (split,))}
    for first, last in itertools.pairwise(first_pieces):
        assert len({split_of[id] for id in range(first, last) if id in split_of}) == 1


def test_a_task_without_a_supervised_token_is_an_error(make_config: Callable[..., Config]) -> None:
    messages = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y", "train": False}]
    config = make_config({"a": pairs(3), "b": [{"messages": messages}] * 2})
    with pytest.raises(MftcoderError, match=r'task "b": no supervised token is left .* \(2 with no supervised token\)'):
        prepare(config, tell=quiet)
    assert not shards_path(config).exists()


def test_complete_shards_are_used_again_and_other_ones_never_overwritten_unasked(
    make_config: Callable[..., Config],
) -> None:
    config = make_config({"a": pairs(20)})
    first = prepare(config, tell=quiet)
    said: list[str] = []
    before = (shards_path(config) / "manifest.json").stat().st_mtime_ns
    assert prepare(config, tell=said.append) == first
    assert "exist already" in said[-1]
    assert (shards_path(config) / "manifest.json").stat().st_mtime_ns == before
    longer = make_config({"a": pairs(20)}, sequence_length=256, over_long="drop")
    with pytest.raises(MftcoderError) as caught:
        prepare(longer, tell=quiet)
    assert "sequence_length 128, where the config now has 256; over_long truncate, where" in str(caught.value)
    changed = make_config({"a": pairs(21)})
    with pytest.raises(MftcoderError, match=r'made with sources of task "a" .*a\.jsonl \(\d+ bytes'):
        prepare(changed, tell=quiet)
    assert prepare(changed, tell=quiet, overwrite=True).task("a").records == 21
    assert sorted(path.name for path in shards_path(config).parent.iterdir()) == ["shards", "shards.samples"]


def test_a_folder_of_something_else_is_never_touched(make_config: Callable[..., Config]) -> None:
    config = make_config({"a": pairs(5)})
    shards_path(config).mkdir(parents=True)
    (shards_path(config) / "thesis.tex").write_text("years of work")
    for overwrite in (False, True):
        with pytest.raises(MftcoderError, match=r"no (complete )?shards"):
            prepare(config, tell=quiet, overwrite=overwrite)
    assert (shards_path(config) / "thesis.tex").read_text() == "years of work"


def test_shards_of_another_config_or_tokenizer_are_refused_with_both_values(make_config: Callable[..., Config]) -> None:
    config = make_config({"a": pairs(20), "b": pairs(5)})
    tokenizer = load_tokenizer(config.model, config.data.chat)
    manifest = prepare(config, tell=quiet)
    tokenizer("x", truncation=True, max_length=2, padding="max_length")  # use of a tokenizer does not change it
    check_matches(manifest, config, tokenizer)
    check_matches(manifest, make_config({"a": [], "b": []}, seed=99), tokenizer)
    changes = {
        "sequence_length 128, where the config now has 256": {"sequence_length": 256},
        "packing pack, where the config now has pad": {"packing": {"mode": "pad"}},
        "held_out {'a': 0.2, 'b': 0.2}, where the config now has {'a': 0.1, 'b': 0.1}": {"validation_fraction": 0.1},
        "over_long truncate, where the config now has drop": {"over_long": "drop"},
    }
    for message, change in changes.items():
        with pytest.raises(MftcoderError, match=message):
            check_matches(manifest, make_config({"a": [], "b": []}, **change), tokenizer)
    with pytest.raises(MftcoderError, match="tasks a, b, where the config now has b, a"):
        check_matches(manifest, make_config({"b": [], "a": []}), tokenizer)
    tokenizer.chat_template += " "
    with pytest.raises(MftcoderError, match=r"chat template [0-9a-f]{32}, where the config now has [0-9a-f]{32}"):
        check_matches(manifest, config, tokenizer)
    tokenizer.add_tokens(["<|new|>"])
    with pytest.raises(MftcoderError, match=r"tokenizer .*model \([0-9a-f]{32}\), where the config now has"):
        check_matches(manifest, config, tokenizer)


def test_the_manifest_says_what_went_in(make_config: Callable[..., Config], tmp_path: Path) -> None:
    config = make_config({"a": pairs(20)})
    prepare(config, tell=quiet)
    manifest = Manifest.read(shards_path(config))
    source = manifest.inputs.tasks[0].files[0]
    content = (tmp_path / "a.jsonl").read_bytes()
    assert (source.size, source.blake2b) == (len(content), hashlib.blake2b(content, digest_size=16).hexdigest())
    assert manifest.inputs.tasks[0].format == "pairs"
    assert manifest.versions["mftcoder"]


@pytest.mark.corpora
def test_real_records_and_tokenizers_go_through(tmp_path: Path) -> None:
    corpora = Path(os.environ["MFTCODER_CORPORA"])
    for model in sorted((corpora / "tokenizers").iterdir()):
        config = Config.model_validate(
            {
                "output_dir": str(tmp_path / model.name),
                "model": {"path": str(model)},
                "data": {
                    "chat": {"type": "markers"},
                    "tasks": [
                        {"name": "math", "path": str(corpora / "train/gsm8k/gsm8k_test.jsonl.gz")},
                        {"name": "code", "path": str(corpora / "train/codealpaca/code_alpaca_2k.json.gz")},
                    ],
                },
            }
        )
        manifest = prepare(config, tell=quiet)
        records = [task.records for task in manifest.tasks]
        assert records == [1319, 2017]
        kept = Counter(
            task.name for task in manifest.tasks for split in task.splits.values() for _ in range(split.samples)
        )
        assert [kept[task.name] + sum(task.dropped.values()) for task in manifest.tasks] == records
        tokenizer = load_tokenizer(config.model, config.data.chat)
        for id, ids, mask in samples_of(config, "math")[:50]:
            assert tokenizer.decode([t for t, m in zip(ids, mask, strict=True) if m]).endswith(tokenizer.eos_token), id


def test_a_column_splits_one_file_into_the_tasks_that_files_of_their_own_would_give(
    make_config: Callable[..., Config], tmp_path: Path
) -> None:
    tasks = {"a": pairs(30, task="x", language="java"), "b": pairs(20, task="y", language="java")}
    apart = prepare(make_config(tasks, output="apart"), tell=quiet)
    mixed = [*pairs(5, task="x"), *itertools.chain(*itertools.zip_longest(tasks["a"], tasks["b"]))]
    (tmp_path / "mixed.jsonl").write_text("".join(json.dumps(record) + "\n" for record in mixed if record))

    def selecting(language: str) -> Config:
        raw = make_config(tasks, output="together").model_dump()
        for task, where in zip(
            raw["data"]["tasks"], ({"task": "x", "language": "java"}, {"task": "y", "language": language}), strict=True
        ):
            task |= {"path": str(tmp_path / "mixed.jsonl"), "where": where}
        return Config.model_validate(raw)

    config = selecting("java")
    assert prepare(config, tell=quiet).fingerprint == apart.fingerprint
    tokenizer = load_tokenizer(config.model, config.data.chat)
    manifest = Manifest.read(shards_path(config))
    check_matches(manifest, config, tokenizer)
    other = selecting("rust")
    with pytest.raises(MftcoderError, match=r'"language": "java".*"language": "rust"'):
        check_matches(manifest, other, tokenizer)
    with pytest.raises(MftcoderError, match=r'data.tasks "b": no record has .*"rust"'):
        prepare(other, tell=quiet)


def test_the_manifest_counts_the_lengths_of_samples(make_config) -> None:
    config = make_config({"a": [{"text": "x" * length} for length in (1, 2, 3, 6, 7, 8, 99)]}, validation_fraction=0.0)
    counts = prepare(config, tell=quiet).task("a").splits["train"]
    lengths = [length for row in Shards.open(shards_path(config)).rows("a") for length in row.segment_lengths.tolist()]
    powers = range(max(lengths).bit_length())
    assert counts.length_counts == [sum(2**p <= length < 2 ** (p + 1) for length in lengths) for p in powers]
    assert (counts.median_tokens, counts.longest_tokens) == (sorted(lengths)[3], max(lengths))
    assert f"samples of {sorted(lengths)[3]} tokens in the median, {max(lengths)} at most" in " ".join(
        table(Manifest.read(shards_path(config))).caption.split()
    )
