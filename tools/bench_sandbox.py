"""What the sandbox costs for each program, and how many samples a core verifies.

    python tools/bench_sandbox.py [--programs 200] [--files FILE.jsonl …]

Programs that do nothing run bare and in the sandbox in turn, so that what else the machine does falls on both alike;
the overhead is told in time on the clock and in processor time. Each of --files is verified by `construct verify` with
one worker, and its samples are told for each second of processor time that all processes took together.
"""

import argparse
import os
import resource
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from mftcoder.construct.settings.samples import ExecuteVerification
from mftcoder.construct.verify_file import verify_file
from mftcoder.sandbox.sandbox import BACKENDS, PYTHON, Sandbox


def processor_seconds() -> float:
    """Of this process and of all its descendants that have ended."""
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return sum(usage.ru_utime + usage.ru_stime for usage in map(resource.getrusage, kinds))


def timed(run: Callable[[], object]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def overhead(backend: str, programs: int) -> None:
    """Prints the cost of a program beside that of the same without a sandbox."""
    began = time.perf_counter()
    sandbox = Sandbox(backend=backend)
    first = time.perf_counter() - began
    print(f"{backend}: starts, with its self-check, in {first:.2f} s")
    for name, command in (("true", ["/bin/true"]), ("python", [PYTHON, "-I", "-S", "-c", "pass"])):
        bare, contained = [], []
        for _ in range(programs):
            bare.append(timed(lambda command=command: subprocess.run(command, check=True)))  # type: ignore[misc]
            contained.append(timed(lambda command=command: sandbox.run({}, command)))  # type: ignore[misc]
        middle = [1000 * statistics.median(times) for times in (bare, contained)]
        print(f"  {name:<8} median of {programs}: bare {middle[0]:.1f} ms, contained {middle[1]:.1f} ms")
    sandbox.close()
    print(f"  processor time of a program that does nothing: {1000 * _spent_on_nothing(backend, programs):.1f} ms")


def _spent_on_nothing(backend: str, programs: int) -> float:
    """Seconds of processor time for each program; what starting the sandbox takes is taken off."""
    spent = []
    for number in (0, programs):
        started = processor_seconds()
        with Sandbox(backend=backend) as sandbox:
            for _ in range(number):
                sandbox.run({}, ["/bin/true"])
        spent.append(processor_seconds() - started)
    return (spent[1] - spent[0]) / programs


def throughput(path: Path, modules: dict[str, str]) -> None:
    """Prints how many samples of a file are verified in a second of processor time."""
    settings = ExecuteVerification(type="execute", modules=modules)
    began, started = time.perf_counter(), processor_seconds()
    with tempfile.TemporaryDirectory() as folder:
        counts = verify_file(path, Path(folder) / "out.jsonl", settings, allowed=True, workers=1)
    spent, clock = processor_seconds() - started, time.perf_counter() - began
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"{path.name}: {counts['found']} samples, {counts['proven']} proven, {spent:.1f} s of processor time, "
        f"{counts['found'] / spent:.2f} samples/s of a core, {clock:.0f} s on the clock, {largest:.0f} MiB"
    )
    for reason, number in counts["left_out"].items():
        print(f"  {number:>5} {reason}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--programs", type=int, default=200)
    parser.add_argument("--files", type=Path, nargs="*", default=[])
    parser.add_argument("--node-modules", metavar="DIR", help="for JavaScript")
    arguments = parser.parse_args()
    if arguments.programs:
        for backend in BACKENDS if os.geteuid() else BACKENDS[1:]:
            overhead(backend, arguments.programs)
    for path in arguments.files:
        throughput(path, {"javascript": arguments.node_modules} if arguments.node_modules else {})


if __name__ == "__main__":
    main()
