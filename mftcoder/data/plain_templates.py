"""Whether what a chat template writes around the contents of messages is the same whatever the contents are.

The template is run with contents that only let themselves be written, stripped, and put beside other text; all that
else could be done to a string is refused and noted. What such a run has shown for some contents holds for all: no other
branch can be taken. Where a template could do more than that unseen, nothing is said.
"""

from typing import Any, NoReturn

from jinja2 import Template, nodes
from transformers.utils import chat_template_utils

_FILTERS = {"trim", "length", "count", "list", "first", "last", "default", "d"}
_TESTS = {"defined", "undefined", "none", "string", "mapping", "boolean", "number", "true", "false", "eq", "equalto"}
_FUNCTIONS = {"raise_exception", "namespace", "range"}
_UNSEEN = (
    nodes.Concat,
    nodes.Macro,
    nodes.AssignBlock,
    nodes.FilterBlock,
    nodes.Import,
    nodes.FromImport,
    nodes.Include,
)
_HARMLESS = {"__new__", "__init__", "__class__", "__getattribute__", "__setattr__", "__delattr__", "__doc__", "__dir__"}
_HARMLESS |= {"__init_subclass__", "__subclasshook__"}


def writes_only(template: str, messages: list[dict[str, Any]], text: str, special: dict[str, Any]) -> bool:
    """Whether ``template`` is known to do nothing with the contents of ``messages`` but to write or strip them.

    ``text`` is what it makes of them.
    """
    try:
        compiled = chat_template_utils._compile_jinja_template(template)
        if not _is_transparent(compiled, template):
            return False
        noted: list[str] = []
        guarded = [{**message, "content": _Guarded([message["content"]], noted)} for message in messages]
        written = compiled.render(messages=guarded, tools=None, documents=None, add_generation_prompt=False, **special)
    except Exception:  # a template is a program: it can fail in any way
        return False
    return not noted and written == text


def _is_transparent(compiled: Template, template: str) -> bool:
    """Whether all that ``template`` can do to a string is done by the string's methods, or shows in what it writes."""
    tree = compiled.environment.parse(template)
    written = {id(node) for output in tree.find_all(nodes.Output) for node in output.nodes}
    filters = {node.name for node in tree.find_all(nodes.Filter) if node.name != "tojson" or id(node) not in written}
    return (
        filters <= _FILTERS
        and {node.name for node in tree.find_all(nodes.Test)} <= _TESTS
        and all(_is_known(call) for call in tree.find_all(nodes.Call))
        and all(_is_by_equality(comparison) for comparison in tree.find_all(nodes.Compare))
        and next(tree.find_all(_UNSEEN), None) is None
    )


def _is_known(call: nodes.Call) -> bool:
    if isinstance(
        call.node, nodes.Getattr
    ):  # a method: of another string, it could look at the contents as an argument
        return all(isinstance(argument, nodes.Const) for argument in call.args)
    return isinstance(call.node, nodes.ExtensionAttribute) or getattr(call.node, "name", None) in _FUNCTIONS


def _is_by_equality(comparison: nodes.Compare) -> bool:
    """Not ``content in "some text"``: the text would look at the contents."""
    left, right = comparison.expr, comparison.ops[-1]
    is_in = any(operand.op in ("in", "notin") for operand in comparison.ops)
    return not is_in or isinstance(left, nodes.Const) or isinstance(right.expr, nodes.List | nodes.Tuple)


class _Guarded(str):
    """The text of some ``parts`` in a row; ``noted`` gains whatever else is tried than to write, strip or join it."""

    _parts: list[str]
    _noted: list[str]

    def __new__(cls, parts: list[str], noted: list[str]) -> "_Guarded":
        made = super().__new__(cls, "\ue000read past its methods\ue001")
        made._parts, made._noted = parts, noted
        return made

    def __str__(self) -> str:
        return "".join(self._parts)

    def __add__(self, other: str) -> "_Guarded":
        return _Guarded([*self._parts, *_parts(other)], self._noted)

    def __radd__(self, other: str) -> "_Guarded":
        return _Guarded([*_parts(other), *self._parts], self._noted)

    def strip(self, chars: str | None = None, /) -> "_Guarded":
        if chars is not None or len(self._parts) > 1:
            _refuse(self)
        return _Guarded([self._parts[0].strip()], self._noted)


def _parts(text: str) -> list[str]:
    return text._parts if isinstance(text, _Guarded) else [text]


def _refuse(guarded: _Guarded, *_: object, **__: object) -> NoReturn:
    guarded._noted.append("touched")  # the template may catch the error, as some of Jinja's tests do
    raise NotImplementedError


for _name in {*dir(str), "__bool__"} - _HARMLESS - set(vars(_Guarded)):
    setattr(_Guarded, _name, _refuse)
