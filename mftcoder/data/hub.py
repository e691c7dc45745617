"""The files of a dataset that the ``datasets`` library knows: on the Hugging Face hub, or in a local folder.

The library says which files make a split; they are then read like any other task file. Those of the hub are downloaded
once into its cache, below a folder named by dataset and commit, and are found there without a network too.
"""

import json
import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from mftcoder.config.schema import HubDataset
from mftcoder.data.reading import SUFFIXES
from mftcoder.errors import MftcoderError

SAVED = ("state.json", "dataset_dict.json")  # in a folder that save_to_disk made: of one split, of several
_CONVERT = "Convert it: datasets.load_dataset(…).save_to_disk(FOLDER), and name that folder as the dataset's path."


def dataset_files(dataset: HubDataset, where: str) -> list[Path]:
    """The files of the split that ``dataset`` names; MftcoderError that begins with ``where`` if there is none."""
    where = f"{where}: dataset {dataset.path}"
    folder = Path(dataset.path)
    if folder.is_dir():
        if dataset.revision:
            raise MftcoderError(f"{where}: only datasets on the hub have a revision; this is a folder. Delete it.")
    else:
        folder = _downloaded(dataset.path, dataset.name, dataset.revision, where)
    files = _saved_files(folder, dataset, where) or _data_files(folder, dataset, where)
    for file in files:
        if not file.name.endswith(SUFFIXES):
            raise MftcoderError(f"{where}: {file.name} is of no kind that is read: {', '.join(SUFFIXES)}. {_CONVERT}")
    return files


def _saved_files(folder: Path, dataset: HubDataset, where: str) -> list[Path]:
    """Those of a folder that ``save_to_disk`` made of one split or of several; none if it is another folder."""
    if (folder / SAVED[1]).is_file():
        _check_split(dataset.split, json.loads((folder / SAVED[1]).read_bytes())["splits"], where)
        folder /= dataset.split
    elif not (folder / SAVED[0]).is_file():
        return []
    if dataset.name:
        raise MftcoderError(f"{where}: name: a folder that save_to_disk made holds one configuration. Delete it.")
    state = json.loads((folder / SAVED[0]).read_bytes())
    _check_split(dataset.split, [state["_split"] or dataset.split], where)
    return [folder / file["filename"] for file in state["_data_files"]]


def _data_files(folder: Path, dataset: HubDataset, where: str) -> list[Path]:
    config = _configuration(str(folder), dataset.name, None, where)
    if getattr(config, "field", None):
        raise MftcoderError(f'{where}: its records lie in the field "{config.field}" of a file. {_CONVERT}')
    _check_split(dataset.split, list(config.data_files or ()), where)
    return [Path(file) for file in config.data_files[dataset.split]]


def _check_split(split: str, splits: list[str], where: str) -> None:
    if split not in splits:
        raise MftcoderError(f'{where}: has no split "{split}"; it has {", ".join(splits)}.')


@cache
def _downloaded(path: str, name: str | None, revision: str | None, where: str) -> Path:
    """The folder of one commit of a dataset on the hub, with the files of a configuration."""
    from huggingface_hub import constants, snapshot_download

    def fetch(wanted: Iterable[str], revision: str | None) -> Path:
        try:
            return Path(snapshot_download(path, repo_type="dataset", revision=revision, allow_patterns=list(wanted)))
        except Exception as error:  # of network, hub or disk: each has its own
            raise _unavailable(where, error) from error

    if not constants.HF_HUB_OFFLINE:
        commit, wanted = "", ["README.md"]
        for file in _all_files(path, name, revision, where):  # hf://datasets/org/name@commit/folder/file
            commit, _, inside = file.removeprefix(f"hf://datasets/{path}@").partition("/")
            wanted.append(inside)
        return fetch(wanted, commit or revision)
    folder = fetch(["README.md"], revision)
    # The library takes the files that it finds. Was the download complete? The files of a split differ in digits.
    found = [str(Path(file).relative_to(folder)) for file in _all_files(str(folder), name, None, where)]
    return fetch({re.sub(r"\d+", "*", file) for file in found}, revision)


def _all_files(path: str, name: str | None, revision: str | None, where: str) -> list[str]:
    """Those of all splits of a configuration."""
    splits = _configuration(path, name, revision, where).data_files or {}
    return [str(file) for files in splits.values() for file in files]


def _configuration(path: str, name: str | None, revision: str | None, where: str) -> Any:
    from datasets import load_dataset_builder

    try:
        return load_dataset_builder(path, name, revision=revision).config
    except Exception as error:  # of network, hub, card or configuration
        raise _unavailable(where, error) from error


def _unavailable(where: str, error: Exception) -> MftcoderError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return MftcoderError(f"{where}: is not available: {reason}")
