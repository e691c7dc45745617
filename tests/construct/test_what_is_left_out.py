"""Licences, secrets, addresses, near-duplicates and folders: what never reaches a task file, and that it is counted."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from test_languages import quiet, write

from mftcoder.construct.from_source import construct
from mftcoder.construct.licences import is_allowed, licence_of, parse_allowed
from mftcoder.construct.sensitive import secret, without_emails
from mftcoder.errors import MftcoderError

MIT = (
    "Permission is hereby granted, free of charge, to any person obtaining a copy of it.\n"
    "The above copyright notice and this permission notice shall be included."
)
GPL = "GNU GENERAL PUBLIC LICENSE\n   Version 3, 29 June 2007\n"


def code(name: str, *, head: str = "", inside: str = "") -> str:
    """A Python file whose words are its own."""
    lines = "\n".join(f"    {name}_{number} = {name}.{name}_part_{number}({number})" for number in range(8))
    begin = f'{head}def {name}_all({name}):\n    """Take {name} apart and put it together."""\n'
    return f"{begin}{inside}{lines}\n    return {name}\n"


def made(tmp_path: Path, files: dict[str, str], **settings) -> tuple[dict, str]:
    """The counts, and all that was written."""
    root = write(tmp_path / "root", files)
    counts = construct(tmp_path / "out", [root], tell=quiet, **settings)
    return counts, "".join(path.read_text() for path in sorted((tmp_path / "out").glob("*.jsonl")))


def test_files_are_kept_by_the_nearest_licence_and_their_own_header_goes_before_it(tmp_path):
    files = {
        "LICENSE": MIT,
        "a.py": code("apple"),
        "b.py": code("banana", head="# SPDX-License-Identifier: GPL-3.0-or-later\n"),
        "sub/COPYING": GPL,
        "sub/c.py": code("cherry"),
        "sub/d.py": code("damson", head="# Licensed under the Apache License, Version 2.0 (the License)\n"),
        "two/LICENSE-APACHE": "Apache License\nVersion 2.0, January 2004",
        "two/LICENSE-GPL": GPL,
        "two/e.py": code("elder"),
    }
    counts, text = made(tmp_path, files)
    assert counts["files"]["left_out"] == {"licence GPL-3.0": 1, "licence GPL-3.0-or-later": 1}
    assert counts["licences"] == {"Apache-2.0": 1, "Apache-2.0 OR GPL-3.0": 1, "MIT": 1}
    assert "banana" not in text
    assert "cherry" not in text
    for line in text.splitlines():
        record = json.loads(line)
        expected = {"a": "MIT", "d": "Apache-2.0", "e": "Apache-2.0 OR GPL-3.0"}[record["group"][-4]]
        assert record["source"]["licence"] == expected


def test_code_without_a_licence_is_left_out_unless_it_is_asked_for(tmp_path):
    with pytest.raises(MftcoderError, match=r"licence unknown.*--licences permissive,unknown"):
        made(tmp_path, {"a.py": code("apple")})
    counts, _ = made(tmp_path, {"a.py": code("apple")}, licences=["permissive", "unknown"])
    assert counts["licences"] == {"unknown": 1}
    with pytest.raises(
        MftcoderError, match=r'licences: "WTF" is not known\. Choose from permissive, unknown, any, 0BSD'
    ):
        made(tmp_path, {"a.py": code("apple")}, licences=["WTF"])


@pytest.mark.parametrize(
    ("expression", "allowed"),
    [
        ("MIT", True),
        ("mit", True),
        ("MIT OR GPL-3.0", True),
        ("MIT AND GPL-3.0", False),
        ("GPL-2.0-only", False),
        ("(MIT OR GPL-3.0) AND Apache-2.0", True),
        ("MIT OR GPL-3.0 AND Apache-2.0", True),
        ("(MIT AND GPL-3.0) OR (GPL-2.0 AND MIT)", False),
        ("Apache-2.0 WITH LLVM-exception", True),
        ("MIT/Apache-2.0", True),
        ("MIT )", False),
        ("", False),
        (None, False),
    ],
)
def test_expressions_are_read_as_spdx_defines_them(expression, allowed):
    assert is_allowed(expression, parse_allowed(["permissive"])) is allowed


@pytest.mark.parametrize(
    ("text", "licence"),
    [
        (MIT, "MIT"),
        (GPL, "GPL-3.0"),
        ("GNU LESSER GENERAL PUBLIC LICENSE Version 2.1", "LGPL-2.1"),
        ("Redistribution and use in source and binary\n * forms, with or without modification", "BSD-2-Clause"),
        ("Redistribution and use in source and binary forms ... endorse or\n// promote products", "BSD-3-Clause"),
        ("// SPDX-License-Identifier: MIT OR Apache-2.0\nint x;", "MIT OR Apache-2.0"),
        ("/* SPDX-License-Identifier: ISC */", "ISC"),
        ("This is a program.", None),
    ],
)
def test_licences_are_known_by_their_phrases(text, licence):
    assert licence_of(text) == licence


def joined(*parts: str) -> str:
    """A secret that stands in no file, so that no scanner of this one is alarmed."""
    return "".join(parts)


SECRETS = {
    "private key": joined("-----BEGIN RSA ", "PRIVATE KEY-----"),
    "cloud key": joined("AKIA", "ABCDEFGHIJKLMNOP"),
    "token": joined("ghp", "_", "aB3" * 13),
    "password in an address": joined("postgres://admin", ":hunter2hunter2", "@db.internal/x"),
    "secret in a string": joined("api_key = '", "q8Zt3LmX0vR7", "bN2kYw9dPc4s'"),
}


@pytest.mark.parametrize("kind", SECRETS)
def test_a_file_with_a_secret_gives_nothing_in_any_task(tmp_path, kind):
    hidden = SECRETS[kind]
    files = {"a.py": code("apple"), "b.py": code("banana", inside=f'    key = """\n{hidden}\n"""\n')}
    counts, text = made(tmp_path, files, licences=["any"])
    assert counts["files"]["left_out"] == {f"secret: {kind}": 1}
    assert hidden.split("'")[-2 if "'" in hidden else 0] not in text
    assert "banana" not in text


@pytest.mark.parametrize(
    "text",
    [
        "password = getpass.getpass('your password here please')",
        "secret_key = 'change-me-before-you-deploy'",
        "token = 'https://example.com/token/v1/abc123'",
        "API_KEY_HEADER = 'x-api-key-for-requests'",
        "url = 'http://localhost:8000/a@b'",
        "f'{scheme}://{user}:{password}@{host}'",
        "PASSWORD_ALPHABET = 'abcdefghijklmnopqrstuvwxyz'",
    ],
)
def test_what_only_speaks_of_secrets_is_none(text):
    assert secret(text) is None


def test_addresses_are_masked_in_every_task_and_counted(tmp_path):
    head = "# By Ada <ada.l@numbers.org> and bob@mail.example.co.uk\n# help@example.com\n"
    counts, text = made(tmp_path, {"a.py": code("apple", head=head)}, licences=["any"])
    assert counts["masked"] == {"e-mail addresses": 2}
    assert "numbers.org" not in text
    assert "mail.example" not in text
    assert "help@example.com" in text


@pytest.mark.parametrize("text", ["x = a@b.dot(c)", "git@github.com:a/b.git", "@decorator.name", "a @ b", "m@n.T"])
def test_code_that_looks_like_an_address_stays(text):
    assert without_emails(text) == (text, 0)


def test_near_duplicates_are_left_out_and_the_first_stays(tmp_path):
    files = {"a.py": code("apple"), "b.py": code("apple").replace("apart", "asunder"), "c.py": code("cherry")}
    counts, text = made(tmp_path, files, licences=["any"], similarity=0.7)
    assert counts["files"]["left_out"] == {"near-duplicate": 1}
    assert "asunder" not in text
    counts, text = made(tmp_path, files, licences=["any"], similarity=None)
    assert counts["files"]["left_out"] == {}


def test_minified_and_generated_files_are_left_out(tmp_path):
    files = {
        "a.py": code("apple"),
        "a.min.js": "function a(b){return b};\n" * 20,
        "b.js": "var x=1;" * 400 + "\n",
        "c.go": "// Code generated by protoc. DO NOT EDIT.\npackage c\n" + "var x = 1\n" * 20,
    }
    counts, _ = made(tmp_path, files, licences=["any"])
    assert counts["files"]["left_out"] == {"generated": 2, "minified": 1}


def test_vendored_built_and_hidden_folders_are_not_looked_into(tmp_path):
    folders = ["node_modules", "vendor/a", "third_party", ".cache", "dist"]
    files = {"a.py": code("apple")} | {f"{folder}/b{n}.py": code(f"b{n}") for n, folder in enumerate(folders)}
    counts, _ = made(tmp_path, files, licences=["any"])
    assert counts["files"]["found"] == 1
    assert counts["not looked into"] == {"vendored folder": 3, "built folder": 1, "hidden folder": 1}


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_of_a_checkout_what_git_ignores_is_left_out_and_the_commit_is_noted(tmp_path):
    ran = tmp_path / "ran"
    root = write(
        tmp_path / "root",
        {".gitignore": "made*.py\nbuilt/\n!made_by_hand.py\n", "LICENSE": MIT}
        | {"a.py": code("apple"), "made.py": code("banana")}
        | {"made_by_hand.py": code("cherry"), "built/b.py": code("damson"), "made_tracked.py": code("elder")},
    )

    def git(*arguments: str) -> str:
        who = ["-c", "user.name=A", "-c", "user.email=a@example.com", "-c", "init.defaultBranch=main"]
        ran = subprocess.run(["git", *who, *arguments], cwd=root, check=True, capture_output=True, text=True)
        return ran.stdout.strip()

    git("init", "-q")
    git("add", "-f", "a.py", "made_tracked.py", ".gitignore")
    git("commit", "-q", "-m", "a")
    git("config", "core.fsmonitor", f"touch {ran}; false")
    counts = construct(tmp_path / "out", [root], tell=quiet)
    assert counts["not looked into"] == {"file ignored by git": 1, "folder ignored by git": 1, "hidden folder": 1}
    records = [json.loads(line) for line in (tmp_path / "out/text.jsonl").read_text().splitlines()]
    assert [record["group"] for record in records] == ["a.py", "made_by_hand.py", "made_tracked.py"]
    assert {record["source"]["commit"] for record in records} == {git("rev-parse", "HEAD")}
    assert not ran.exists()


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_the_licence_of_a_checkout_counts_in_its_folders_and_ends_there(tmp_path):
    write(
        tmp_path, {"LICENSE": MIT, "inner/LICENSE": MIT, "inner/src/a.py": code("apple"), "other/b.py": code("banana")}
    )
    with pytest.raises(MftcoderError, match="licence unknown"):
        construct(tmp_path / "out", [tmp_path / "inner/src"], tell=quiet)
    subprocess.run(["git", "init", "-q", tmp_path / "inner"], check=True)
    counts = construct(tmp_path / "out", [tmp_path / "inner/src"], tell=quiet)
    assert counts["licences"] == {"MIT": 1}
