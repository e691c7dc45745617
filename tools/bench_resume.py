"""What it costs to get to the next step: at a fresh start, and when going on from an early and from a late checkpoint.

    OMP_NUM_THREADS=1 python tools/bench_resume.py CONFIG [--early 10] [--late 200] [--rounds 3]

CONFIG is trained once, up to the late checkpoint; then one start of each kind follows the other, each ended after its
first step. Prints processor seconds from the start of the program to the end of that step.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from process import processor_seconds


def first_step(config: Path, output_dir: Path, begun_at: int, *resume: str) -> float:
    """Processor seconds until the step after ``begun_at`` is told; RuntimeError if it never is."""
    program = [sys.executable, "-u", "-m", "mftcoder", "train", str(config), "--set", f"output_dir={output_dir}"]
    with subprocess.Popen([*program, *resume], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        told = []
        for line in process.stdout:
            told.append(line)
            if line.startswith(f"step {begun_at + 1}/"):
                seconds = processor_seconds(process.pid)
                process.kill()
                return seconds
    raise RuntimeError("".join(told[-20:]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("--early", type=int, default=10, help="a step; a multiple of it is the late one")
    parser.add_argument("--late", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        settings = json.loads(arguments.config.read_text())
        settings["training"] |= {"save_steps": arguments.early, "save_total_limit": None}
        settings["logging"] = {"logging_steps": 1, "report_to": []}
        config = folder / "config.json"
        config.write_text(json.dumps(settings))
        first_step(config, folder / "run", arguments.late)
        seconds: dict[str, list[float]] = {"a fresh start": [], "early": [], "late": []}
        for _ in range(arguments.rounds):
            seconds["a fresh start"].append(first_step(config, folder / "fresh", 0))
            for name, step in (("early", arguments.early), ("late", arguments.late)):
                shutil.copytree(folder / "run", folder / name)
                seconds[name].append(first_step(config, folder / name, step, "--resume", f"step-{step}"))
            for name in ("fresh", "early", "late"):
                shutil.rmtree(folder / name)
    for name, found in seconds.items():
        print(f"{name:<14} median {statistics.median(found):.2f} s of", *(f"{value:.2f}" for value in found))


if __name__ == "__main__":
    main()
