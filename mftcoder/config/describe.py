"""What the config can hold, read from its schema: JSON schema for editors, Markdown tables for people."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from mftcoder.config.schema import Config

BEGIN, END = "<!-- settings: begin (generated) -->", "<!-- settings: end -->"
TYPE_NAMES = {
    "boolean": "true or false",
    "integer": "integer",
    "number": "number",
    "string": "string",
    "object": "object",
}
BOUNDS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}


@dataclass(frozen=True)
class Setting:
    """One key of the config."""

    section: str  # dotted path of the section it lies in; "" at the top; list indices are left out
    variant: str | None  # the section's "type", where the section has one
    about: str  # what the section is
    key: str
    schema: dict[str, Any]  # its JSON schema
    required: bool


def json_schema(config: type[BaseModel] = Config) -> dict[str, Any]:
    """The JSON schema (2020-12) of a kind of config; default: the training config."""
    schema = config.model_json_schema()
    schema["properties"]["$schema"] = {"type": "string", "description": "For editors; has no effect."}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


@cache
def settings(config: type[BaseModel] = Config) -> tuple[Setting, ...]:
    """Every key of every section, once, sections in the order of the schema."""
    schema = config.model_json_schema()
    found: dict[tuple[str, str | None, str], Setting] = {}
    for setting in _walk(schema, schema.get("$defs", {}), section=""):
        found.setdefault((setting.section, setting.variant, setting.key), setting)
    return tuple(found.values())


def refresh(folder: Path, config: type[BaseModel] = Config) -> None:
    """Write ``schema.json`` in ``folder`` (configs/) anew, and the tables in its README.md between their markers."""
    (folder / "schema.json").write_text(schema_text(config), encoding="utf-8")
    readme = folder / "README.md"
    before, rest = readme.read_text(encoding="utf-8").split(BEGIN)
    readme.write_text(before + markdown(config) + rest.split(END)[1], encoding="utf-8")


def schema_text(config: type[BaseModel] = Config) -> str:
    """``json_schema`` as configs/schema.json holds it."""
    return json.dumps(json_schema(config), indent=2) + "\n"


def markdown(config: type[BaseModel] = Config) -> str:
    """Tables of all settings, one per section (and per type of a section), between the markers of configs/README.md."""
    lines = [BEGIN]
    by_section = groupby(settings(config), lambda setting: (setting.section, setting.variant, setting.about))
    for (section, variant, about), rows in by_section:
        title = f"`{section}`" if section else "Top level"
        of_type = f', `"type": "{variant}"`' if variant else ""
        lines += ["", f"### {title}{of_type}", "", about]
        if table := [_table_row(row) for row in rows if row.key != "type"]:
            lines += ["", "| Key | Value | Default | Meaning |", "|---|---|---|---|", *table]
    return "\n".join([*lines, "", END])


def type_text(schema: dict[str, Any]) -> str:
    """A JSON schema of one value in a few words, e.g. ``number > 0 or null``."""
    if "enum" in schema or "const" in schema:
        return " or ".join(f"`{json.dumps(value)}`" for value in schema.get("enum", [schema.get("const")]))
    if alternatives := schema.get("anyOf") or schema.get("oneOf"):
        return " or ".join(dict.fromkeys(type_text(alternative) for alternative in alternatives))
    if "$ref" in schema:
        return "section"
    if schema["type"] == "array":
        return f"list of {type_text(schema['items'])}"
    if schema["type"] == "object" and isinstance(schema.get("additionalProperties"), dict):
        return f"object of {type_text(schema['additionalProperties'])}"
    bounds = [f"{sign} {schema[bound]:.10g}" for bound, sign in BOUNDS.items() if bound in schema]
    return " ".join([TYPE_NAMES.get(schema["type"], schema["type"]), " and ".join(bounds)]).strip()


def _walk(section_schema: dict[str, Any], definitions: dict[str, Any], section: str) -> Iterator[Setting]:
    properties = section_schema["properties"]
    variant = properties.get("type", {}).get("const")
    required = section_schema.get("required", [])
    for key, schema in properties.items():
        yield Setting(section, variant, section_schema["description"].split("\n\n")[0], key, schema, key in required)
    for key, schema in properties.items():
        for name in _references(schema):
            yield from _walk(definitions[name], definitions, f"{section}.{key}".lstrip("."))


def _references(schema: dict[str, Any]) -> Iterator[str]:
    """Names of the sections that a value may be."""
    if "$ref" in schema:
        yield schema["$ref"].removeprefix("#/$defs/")
    items = [schema["items"]] if "items" in schema else []
    for part in [*schema.get("anyOf", []), *schema.get("oneOf", []), *items]:
        yield from _references(part)


def _table_row(setting: Setting) -> str:
    cells = (f"`{setting.key}`", type_text(setting.schema), _default(setting), setting.schema.get("description", ""))
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _default(setting: Setting) -> str:
    if setting.required:
        return "required"
    if "default" not in setting.schema:
        return ""
    default = setting.schema["default"]
    if any(_references(setting.schema)) and default is not None:
        return f'`"type": "{default["type"]}"`' if "type" in default else "the defaults below"
    return f"`{json.dumps(default)}`"
