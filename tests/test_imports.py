"""Imports point one way, and only two modules know DeepSpeed."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "mftcoder"
LAYERS = (
    {"errors"},
    {"config", "tasks", "distributed", "versions", "environment", "locks", "plugins", "json_values"},
    {"data"},
    {"losses"},
    {"models"},
    {"engine"},
    {"training"},
    {"sandbox"},
    {"evaluation", "export", "report"},
    {"construct"},
    {"commands"},
    {"cli"},
    {"__main__"},
)
ORDER = {name: height for height, names in enumerate(LAYERS) for name in names}
ONLY_IN = {"deepspeed": ("engine/deepspeed.py", "engine/settings.py", "engine/ulysses.py")}


def imported_modules(file: Path) -> Iterator[str]:
    """Dotted names of all that a file imports, wherever the import stands."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def violations(package: Path) -> list[str]:
    found = []
    for file in sorted(package.rglob("*.py")):
        place = file.relative_to(package)
        if place == Path("__init__.py"):
            continue
        own = ORDER[place.with_suffix("").parts[0]]
        for module in imported_modules(file):
            root, _, rest = module.partition(".")
            if root == package.name and ORDER.get(rest.split(".")[0], -1) > own:
                found.append(f"{place} imports {module}")
            if root in ONLY_IN and place.as_posix() not in ONLY_IN[root]:
                found.append(f"{place} imports {module}")
    return found


def test_imports_point_one_way_and_only_the_engine_imports_deepspeed():
    assert violations(PACKAGE) == []


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("data/x.py", "def f():\n    from mftcoder.training.loop import train_loop"),
        ("config/x.py", "import mftcoder.data.batch"),
        ("losses/x.py", "from mftcoder import models"),
        ("engine/local.py", "import deepspeed.comm"),
        ("training/x.py", "from deepspeed import initialize"),
    ],
)
def test_a_wrong_import_is_found(tmp_path, path, source):
    file = tmp_path / "mftcoder" / path
    file.parent.mkdir(parents=True)
    file.write_text(source, encoding="utf-8")
    assert len(violations(tmp_path / "mftcoder")) == 1


def test_the_command_line_starts_without_the_heavy_libraries():
    heavy = "{'torch', 'transformers', 'deepspeed', 'datasets', 'pyarrow', 'plotly', 'numpy', 'rich'}"
    code = f"import sys; import mftcoder.cli; print(sorted({heavy} & sys.modules.keys()))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PACKAGE.parent)
    assert ran.stdout.strip() == "[]"
