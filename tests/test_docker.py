"""What the Dockerfiles take from the repository is there and reaches the builder; secrets and runs do not."""

import fnmatch
import shlex
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
DOCKERFILES = sorted((ROOT / "docker").glob("*.Dockerfile"))
IGNORE = [
    line
    for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    if line and not line.startswith("#")
]


def sent(path: str) -> bool:
    """Whether Docker's builder gets the file: the last line of .dockerignore that fits it or its folder decides."""
    name = Path(path)
    above = [path, *(str(folder) for folder in name.parents if str(folder) != ".")]
    decided = True
    for line in IGNORE:
        pattern = line.removeprefix("!").removeprefix("**/")
        tried = [Path(one).name for one in above] if "**/" in line else above
        if any(fnmatch.fnmatchcase(one, pattern) for one in tried):
            decided = line.startswith("!")
    return decided


def copied(dockerfile: Path) -> list[str]:
    lines = dockerfile.read_text(encoding="utf-8").splitlines()
    words = [shlex.split(line)[1:-1] for line in lines if line.startswith("COPY ") and "--from" not in line]
    return [word for line in words for word in line if word != "."]


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.stem)
def test_what_is_copied_exists_and_is_sent(dockerfile):
    assert copied(dockerfile)
    for path in [*copied(dockerfile), "mftcoder/cli.py", "tools/launch/ranks.sh", "configs/schema.json"]:
        assert (ROOT / path).is_file(), path
        assert sent(path), path


@pytest.mark.parametrize(
    "path",
    [
        ".env",
        "configs/.env.local",
        ".git/config",
        "runs/a/metrics.jsonl",
        "tests/tiny.py",
        "mftcoder/__pycache__/cli.pyc",
    ],
)
def test_nothing_else_is_sent(path):
    assert not sent(path)


def test_compose_names_files_that_exist_and_no_value_of_a_token():
    compose = yaml.safe_load((ROOT / "docker/compose.yaml").read_text(encoding="utf-8"))
    for service in compose["services"].values():
        assert (ROOT / service["build"]["dockerfile"]).is_file()
        assert service["environment"]["HF_TOKEN"] is None  # handed on from the shell
        assert service["environment"]["WANDB_API_KEY"] is None


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.stem)
def test_images_are_pinned_and_do_not_run_as_root(dockerfile):
    lines = dockerfile.read_text(encoding="utf-8").splitlines()
    text = "\n".join(lines)
    assert text.index("USER ${UID}") < text.index('ENTRYPOINT ["mftcoder"]')
    assert all(":" in line and ":latest" not in line for line in lines if line.startswith("ARG BASE="))
    for line in lines:
        if "pip install" in line:
            assert "PIP_CONSTRAINT=" in line or "--no-deps" in line, line
