"""One record of any supported format -> ``Conversation`` or ``Text``.

``RECORD_FORMATS`` is the table of formats: a row says how to recognise a record and how to read it. All formats take an
optional ``group`` (source file, conversation …): samples of one group are never divided among splits.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from mftcoder.errors import MftcoderError
from mftcoder.json_values import check_values, parse_json

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Message:
    """One turn of a conversation."""

    role: str  # system, user, assistant or tool
    content: str
    supervised: bool  # the model learns to write it; only ever true of the assistant's
    fields: Mapping[str, Any] = field(default_factory=dict)  # tool_calls, name …: what else a chat template may use


@dataclass(frozen=True)
class Conversation:
    """Messages that a chat template renders to one sample."""

    messages: tuple[Message, ...]
    group: str | None = None
    tools: tuple[Mapping[str, Any], ...] = ()
    where: str = field(default="sample", compare=False)  # for error messages


@dataclass(frozen=True)
class Text:
    """Plain text, supervised from its second token on."""

    text: str
    group: str | None = None
    where: str = field(default="sample", compare=False)
    hole: tuple[int, int] | None = None  # where the middle of fill-in-the-middle begins and ends, if it is given


class Format(NamedTuple):
    """A row of ``RECORD_FORMATS``."""

    detect: Callable[[Record], bool]
    parse: Callable[[Record, str], Conversation | Text]  # of a detected record and its place; raises MftcoderError


class Turns(NamedTuple):
    """How a list of turns is spelt: the record's key, each turn's keys, and the names of the roles."""

    key: str
    role: str
    content: str
    roles: Mapping[str, str]  # spelling -> role
    expected: str  # the spellings, in words


_MESSAGES = Turns(
    "messages",
    "role",
    "content",
    {"system": "system", "developer": "system", "user": "user", "assistant": "assistant", "tool": "tool"},
    "system, user, assistant or tool (or developer)",
)
_CHAT_ROUNDS = Turns(
    "chat_rounds",
    "role",
    "content",
    {"system": "system"}
    | dict.fromkeys(["user", "human"], "user")
    | dict.fromkeys(["assistant", "bot", "gpt"], "assistant"),
    "system, user or assistant (or human, bot)",
)
_SHAREGPT = Turns(
    "conversations",
    "from",
    "value",
    {"system": "system"}
    | dict.fromkeys(["human", "user"], "user")
    | dict.fromkeys(["gpt", "assistant", "chatgpt", "bot", "function_call"], "assistant")
    | dict.fromkeys(["tool", "observation"], "tool"),
    "system, human, gpt, function_call or observation (or user, assistant, tool)",
)
_INFILL = ("prefix", "middle", "suffix")
_PAIRS = (
    ("prompt", "answer"),
    ("prompt", "response"),
    ("input", "output"),
    ("instruction", "output"),
    ("instruction", "response"),
    ("question", "response"),
    ("question", "answer"),
    ("query", "answer"),
)


def _parse_turns(turns: Turns, record: Record, where: str, *, alternating: bool = False) -> Conversation:
    entries = record[turns.key]
    if not isinstance(entries, list) or not entries:
        raise MftcoderError(f"{where}: {turns.key} must be a list of at least one message; found {shown(entries)}.")
    messages = [_system(record, where)] if "system" in record else []
    for index, entry in enumerate(entries):
        place = f"{where}: {turns.key}[{index}]"
        if not isinstance(entry, dict):
            raise MftcoderError(f"{place} must be an object; found {shown(entry)}.")
        message = _message(turns, entry, place)
        before = messages[-1].role if messages else "the start"
        if message.role == "system" and messages:
            raise MftcoderError(f"{place}.{turns.role}: a system message must come first; found it after {before}.")
        due = "assistant" if before == "user" else "user"
        if alternating and message.role not in ("system", due):
            raise MftcoderError(f"{place}.{turns.role} must be {due} after {before}; found {shown(entry[turns.role])}.")
        messages.append(message)
    return Conversation(tuple(messages), _group(record, where), _tools(record, where), where)


def parse_messages(record: Record, where: str) -> Conversation:
    """A record of the format ``messages``; MftcoderError that begins with ``where`` if it is none."""
    if _MESSAGES.key not in record:
        raise MftcoderError(f'{where}: must have "messages"; found keys {shown(list(record))}.')
    return _parse_turns(_MESSAGES, record, where)


def _message(turns: Turns, entry: Record, place: str) -> Message:
    spelling = entry.get(turns.role)
    if not isinstance(spelling, str) or spelling not in turns.roles:
        raise MftcoderError(f"{place}.{turns.role} must be {turns.expected}; found {shown(spelling)}.")
    fields = {k: v for k, v in entry.items() if k not in (turns.role, turns.content, "train") and v is not None}
    content = entry.get(turns.content)
    if content is None and "tool_calls" in fields:
        content = ""
    if isinstance(content, list) and all(_is_text_part(part) for part in content):
        content = "".join(part["text"] for part in content)
    if not isinstance(content, str):
        raise MftcoderError(
            f'{place}.{turns.content} must be a string, or a list of {{"type": "text", "text": …}}; '
            f"found {shown(content)}."
        )
    train = entry.get("train", True)
    if not isinstance(train, bool):
        raise MftcoderError(f"{place}.train must be true or false; found {shown(train)}.")
    role = turns.roles[spelling]
    return Message(role, content, supervised=train and role == "assistant", fields=fields)


def _is_text_part(part: Any) -> bool:
    return isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str)


def _parse_pair(keys: tuple[str, str], record: Record, where: str) -> Conversation:
    prompt, answer = (_string(record, key, where) for key in keys)
    messages = [_system(record, where)] if "system" in record else []
    messages += [Message("user", prompt, supervised=False), Message("assistant", answer, supervised=True)]
    return Conversation(tuple(messages), _group(record, where), (), where)


def _parse_alpaca(record: Record, where: str) -> Conversation:
    context = _string(record, "input", where) if record.get("input") else ""
    prompt = "\n".join(filter(None, [_string(record, "instruction", where), context]))
    return _parse_pair(("instruction", "output"), {**record, "instruction": prompt}, where)


def _parse_pairs(record: Record, where: str) -> Conversation:
    found = [pair for pair in _PAIRS if all(key in record for key in pair)]
    if len(found) > 1:
        spelt = " and ".join("/".join(pair) for pair in found)
        raise MftcoderError(f"{where}: one pair of prompt and answer is needed; found {spelt}. Keep one of them.")
    return _parse_pair(found[0], record, where)


def _parse_text(record: Record, where: str) -> Text:
    return Text(_string(record, "text", where), _group(record, where), where)


def _parse_infill(record: Record, where: str) -> Text:
    prefix, middle, suffix = (_string(record, key, where) for key in _INFILL)
    hole = len(prefix), len(prefix) + len(middle)
    return Text(prefix + middle + suffix, _group(record, where), where, hole)


RECORD_FORMATS: dict[str, Format] = {  # detection takes the first that fits; a plugin may add rows
    "messages": Format(lambda r: "messages" in r, parse_messages),
    "chat_rounds": Format(
        lambda r: "chat_rounds" in r, lambda r, where: _parse_turns(_CHAT_ROUNDS, r, where, alternating=True)
    ),
    "sharegpt": Format(lambda r: "conversations" in r, lambda r, where: _parse_turns(_SHAREGPT, r, where)),
    "alpaca": Format(lambda r: "instruction" in r and "output" in r, _parse_alpaca),
    "prompt_completion": Format(
        lambda r: "prompt" in r and "completion" in r, lambda r, where: _parse_pair(("prompt", "completion"), r, where)
    ),
    "pairs": Format(lambda r: any(prompt in r and answer in r for prompt, answer in _PAIRS), _parse_pairs),
    "infill": Format(lambda r: all(key in r for key in _INFILL), _parse_infill),
    "text": Format(lambda r: "text" in r, _parse_text),
}


def detect(record: Record) -> str | None:
    """The name of the first format that fits."""
    return next((name for name, row in RECORD_FORMATS.items() if row.detect(record)), None)


def _string(record: Record, key: str, where: str) -> str:
    if not isinstance(record.get(key), str):
        raise MftcoderError(f"{where}: {key} must be a string; found {shown(record.get(key))}.")
    return record[key]


def _system(record: Record, where: str) -> Message:
    return Message("system", _string(record, "system", where), supervised=False)


def _group(record: Record, where: str) -> str | None:
    group = record.get("group")
    if group is not None and not isinstance(group, str | int):
        raise MftcoderError(f"{where}: group must be a string or an integer; found {shown(group)}.")
    return None if group is None else str(group)


def _tools(record: Record, where: str) -> tuple[Mapping[str, Any], ...]:
    tools = record.get("tools", [])
    if isinstance(tools, str):  # ShareGPT files hold the list as JSON in a string
        tools = parse_json(tools or "[]", f"{where}: tools")
        check_values(tools, f"{where}: tools")
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise MftcoderError(f"{where}: tools must be a list of JSON schemas; found {shown(tools)}.")
    return tuple(tools)


def shown(value: Any) -> str:
    """``value`` as JSON, cut where it is long."""
    text = "nothing" if value is None else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 80 else f"{text[:79]}…"
