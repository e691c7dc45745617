import pytest

from mftcoder.data.filters.docstrings import descriptions, docstrings, without_examples

DESCRIPTION = "Return the sum of all even numbers,\nand nothing else."
FUNCTIONS = {
    "python": 'def total(numbers):\n    """ Return the sum of all even numbers,\n    and nothing else.\n'
    '    >>> total([1, 2])\n    2\n    """\n',
    "java": "class Total {\n    /**\n     * Return the sum of all even numbers,\n     * and nothing else.\n"
    "     * > total(1, 2)\n     * 2\n     */\n    int total() {\n",
    "go": "package main\n// Return the sum of all even numbers,\n// and nothing else.\n// Examples:\n// total(1, 2)\n"
    "func total() int {\n",
    "rust": "/// Return the sum of all even numbers,\n/// and nothing else.\nfn total() -> u8 {\n",
    "csharp": "    /// <summary>\n    /// Return the sum of all even numbers,\n    /// and nothing else.\n"
    "    /// >>> Total(1)\n    /// </summary>\n    int Total() {\n",
    "ruby": "##\n# Return the sum of all even numbers,\n# and nothing else.\n# irb> total(1, 2)\ndef total(a, b)\n",
    "c": "#include <stdio.h>\n/*\nReturn the sum of all even numbers,\nand nothing else.\nassert total(2) == 2\n*/\n",
    "php": "<?php\n/**\n * * Return the sum of all even numbers,\n * and nothing else.\n * php > total(1)\n */\n",
}


@pytest.mark.parametrize("language", FUNCTIONS)
def test_a_docstring_is_found_in_the_comments_of_a_language(language: str) -> None:
    found = docstrings(FUNCTIONS[language])
    assert len(found) == 1
    assert without_examples(found[0]).splitlines() == DESCRIPTION.splitlines()


def test_docstrings_come_in_their_order_and_code_is_none() -> None:
    assert docstrings("def f():\n    '''One.'''\n\ndef g():\n    # Two.\n    x = 1 / 2 * 3\n") == ["One.", "Two."]
    assert docstrings("#!/bin/sh\n#include <a>\n#[derive(Debug)]\nx = 4 // 2\nprint('# no')\n") == []


def test_descriptions_are_the_whole_the_docstring_its_description_and_long_lines() -> None:
    text = FUNCTIONS["python"]
    found = descriptions(text)
    assert found[0] == text
    assert docstrings(text)[0] in found
    assert DESCRIPTION in found
    assert "Return the sum of all even numbers," in found
    assert "and nothing else." not in found
    assert descriptions("") == []


def test_a_text_that_only_holds_an_example_keeps_nothing_before_it() -> None:
    assert without_examples(">>> f(1)\n2") == ""
    assert without_examples("An example is better than a rule.") == "An example is better than a rule."
