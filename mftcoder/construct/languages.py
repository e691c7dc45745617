"""The languages whose source becomes task files: how their files, their functions and their tests are recognised.

Python is parsed by Python itself (``functions``); of the others ``LANGUAGES`` names the nodes of their tree-sitter
grammars, so that ``trees`` and ``tree_defects`` need to know no language.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import PurePath
from typing import Any

from mftcoder.errors import MftcoderError

Nodes = frozenset[str]


def _nodes(names: str) -> Nodes:
    return frozenset(names.split())


_BLOCKS = _nodes("block statement_block compound_statement statement_list")
_LOOPS = _nodes("for_statement while_statement do_statement for_in_statement enhanced_for_statement for_range_loop")
_SWITCHES = _nodes("switch_statement switch_expression")
_STRINGS = _nodes("string string_literal template_string raw_string_literal")
_NUMBERS = _nodes("number number_literal int_literal integer_literal decimal_integer_literal")
_SUBSCRIPTS = _nodes("subscript_expression subscript_argument_list array_access index_expression")
_ARGUMENTS = _nodes("argument_list arguments")


@dataclass(frozen=True)
class Language:
    """A row of ``LANGUAGES``; what is empty or None does not exist in the language."""

    name: str  # as prompts say it
    fence: str  # of Markdown
    suffixes: tuple[str, ...]
    tests: str  # files with tests: a pattern of the file's name
    tested: str  # pattern of what is taken off a test's name to get the tested file's
    grammar: tuple[str, str] | None = None  # module and function; None: Python's own parser
    functions: Nodes = frozenset()
    wrappers: Nodes = frozenset()  # hold a function and belong to it: export, template
    attributes: Nodes = frozenset()  # stand before a function and belong to it
    blocks: Nodes = _BLOCKS
    loops: Nodes = _LOOPS
    switches: Nodes = _SWITCHES
    strings: Nodes = _STRINGS
    numbers: Nodes = _NUMBERS
    subscripts: Nodes = _SUBSCRIPTS
    arguments: Nodes = _ARGUMENTS
    declarations: Nodes = frozenset()  # of parameters and local variables
    typed: bool = True  # a variable only stands for another of the same declared type
    exact: bool = True  # a file with a syntax error is none of the language; not so where a preprocessor comes first
    doc_comment: str = r"/\*\*"  # how a comment begins that documents what follows


_BLOCK_DOC = r"/\*\*(?!/)"

_C_FUNCTIONS = {
    "functions": _nodes("function_definition"),
    "declarations": _nodes("parameter_declaration declaration"),
    "exact": False,
    "doc_comment": r"/\*\*(?!/)|/\*!|///|//!|/\*|//",
}
_JS = {
    "functions": _nodes(
        "function_declaration generator_function_declaration method_definition arrow_function function_expression"
    ),
    "wrappers": _nodes("export_statement lexical_declaration variable_declarator"),
    "attributes": _nodes("decorator"),
    "doc_comment": _BLOCK_DOC,
    "tests": r".*[._-](test|spec)\.\w+|tests?\.\w+",
    "tested": r"[._-](test|spec)$",
}

LANGUAGES: dict[str, Language] = {
    "python": Language("Python", "python", (".py",), r"test_.*\.py|.*_tests?\.py|conftest\.py", r"^test_|_tests?$"),
    "java": Language(
        "Java",
        "java",
        (".java",),
        r"(Test[A-Z].*|.*(Tests?|TestCase|IT))\.java",
        r"^Test(?=[A-Z])|(Tests?|TestCase|IT)$",
        ("tree_sitter_java", "language"),
        functions=_nodes("method_declaration constructor_declaration compact_constructor_declaration"),
        blocks=_nodes("block constructor_body"),
        declarations=_nodes("formal_parameter local_variable_declaration"),
        doc_comment=_BLOCK_DOC,
    ),
    "javascript": Language(
        "JavaScript",
        "javascript",
        (".js", ".jsx", ".mjs", ".cjs"),
        grammar=("tree_sitter_javascript", "language"),
        declarations=_nodes("variable_declarator formal_parameters"),
        typed=False,
        **_JS,  # type: ignore[arg-type]
    ),
    "typescript": Language(
        "TypeScript",
        "typescript",
        (".ts", ".mts", ".cts"),
        grammar=("tree_sitter_typescript", "language_typescript"),
        declarations=_nodes("variable_declarator required_parameter optional_parameter"),
        **_JS,  # type: ignore[arg-type]
    ),
    "tsx": Language(
        "TypeScript",
        "tsx",
        (".tsx",),
        grammar=("tree_sitter_typescript", "language_tsx"),
        declarations=_nodes("variable_declarator required_parameter optional_parameter"),
        **_JS,  # type: ignore[arg-type]
    ),
    "c": Language(
        "C",
        "c",
        (".c", ".h"),
        r"test_.*\.[ch]|.*_(unit)?tests?\.[ch]",
        r"^test_|_(unit)?tests?$",
        ("tree_sitter_c", "language"),
        **_C_FUNCTIONS,  # type: ignore[arg-type]
    ),
    "cpp": Language(
        "C++",
        "cpp",
        (".cpp", ".cc", ".cxx", ".hpp", ".hh", ".hxx"),
        r"(?i:test_.*|.*[_-](unit)?tests?|.*Tests?)\.\w+",
        r"^test_|[_-](unit)?tests?$|Tests?$",
        ("tree_sitter_cpp", "language"),
        wrappers=_nodes("template_declaration"),
        **_C_FUNCTIONS,  # type: ignore[arg-type]
    ),
    "go": Language(
        "Go",
        "go",
        (".go",),
        r".*_test\.go",
        r"_test$",
        ("tree_sitter_go", "language"),
        functions=_nodes("function_declaration method_declaration"),
        loops=_nodes("for_statement"),
        switches=_nodes("expression_switch_statement type_switch_statement select_statement"),
        strings=_nodes("interpreted_string_literal raw_string_literal"),
        declarations=_nodes("parameter_declaration var_spec"),
        doc_comment="//|/\\*",
    ),
    "rust": Language(
        "Rust",
        "rust",
        (".rs",),
        r"tests?\.rs|.*_tests?\.rs",
        r"_tests?$",
        ("tree_sitter_rust", "language"),
        functions=_nodes("function_item"),
        attributes=_nodes("attribute_item"),
        loops=_nodes("for_expression while_expression loop_expression"),
        switches=frozenset(),  # break never leaves a match
        declarations=_nodes("parameter let_declaration"),
        doc_comment=r"///(?!/)|/\*\*(?!/)",
    ),
}

_BY_SUFFIX = {suffix: key for key, language in LANGUAGES.items() for suffix in language.suffixes}
NAMES = tuple(key for key in LANGUAGES if key != "tsx")  # what a user chooses from; tsx goes with typescript


def language_of(path: str, chosen: Iterable[str] = NAMES) -> str | None:
    """The key of the language of a file, by its suffix; None if it is none of those ``chosen``."""
    key = _BY_SUFFIX.get(PurePath(path).suffix)
    return key if key and ("typescript" if key == "tsx" else key) in chosen else None


def is_test(path: str, key: str) -> bool:
    """Whether a file, by its path below its root, holds tests rather than code."""
    *folders, name = path.split("/")
    if re.fullmatch(LANGUAGES[key].tests, name):
        return True
    return any(re.fullmatch(r"(.+_)?tests?|__tests__|spec|androidTest|testFixtures", folder) for folder in folders)


@cache
def parser(key: str) -> Any:
    """The tree-sitter parser of a language. Raises MftcoderError where its package is not installed."""
    grammar = LANGUAGES[key].grammar
    assert grammar is not None
    try:
        tree_sitter, module = import_module("tree_sitter"), import_module(grammar[0])
    except ImportError as error:
        raise MftcoderError(
            f"reading {LANGUAGES[key].name} needs the package {error.name}. Run pip install 'mftcoder[construct]', "
            "or choose other languages."
        ) from None
    return tree_sitter.Parser(tree_sitter.Language(getattr(module, grammar[1])()))
