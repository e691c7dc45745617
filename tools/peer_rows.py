"""The packed rows that TRL or LLaMA-Factory would train on; run by the interpreter that has them installed.

    TRL/bin/python tools/peer_rows.py trl CONFIG.yaml CACHE
    LLAMAFACTORY/bin/python tools/peer_rows.py llamafactory CONFIG.yaml CACHE

CONFIG is a training config for their command line, as ``tools/peers.py`` writes it; CACHE is a folder for the library
``datasets``, best an empty one. Prints one line of JSON.
"""

import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path


def main() -> None:
    peer, config, cache = sys.argv[1:]
    os.environ |= {"HF_DATASETS_CACHE": cache, "HF_HUB_OFFLINE": "1", "DISABLE_VERSION_CHECK": "1"}
    import yaml

    with open(config, encoding="utf-8") as file:
        settings = yaml.safe_load(file)
    seconds, num_records, rows = {"trl": rows_of_trl, "llamafactory": rows_of_llamafactory}[peer](settings)
    print("ROWS " + json.dumps({**seconds, "records": num_records, **counted(rows)}))


def spent(since: tuple[float, float] = (0.0, 0.0)) -> dict[str, float]:
    """Seconds ``since`` an earlier result's values: by the clock, and of the processor, ended children's included."""
    times = os.times()
    now = (time.perf_counter(), sum(times[:4]))
    return {
        name: then - before for name, then, before in zip(("seconds", "processor_seconds"), now, since, strict=True)
    }


def rows_of_trl(settings: dict) -> tuple[dict[str, float], int, Iterator[tuple[int, list, list]]]:
    """Seconds, records, and (samples, token ids, labels) of each row."""
    import datasets
    import trl
    from transformers import AutoModelForCausalLM

    sources = settings.pop("datasets")
    model = AutoModelForCausalLM.from_pretrained(settings.pop("model_name_or_path"), dtype=settings.pop("dtype"))
    config = trl.SFTConfig(**settings)
    start = tuple(spent().values())
    records = datasets.concatenate_datasets([datasets.load_dataset(**source) for source in sources])
    rows = trl.SFTTrainer(model, config, train_dataset=records).train_dataset
    seconds = spent(start)
    return seconds, len(records), ((len(row["seq_lengths"]), row["input_ids"], row["labels"]) for row in rows)


def rows_of_llamafactory(settings: dict) -> tuple[dict[str, float], int, Iterator[tuple[int, list, list]]]:
    """The same of LLaMA-Factory, which knows a row's samples by their numbers in its attention mask."""
    from llamafactory.data import get_dataset, get_template_and_fix_tokenizer
    from llamafactory.hparams import get_train_args
    from llamafactory.model import load_tokenizer

    model, data, training, _, _ = get_train_args(settings)
    loaded = load_tokenizer(model)
    template = get_template_and_fix_tokenizer(loaded["tokenizer"], data)
    start = tuple(spent().values())
    rows = get_dataset(template, model, data, training, stage="sft", **loaded)["train_dataset"]
    seconds = spent(start)
    with open(os.path.join(settings["dataset_dir"], "dataset_info.json"), encoding="utf-8") as file:
        sources = [source["file_name"] for source in json.load(file).values()]
    num_records = sum(len(Path(source).read_bytes().splitlines()) for source in sources)

    def used(row: dict) -> tuple[int, list, list]:
        numbers = row["attention_mask"]
        return max(numbers), [number for number in numbers if number], row["labels"]

    return seconds, num_records, map(used, rows)


def counted(rows: Iterator[tuple[int, list, list]]) -> dict[str, int]:
    """Sums over the rows."""
    counts = {"rows": 0, "samples": 0, "tokens": 0, "supervised_tokens": 0, "rows_without_supervised_token": 0}
    for num_samples, tokens, labels in rows:
        supervised = sum(label != -100 for label in labels)
        counts["rows"] += 1
        counts["samples"] += num_samples
        counts["tokens"] += len(tokens)
        counts["supervised_tokens"] += supervised
        counts["rows_without_supervised_token"] += supervised == 0
    return counts


if __name__ == "__main__":
    main()
