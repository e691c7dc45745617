"""The configs of `construct run`: what is wrong is told as of training configs, and what we hand out works."""

import json
from pathlib import Path

import pytest
from construct_project import write_config

from mftcoder import cli
from mftcoder.config.describe import markdown, schema_text, settings
from mftcoder.construct.generators import GENERATORS
from mftcoder.construct.prompts import Prompts
from mftcoder.construct.seeds import read_seeds, read_topics, topic_lists
from mftcoder.construct.settings import ConstructConfig, load
from mftcoder.construct.verification import VERIFIERS
from mftcoder.errors import MftcoderError

CONFIGS = Path(__file__).parents[2] / "configs" / "construct"
EXERCISES = {"type": "single_turn", "topics": ["python"]}


def test_schema_and_tables_are_fresh():
    assert (CONFIGS / "schema.json").read_text(encoding="utf-8") == schema_text(ConstructConfig), "run: make generated"
    assert markdown(ConstructConfig) in (CONFIGS / "README.md").read_text(encoding="utf-8"), "run: make generated"


def test_every_setting_says_what_it_means():
    known = settings(ConstructConfig)
    assert [s for s in known if s.key != "type" and s.schema.get("type") and not s.schema.get("description")] == []


def test_there_is_a_config_for_each_generator_and_the_readme_names_it():
    files = [path for path in CONFIGS.glob("*.json") if path.name != "schema.json"]
    configs = [load(path) for path in files]
    assert {config.generator.type for config in configs} == set(GENERATORS)
    assert len({config.task for config in configs}) == len(configs)
    assert all(f"[{path.name}]({path.name})" in (CONFIGS / "README.md").read_text() for path in files)


@pytest.mark.parametrize(("section", "table"), [("generator", GENERATORS), ("verify", VERIFIERS)])
def test_tables_and_schema_know_the_same_types(section, table):
    assert {s.variant for s in settings(ConstructConfig) if s.section == section} == set(table)


@pytest.mark.parametrize(
    ("generator", "sections", "message"),
    [
        (EXERCISES | {"topic": []}, {}, 'generator.topic: unknown key; did you mean "topics"?'),
        (EXERCISES | {"per_request": 2}, {}, 'unknown key with "type": "single_turn"; it belongs to "self_instruct".'),
        ({"type": "single"}, {}, 'generator.type: must be "self_instruct", "two_agents", "single_turn", "evolve" or'),
        ({"type": "self_instruct"}, {}, "generator.instructions: missing. Stop at so many new ones."),
        (EXERCISES, {"endpoint": {"concurency": 2}}, 'endpoint.concurency: unknown key; did you mean "concurrency"?'),
        (EXERCISES, {"budget": {"money": 1.0}}, "budget.prices: missing. Without prices, budget.money says nothing."),
        (EXERCISES | {"topics": ["pyton"]}, {}, 'there is no list and no file "pyton"; did you mean "python"?'),
        (EXERCISES | {"prompts": {"exercise-brif": "x"}}, {}, 'no such prompt; did you mean "exercise-brief"?'),
        (EXERCISES | {"prompts": {"exercise-brief": "absent.txt"}}, {}, "absent.txt cannot be read"),
        (
            {"type": "evolve", "axes": ["up"]},
            {},
            'there is no axis "up". Give its prompt: "prompts": {"axis-up": FILE}',
        ),
        (
            EXERCISES,
            {"decontaminate": {"benchmarks": [{"path": "absent"}]}},
            "decontaminate.benchmarks[0]: path absent",
        ),
        (EXERCISES, {"endpoint": {"base_url": "localhost:8000"}}, "endpoint.base_url: must begin with http"),
        (EXERCISES, {"endpoint": {"api_key_env": "MY_KEY"}}, "the environment has no MY_KEY"),
    ],
)
def test_what_is_wrong_is_named_with_its_remedy(generator, sections, message, serve, tmp_path, capsys):
    path = write_config(tmp_path, generator, **sections)
    assert cli.main(["construct", "run", str(path)]) == 2
    shown = capsys.readouterr().err
    assert message in shown
    assert "Traceback" not in shown


@pytest.mark.parametrize(
    ("template", "message"), [("{{ topc }}", "values it may use are topic, "), ("{% if %}", "is no Jinja template")]
)
def test_a_prompt_of_ones_own_that_is_broken(template, message, serve, tmp_path, capsys):
    (tmp_path / "mine.txt").write_text(template)
    path = write_config(tmp_path, EXERCISES | {"prompts": {"exercise-brief": str(tmp_path / "mine.txt")}})
    assert cli.main(["construct", "run", str(path)]) == 2
    assert message in capsys.readouterr().err


def test_a_prompt_of_ones_own_replaces_ours_and_has_another_hash(tmp_path):
    (tmp_path / "mine.txt").write_text("About {{ topic }}.")
    ours, mine = (Prompts("single_turn", own) for own in ({}, {"exercise-brief": str(tmp_path / "mine.txt")}))
    assert mine.text("exercise-brief", topic="sets") == "About sets."
    changed = {name for name in ours.hashes if ours.hashes[name] != mine.hashes[name]}
    assert changed == {"exercise-brief"}


def test_there_are_hundreds_of_topics_each_once():
    lists = topic_lists()
    assert {"python", "sql", "algorithms", "testing", "data-structures", "web", "debugging", "mathematics"} <= set(
        lists
    )
    assert sum(map(len, lists.values())) >= 800
    assert all(len(set(topics)) == len(topics) >= 50 for topics in lists.values())


def test_topics_are_listed(capsys):
    assert cli.main(["construct", "topics", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == topic_lists()
    assert cli.main(["construct", "topics", "sql"]) == 0
    assert capsys.readouterr().out.splitlines() == topic_lists()["sql"]
    assert cli.main(["construct", "topics", "nothing"]) == 2


def test_topics_of_ones_own(tmp_path):
    (tmp_path / "mine.txt").write_text("# my topics\n\nwhales\nsharks\nwhales\n", encoding="utf-8")
    assert [topic.id for topic in read_topics([str(tmp_path / "mine.txt")])] == ["mine/whales", "mine/sharks"]


def test_seeds_of_any_format(tmp_path):
    records = [
        {"instruction": "Add.", "id": "a-1"},
        {"instruction": "Add.", "input": "2 + 3", "output": "5"},
        {"messages": [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Hi"}]},
        {"instruction": "Add."},
    ]
    (tmp_path / "seeds.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    found = [tuple(seed) for seed in read_seeds(str(tmp_path / "seeds.jsonl"))]
    assert found == [("a-1", "Add."), ("seeds.jsonl:2", "Add.\n2 + 3"), ("seeds.jsonl:3", "Hi")]
    (tmp_path / "bad.jsonl").write_text('{"text": "plain"}')
    with pytest.raises(MftcoderError, match=r"bad.jsonl:1: holds no instruction; found keys text"):
        read_seeds(str(tmp_path / "bad.jsonl"))
