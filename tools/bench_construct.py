"""What making tasks from source code costs: records a second of each task, and memory against the number of files.

    OMP_NUM_THREADS=1 python tools/bench_construct.py DIR [--files N] [--memory]

DIR is a large folder of source files of any licence. Times are the processor's, reading and parsing included, for
one task at a time. With --memory the peak of a run over the first quarter of N files and over all of them follows.
"""

import argparse
import sys
import tempfile
import time
from collections import Counter
from itertools import islice
from pathlib import Path

from process import watch
from rich.console import Console
from rich.table import Table

from mftcoder.construct.folders import source_files
from mftcoder.construct.from_source import MAX_CHARS, SIMILARITY, TASKS, construct
from mftcoder.construct.harvest import Made, Root, Settings, Taken, harvest
from mftcoder.construct.languages import NAMES, language_of

CONSOLE = Console(width=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="DIR")
    parser.add_argument("--files", type=int, default=400, metavar="N", help="default: 400")
    parser.add_argument("--memory", action="store_true", help="also the peak memory")
    parser.add_argument("--construct-only", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.construct_only:
        with tempfile.TemporaryDirectory() as out:
            construct(Path(out), [arguments.folder], licences=["any"], tell=lambda _: None)
        return
    found = source_files(arguments.folder, lambda name: language_of(name) is not None, Counter(), None)
    files = list(islice(found, arguments.files))
    speed(arguments.folder, files)
    if arguments.memory:
        for number in (len(files) // 4, len(files)):
            CONSOLE.print(f"{number:,} files: {peak_mib(arguments.folder, files[:number]):.0f} MiB")


def speed(folder: Path, files: list[str]) -> None:
    table = Table("task", "records", "records/s", "files/s", title=f"{len(files):,} files of {folder.name}")
    for task in TASKS:
        settings = Settings((task,), NAMES, frozenset(["any"]), MAX_CHARS, SIMILARITY, 0)
        start = time.process_time()
        records = sum(made(Root(folder), path, settings) for path in files)
        seconds = time.process_time() - start
        table.add_row(task, f"{records:,}", f"{records / seconds:,.0f}", f"{len(files) / seconds:,.0f}")
    CONSOLE.print(table)


def made(root: Root, path: str, settings: Settings) -> int:
    """How many records a file gives."""
    found = harvest(0, root, path, settings)
    taken = [function for function in found.functions if isinstance(function, Taken)]
    outcomes = [outcome for function in taken for outcome in function.outcomes.values()] + found.unit_tests
    return sum(isinstance(outcome, Made) for outcome in outcomes) + (found.text is not None)


def peak_mib(folder: Path, files: list[str]) -> float:
    """Of a run over links to these files alone."""
    with tempfile.TemporaryDirectory() as name:
        for path in files:
            (Path(name) / path).parent.mkdir(parents=True, exist_ok=True)
            (Path(name) / path).hardlink_to(folder / path)
        return watch([sys.executable, __file__, name, "--construct-only"], {}).peak_mib


if __name__ == "__main__":
    main()
