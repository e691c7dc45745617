"""What is wrong with a config, in words: where, what, what was found, and the remedy."""

import difflib
import json
import re
from collections.abc import Iterable
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from mftcoder.config.describe import Setting, settings

Place = tuple[str | int, ...]  # keys and list indices from the top
Known = tuple[Setting, ...]  # the keys that there are

KINDS = {
    "string_type": "a string",
    "int_type": "an integer",
    "int_from_float": "an integer",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "list_type": "a list",
    "dict_type": "an object",
    "model_type": "an object",
    "model_attributes_type": "an object",
}
LIMITS = {
    "greater_than": "be greater than {gt:.10g}",
    "greater_than_equal": "be at least {ge:.10g}",
    "less_than": "be less than {lt:.10g}",
    "less_than_equal": "be at most {le:.10g}",
    "too_short": "have at least {min_length} entry",
    "string_too_short": "not be empty",
    "string_too_long": "have at most {max_length} characters",
    "string_pattern_mismatch": "match {pattern}",
}
ALIASES = {  # what other programs call our keys, where the spelling is not close
    "lr": "learning_rate",
    "min_lr": "min_learning_rate",
    "epochs": "num_train_epochs",
    "num_epochs": "num_train_epochs",
    "steps": "max_steps",
    "batch_size": "per_device_train_batch_size",
    "micro_batch_size": "per_device_train_batch_size",
    "eval_batch_size": "per_device_eval_batch_size",
    "grad_accum": "gradient_accumulation_steps",
    "grad_clip": "max_grad_norm",
    "scheduler": "lr_scheduler_type",
    "warmup_ratio": "warmup_steps",
    "num_warmup_steps": "warmup_steps",
    "eval_interval": "eval_steps",
    "save_interval": "save_steps",
    "patience": "early_stopping_patience",
    "gradient_checkpointing": "activation_checkpointing",
    "seq_length": "sequence_length",
    "max_length": "sequence_length",
    "max_seq_length": "sequence_length",
    "model_name_or_path": "path",
    "attn_implementation": "attention",
    "torch_dtype": "dtype",
    "r": "rank",
    "lora_alpha": "alpha",
    "use_rslora": "rank_stabilized",
    "use_dora": "dora",
    "init_lora_weights": "initialization",
}
LONGEST_VALUE = 60  # characters of a found value that a message shows


def show(value: Any) -> str:
    """A JSON value as a message quotes it: on one line, cut when long."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= LONGEST_VALUE else text[: LONGEST_VALUE - 1] + "…"


def nearest(word: str, known: list[str]) -> str:
    """``; did you mean "…"?`` with the one of ``known`` that is close to ``word``; empty if none is."""
    close = difflib.get_close_matches(word.lower(), known, n=1)
    return f'; did you mean "{close[0]}"?' if close else ""


def of_schema(error: ValidationError, raw: dict[str, Any], known: Known | None = None) -> list[str]:
    """Every problem that pydantic found in ``raw``, as ``key: problem`` lines.

    ``known``: the keys that a config of its kind can have; default: those of the training config.
    """
    known = known or settings()
    places: dict[Place, list[ErrorDetails]] = {}
    for details in error.errors(include_url=False):
        places.setdefault(_place(details, raw), []).append(details)
    # The parts of "a string or a list of strings" fail each on its own; the deepest failure says most.
    inner = [place for place in places if not any(other[: len(place)] == place != other for other in places)]
    return [
        f"{'.'.join(map(str, place)) or 'the config'}: {_problem(places[place], place, raw, known)}" for place in inner
    ]


def _place(details: ErrorDetails, node: Any) -> Place:
    """Where below ``node`` an error lies: pydantic's path without the names of the alternatives that it tried."""
    place: list[str | int] = []
    for part in details["loc"]:
        inside_list = isinstance(node, list) and isinstance(part, int)
        if inside_list or (isinstance(node, dict) and part in node):
            node = node[part]
            place.append(part)
    if details["type"] == "missing":
        place.append(details["loc"][-1])
    if details["type"].startswith("union_tag"):
        place.append("type")
    return tuple(place)


def _problem(failures: list[ErrorDetails], place: Place, raw: dict[str, Any], known: Known) -> str:
    """What is wrong at one place. Several failures mean that none of the alternatives of its type fits."""
    details = next((failure for failure in failures if failure["type"] in LIMITS), failures[0])
    kind = details["type"]
    context, value = details.get("ctx", {}), details["input"]
    if kind == "extra_forbidden":
        return _unknown_key(place, raw, known)
    if kind == "missing":
        return f"missing. {_meaning(place, known)}".rstrip()
    if kind == "union_tag_not_found":
        return f"missing; it must be {_either(_types(place, known))}."
    if kind == "union_tag_invalid":
        return _not_one_of(_types(place, known), value["type"])
    if kind == "literal_error":
        return _not_one_of(re.findall("'([^']*)'", context["expected"]), value)
    if kind in LIMITS:
        return f"must {LIMITS[kind].format(**context)}; found {show(value)}."
    if wanted := dict.fromkeys(KINDS[failure["type"]] for failure in failures if failure["type"] in KINDS):
        return f"must be {' or '.join(wanted)}; found {show(value)}."
    return f"{details['msg']}; found {show(value)}."


def _unknown_key(place: Place, raw: Any, known: Known) -> str:
    """The nearest key of the same section; else the type or the section that has this very key."""
    for part in place[:-1]:
        raw = raw[part]
    key, section, form = str(place[-1]), _section(place), raw.get("type")
    here = [setting for setting in known if setting.section == section]
    forms = [setting.variant for setting in here if setting.key == key]
    if forms:
        now = f'"type": {show(form)}' if form else "the default type"
        return f"unknown key with {now}; it belongs to {_either(forms)}."
    meant = ALIASES.get(key.lower(), key)
    if hint := nearest(meant, [setting.key for setting in here if form in (None, setting.variant)]):
        return f"unknown key{hint}"
    plain_first = sorted(known, key=lambda setting: setting.variant is not None)
    elsewhere = [f"{setting.section}.{meant}".lstrip(".") for setting in plain_first if setting.key == meant != "type"]
    return f'unknown key; did you mean "{elsewhere[0]}"?' if elsewhere else "unknown key. Delete it."


def _not_one_of(names: list[str], value: Any) -> str:
    return f"must be {_either(names)}; found {show(value)}{nearest(str(value), names) or '.'}"


def _either(names: Iterable[str | None]) -> str:
    *most, last = [f'"{name}"' for name in names]
    return f"{', '.join(most)} or {last}" if most else last


def _section(place: Place) -> str:
    return ".".join(part for part in place[:-1] if isinstance(part, str))


def _types(place: Place, known: Known) -> list[str]:
    """The types that the section around ``place`` can have."""
    found = [setting.variant for setting in known if setting.section == _section(place)]
    return list(dict.fromkeys(variant for variant in found if variant))


def _meaning(place: Place, known: Known) -> str:
    for setting in known:
        if (setting.section, setting.key) == (_section(place), place[-1]):
            return setting.schema.get("description", "")
    return ""
