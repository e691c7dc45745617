import base64
import hashlib
import itertools
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from plotly.offline import get_plotlyjs

from mftcoder.errors import MftcoderError
from mftcoder.report.page import embed, write_report

FILES = ("config.json", "run.json", "metrics.jsonl", "generations.jsonl", "evaluation.json")
HOSTILE = '</script></pre><script>alert(1)</script><img src=x onerror="alert(2)">\'"><!--{{7*7}}'


class Page(HTMLParser):
    """The elements of a page, and the text inside each kind of element."""

    def __init__(self, path: Path):
        super().__init__()
        self.elements: list[tuple[str, tuple]] = []
        self.texts: dict[str, list[str]] = {}
        self.open: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, tuple(attrs)))
        self.open.append(tag)
        if tag in ("script", "style"):
            self.texts.setdefault(tag, []).append("")

    def handle_endtag(self, tag):
        while self.open and self.open.pop() != tag:
            pass

    def handle_data(self, data):
        tag = self.open[-1] if self.open else ""
        if tag in ("script", "style"):
            self.texts[tag][-1] += data
        else:
            self.texts.setdefault("", []).append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts[""]).split())

    @property
    def figures(self) -> dict[str, dict]:
        return {figure["id"]: figure for figure in json.loads(self.texts["script"][0])}


def report(folders, to: Path) -> Page:
    return Page(write_report(folders, to / "report.html"))


def test_the_page_refers_to_nothing_outside_itself(make_run, tmp_path):
    page = report([make_run("a"), make_run("b")], tmp_path)
    fetching = {"src", "href", "srcset", "action", "formaction", "data", "poster", "background", "ping", "xlink:href"}
    attributes = [name for _, attrs in page.elements for name, _ in attrs]
    assert fetching.isdisjoint(attributes)
    assert {"link", "iframe", "object", "embed", "base", "img"}.isdisjoint(tag for tag, _ in page.elements)
    assert not any(re.search(r"url\(|@import|https?:", style) for style in page.texts["style"])


