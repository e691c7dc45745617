"""Running commands as a user would."""

import os
import subprocess
import sys

MFTCODER = [sys.executable, "-m", "mftcoder"]
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def launcher(ranks: int) -> list[str]:
    """The command that starts the program on ``ranks`` ranks."""
    return [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        f"--nproc-per-node={ranks}",
        "-m",
        "mftcoder",
    ]


def command(*arguments: object, ranks: int = 1) -> subprocess.CompletedProcess[str]:
    """Run a subcommand to its end."""
    program = MFTCODER if ranks == 1 else launcher(ranks)
    return subprocess.run([*program, *map(str, arguments)], capture_output=True, text=True, env=ENVIRONMENT)


def succeed(*arguments: object, ranks: int = 1) -> str:
    """The output of a subcommand that must end with 0."""
    done = command(*arguments, ranks=ranks)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
