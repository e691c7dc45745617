from pathlib import Path

from mftcoder.config.describe import BEGIN, END, markdown, refresh, schema_text, settings
from mftcoder.config.schema import Config

CONFIGS = Path(__file__).parents[2] / "configs"


def leaves(value, path=""):
    """Dotted keys of nested objects."""
    for key, inner in value.items():
        yield f"{path}.{key}".lstrip(".")
        if isinstance(inner, dict):
            yield from leaves(inner, f"{path}.{key}".lstrip("."))


def test_the_json_schema_in_configs_is_fresh():
    assert (CONFIGS / "schema.json").read_text(encoding="utf-8") == schema_text(), "run: make generated"


def test_the_settings_in_the_readme_of_configs_are_fresh():
    assert markdown() in (CONFIGS / "README.md").read_text(encoding="utf-8"), "run: make generated"


def test_refresh_writes_between_the_markers_only(tmp_path):
    (tmp_path / "README.md").write_text(f"before\n{BEGIN}\nstale\n{END}\nafter\n", encoding="utf-8")
    refresh(tmp_path)
    assert (tmp_path / "README.md").read_text(encoding="utf-8") == f"before\n{markdown()}\nafter\n"
    assert (tmp_path / "schema.json").read_text(encoding="utf-8") == schema_text()


def test_every_key_of_a_config_has_a_setting(minimal):
    minimal |= {"deepspeed": "x", "loss": {"weighting": {"type": "coba"}}}
    minimal["model"]["lora"] = {}
    minimal["data"]["tasks"] = minimal["data"]["tasks"][:1]
    dumped = Config.model_validate(minimal).model_dump()
    (task,) = dumped["data"]["tasks"]
    dumped["data"]["tasks"] = task
    known = {f"{setting.section}.{setting.key}".lstrip(".") for setting in settings()}
    assert set(leaves(dumped)) <= known


def test_every_plain_setting_says_what_it_means():
    silent = [s for s in settings() if s.key != "type" and s.schema.get("type") and not s.schema.get("description")]
    assert silent == []