def test_the_policy_allows_the_two_scripts_of_the_page_and_no_request(make_run, tmp_path):
    page = report([make_run("a")], tmp_path)
    attributes = next(dict(attrs) for tag, attrs in page.elements if ("http-equiv", "Content-Security-Policy") in attrs)
    policy = dict(part.strip().split(" ", 1) for part in attributes["content"].split(";"))
    data, *scripts = page.texts["script"]
    hashes = [f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" for text in scripts]
    assert policy["script-src"].split() == hashes
    assert policy["default-src"] == "'none'"
    assert scripts[0] == get_plotlyjs()
    assert "http" not in attributes["content"]
    assert data.startswith("[")


def poison(value):
    """``value`` with every key and string made hostile, but for the keys and values that give a file its structure."""
    known = {
        *(
            "kind",
            "step",
            "epoch",
            "loss",
            "losses",
            "ratios",
            "mean_ratio",
            "weights",
            "units",
            "passes",
            "samples",
            "rows",
            "supervised_tokens",
            "length_counts",
            "tokens",
            "slopes",
            "rcs",
        ),
        *("acs", "df", "seconds", "tokens_per_second", "grad_norm", "learning_rate", "data", "tasks", "name", "notes"),
        *(
            "task",
            "prompt",
            "reference",
            "generated",
            "nll",
            "against",
            "change",
            "interval",
            "split",
            "reason",
            "versions",
        ),
        *("mfu", "memory_gib", "overhead"),
        *("fingerprint", "best", "skipped", "train", "validation", "probe", "checkpoint", "stop"),
    }
    if isinstance(value, dict):
        return {key if key in known else key + HOSTILE: poison(item) for key, item in value.items()}
    if isinstance(value, list):
        return [poison(item) for item in value]
    return value + HOSTILE if isinstance(value, str) and value not in known else value


def poisoned(folder: Path) -> Path:
    for name in FILES:
        path = folder / name
        parts = path.read_text().splitlines() if name.endswith("l") else [path.read_text()]
        path.write_text("\n".join(json.dumps(poison(json.loads(part))) for part in parts))
    return folder


def test_no_text_from_a_file_becomes_markup(make_run, tmp_path):
    folders = [make_run("a"), make_run("b", learning_rate=5e-5, seed=1)]
    harmless = report(folders, tmp_path)
    hostile = report([poisoned(folder) for folder in folders], tmp_path)
    assert hostile.elements == harmless.elements
    assert hostile.texts["script"][1:] == harmless.texts["script"][1:]
    for part in (
        f"code-completion{HOSTILE}",
        f"finished{HOSTILE}",
        f"torch{HOSTILE}",
        f"9f2c41aa03{HOSTILE}",
        "def f(n)",
    ):
        assert " ".join(part.split()) in hostile.text
    assert "{{7*7}}" in hostile.text


def test_embedded_json_cannot_close_its_script_and_keeps_its_value(tmp_path):
    value = {HOSTILE: ["&lt;", "]]>", "\u2028", 0.1, None]}
    (tmp_path / "page.html").write_text(f'<script type="application/json">{embed(value)}</script>')
    page = Page(tmp_path / "page.html")
    assert "<" not in embed(value)
    assert json.loads(page.texts["script"][0]) == value


def test_names_in_plots_are_escaped_for_plotly_too(make_run, tmp_path):
    page = report([poisoned(make_run("a"))], tmp_path)
    names = [line["name"] for figure in page.figures.values() for line in figure["lines"]]
    assert any("&lt;script&gt;" in name for name in names)
    assert not any("<" in name for name in names)


def test_the_page_holds_the_very_numbers_of_the_metrics(make_run, tmp_path):
    folder = make_run("a")
    line = report([folder], tmp_path).figures["gradient-norm"]["lines"][0]
    entries = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    expected = [(entry["step"], entry["grad_norm"]) for entry in entries if entry["kind"] == "train"]
    assert list(zip(line["x"], line["y"], strict=True)) == expected


def test_long_runs_stay_small(tmp_path):
    lines = ({"kind": "train", "step": step, "loss": step % 97, "losses": {"a": step % 89}} for step in range(30_000))
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
    figures = report([tmp_path], tmp_path).figures
    assert {len(line["x"]) <= 2000 for figure in figures.values() for line in figure["lines"]} == {True}
    assert (min(figures["weighted-loss"]["lines"][0]["y"]), max(figures["weighted-loss"]["lines"][0]["y"])) == (0, 96)


@pytest.mark.parametrize(
    "kept", [c for n in (1, 2, 4) for c in itertools.combinations(FILES, n) if {*c} & {*FILES[:3]}]
)
def test_any_part_of_a_run_gives_a_page_that_names_what_is_missing(make_run, tmp_path, kept):
    folder = make_run("a")
    for name in set(FILES) - set(kept):
        (folder / name).unlink()
    text = report([folder], tmp_path).text
    missing = ", ".join(name for name in FILES if name not in kept)
    assert f"not in this folder: {missing}." in text


@pytest.mark.parametrize("content", ["", "{", "[]", '{"data": 3, "notes": 5, "tasks": [1], "versions": null}', "\x00"])
def test_files_of_the_wrong_shape_give_a_page(make_run, tmp_path, content):
    folder = make_run("a")
    for name in FILES:
        (folder / name).write_text(content)
    assert "a" in report([folder], tmp_path).text


def test_the_headline_is_the_change_of_the_mean_ratio(tmp_path):
    lines = [
        {
            "kind": "validation",
            "step": 0,
            "losses": {"a": 2.0, "b": 1.0},
            "ratios": {"a": 1.0, "b": 1.0},
            "mean_ratio": 1.0,
        },
        {
            "kind": "validation",
            "step": 1500,
            "losses": {"a": 1.5, "b": 0.9},
            "ratios": {"a": 0.75, "b": 0.9},
            "mean_ratio": 0.825,
        },
    ]
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
    text = report([tmp_path], tmp_path).text
    assert "Mean change of validation loss −17.5% Spread of the tasks 0.150 Best at step 1,500 of 1,500" in text
    assert "a −25.0% 2.0000 1.5000 1.5000 1,500" in text
    assert "No end was recorded" in text


def test_several_runs_show_the_settings_that_differ_and_share_one_data_table(make_run, tmp_path):
    text = report([make_run("a"), make_run("b", learning_rate=5e-5)], tmp_path).text
    assert "training.learning_rate 0.0002 5e-05" in text
    assert text.count("17,200,000") == 1


def test_the_evaluation_shows_relative_changes_in_percent(make_run, tmp_path):
    folder = make_run("a")
    text = report([folder], tmp_path).text
    assert text.count("−29.0% −33.0% … −25.0% 52,113") == 4
    evaluation = {
        "split": "validation",
        "tasks": {"code": {"nll": 1.0, "against": 2.0, "change": -0.5, "interval": None}},
    }
    (folder / "evaluation.json").write_text(json.dumps(evaluation))
    assert "2.0000 1.0000 −50.0% — —" in report([folder], tmp_path).text


def test_text_that_is_not_unicode_and_very_long_text_are_shown_as_far_as_can_be(make_run, tmp_path):
    folder = make_run("a")
    sample = {"task": "code", "prompt": "p", "generated": "\ud800" + "x" * 5000}
    (folder / "generations.jsonl").write_text(json.dumps(sample))
    assert "… 1,001 more characters" in report([folder], tmp_path).text


def test_the_report_replaces_an_older_one_and_leaves_nothing_beside_it(make_run, tmp_path):
    to = tmp_path / "new" / "folder" / "report.html"
    folder = make_run("a")
    assert write_report([folder], to) == to
    first = to.read_bytes()
    to.write_text("old")
    write_report([folder], to)
    assert to.read_bytes() == first
    assert list(to.parent.iterdir()) == [to]
    with pytest.raises(MftcoderError, match="a file name is needed"):
        write_report([folder], to.parent)


def test_shares_and_lengths_of_the_training_data_are_drawn_to_scale(make_run, tmp_path):
    folder = make_run("a")
    tasks = json.loads((folder / "run.json").read_text())["data"]["tasks"]
    page = report([folder], tmp_path)
    bars = [dict(attrs) for tag, attrs in page.elements if tag == "i" and "title" in dict(attrs)]
    shares = [float(bar["style"].removeprefix("flex-grow: ")) for bar in bars if "flex-grow" in bar["style"]]
    expected = [
        counts[key] / sum(other[key] for other in tasks.values())
        for key in ("samples", "rows", "tokens", "supervised_tokens")
        for counts in tasks.values()
    ]
    assert shares == pytest.approx(expected)
    drawn = [bar for bar in bars if "height" in bar["style"]]
    expected_bars = [
        (f"{low}–{2 * low - 1} tokens: {count:,} samples", round(100 * count / max(counts["length_counts"]), 1))
        for counts in tasks.values()
        for low, count in zip((16, 32, 64, 128, 256), counts["length_counts"][4:], strict=True)
    ]
    heights = [float(bar["style"].removeprefix("height: ").removesuffix("%")) for bar in drawn]
    assert list(zip([bar["title"] for bar in drawn], heights, strict=True)) == expected_bars
    assert [bar["data-colour"] for bar in drawn] == [str(task) for task in range(4) for _ in range(5)]


@pytest.mark.parametrize("value", [None, "x", [], ["x"], [-1, 0], {"a": 1}, [True, None, 1.5], [1] * 10_000])
def test_counts_of_the_wrong_shape_are_left_out(make_run, tmp_path, value):
    folder = make_run("a")
    info = json.loads((folder / "run.json").read_text())
    for counts in info["data"]["tasks"].values():
        counts |= {"length_counts": value, "samples": value}
    (folder / "run.json").write_text(json.dumps(info))
    assert len(report([folder], tmp_path).elements) < 2000
