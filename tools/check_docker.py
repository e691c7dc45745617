"""Build an image without Docker: each instruction of a Dockerfile, tried in a chroot (as root).

    debootstrap --include=python3-dev,python3-venv,ca-certificates bookworm /tmp/base
    python tools/check_docker.py docker/cpu.Dockerfile --base /tmp/base --work /tmp/image

For `cuda.Dockerfile`, of Ubuntu's: `--variant=minbase --components=main,universe --include=ca-certificates noble`. The
base needs an `/etc/resolv.conf`, and the certificates of any proxy.

The folder `--base` stands for every base image. Of .dockerignore only the `!` lines of the top level count.
Image layers, the clock of HEALTHCHECK and the walls of a container are not tried. At the end the health check, the
entrypoint and `mftcoder env` run as the image's user.
"""

import argparse
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

CONTEXT = Path(__file__).resolve().parents[1]
# Seen by the command alone: FOLDER COMMAND …
WITH_PROC = ("unshare", "--mount", "sh", "-c", 'mount -t proc proc "$1" && shift && exec "$@"', "sh")


def instructions(text: str) -> list[tuple[str, str]]:
    """(name, rest) of every instruction, comments left out and continued lines joined."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n", "", "\n".join(lines))
    return [
        (name.upper(), rest.strip()) for name, _, rest in (line.partition(" ") for line in joined.splitlines() if line)
    ]


def expand(text: str, variables: dict[str, str]) -> str:
    return re.sub(r"\$\{?(\w+)\}?", lambda match: variables.get(match[1], ""), text)


class Stage:
    """A chroot, and what ENV, ARG, WORKDIR and USER have said so far."""

    def __init__(self, root: Path, arguments: dict[str, str]) -> None:
        self.root, self.arguments = root, arguments
        self.variables = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root"}
        self.folder, self.user = "/", "root"

    def run(self, command: list[str], passed: dict[str, str]) -> None:
        home = {} if self.user == "root" else {"HOME": "/home/mftcoder"}
        inner = f"cd {shlex.quote(self.folder)} && exec {shlex.join(command)}"
        variables = self.variables | passed | home
        in_chroot = ["chroot", f"--userspec={self.user}", str(self.root), "/bin/sh", "-c", inner]
        done = subprocess.run([*WITH_PROC, str(self.root / "proc"), *in_chroot], env=variables, check=False)
        if done.returncode:
            sys.exit(f"{shlex.join(command)}: exit code {done.returncode}")

    def copy(self, rest: str, stages: dict[str, "Stage"]) -> None:
        words = shlex.split(rest)
        source = stages[words.pop(0).removeprefix("--from=")].root if words[0].startswith("--from=") else CONTEXT
        target = self.root / os.path.join(self.folder, words[-1]).lstrip("/")
        for word in words[:-1]:
            if word == ".":
                for name in included():
                    subprocess.run(["cp", "-a", "--no-preserve=ownership", source / name, target], check=True)
            else:
                subprocess.run(["cp", "-a", "--no-preserve=ownership", source / word.lstrip("/"), target], check=True)


def included() -> list[str]:
    lines = (CONTEXT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    return [line[1:] for line in lines if line.startswith("!") and "/" not in line]


def build(dockerfile: Path, base: Path, work: Path, given: dict[str, str], passed: dict[str, str]) -> None:
    shared: dict[str, str] = {}
    stages: dict[str, Stage] = {}
    stage: Stage | None = None
    health: list[str] = []
    entrypoint: list[str] = []
    command: list[str] = []
    for name, rest in instructions(dockerfile.read_text(encoding="utf-8")):
        print(f"\n{name} {rest}", flush=True)
        began = time.monotonic()
        if name == "FROM":
            label = rest.split()[-1] if " AS " in rest else "image"
            subprocess.run(["cp", "-a", base, work / label], check=True)
            stage = stages[label] = Stage(work / label, dict(shared))
        elif name == "ARG":
            key, _, default = rest.partition("=")
            value = given.get(key, expand(default.strip('"'), shared))
            (shared if stage is None else stage.arguments)[key] = value
        elif stage is None:
            sys.exit(f"{name} before FROM")
        elif name == "ENV":
            pairs = (word.partition("=") for word in shlex.split(rest))
            stage.variables |= {key: expand(value, stage.variables) for key, _, value in pairs}
        elif name == "WORKDIR":
            stage.folder = rest
            (stage.root / rest.lstrip("/")).mkdir(parents=True, exist_ok=True)
        elif name == "USER":
            stage.user = expand(rest, stage.arguments)
        elif name == "COPY":
            stage.copy(rest, stages)
        elif name == "RUN":
            stage.run(["/bin/sh", "-c", rest], stage.arguments | passed)
        elif name == "HEALTHCHECK":
            health = json.loads(rest.partition("CMD ")[2])
        elif name == "ENTRYPOINT":
            entrypoint = json.loads(rest)
        elif name == "CMD":
            command = json.loads(rest)
        else:
            sys.exit(f"{name}: not known here")
        print(f"  {time.monotonic() - began:.1f} s", flush=True)
    assert stage is not None
    for words in (health, entrypoint + command, [*entrypoint, "env"]):
        print(f"\n$ {shlex.join(words)}", flush=True)
        stage.run(words, {})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dockerfile", type=Path)
    parser.add_argument("--base", type=Path, required=True, help="a root file system, as debootstrap makes it")
    parser.add_argument("--work", type=Path, required=True, help="a folder for the stages; emptied first")
    parser.add_argument("--build-arg", action="append", default=[], metavar="NAME=VALUE", help="as of docker build")
    parser.add_argument(
        "--env", action="append", default=[], metavar="NAME=VALUE", help="for RUN alone, e.g. PIP_FIND_LINKS=…"
    )
    options = parser.parse_args()
    shutil.rmtree(options.work, ignore_errors=True)
    options.work.mkdir(parents=True)
    pairs = [dict(pair.split("=", 1) for pair in given) for given in (options.build_arg, options.env)]
    build(options.dockerfile, options.base, options.work, *pairs)


if __name__ == "__main__":
    main()
