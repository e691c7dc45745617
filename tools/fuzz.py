"""Hostile input for everything that reads files: so many inputs drawn from seeds, each watched (``tests/fuzz``).

    python tools/fuzz.py --inputs 100000
    python tools/fuzz.py --targets records --only 4711        # one input again, with its traceback
    python tools/fuzz.py --targets configs --coverage --inputs 50000      # by atheris: pip install atheris

Every target runs in a process of its own, whose memory is limited; one that dies is told with its last input, and the
others go on. Exit code 1: an input broke something.
"""

import argparse
import json
import os
import resource
import sys
import tempfile
import time
import traceback
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from random import Random
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "fuzz")]
os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}  # threads do not survive the fork
MEMORY = 8 * 2**30  # bytes of addresses, of which libraries reserve much more than they use
EXAMPLES = 3  # of each kind of failure


def campaign(name: str, first: int, count: int) -> dict[str, Any]:
    """``count`` inputs of a target from seed ``first`` on: how many were taken and refused, and what broke."""
    from oracle import StuckError, refused
    from targets import TARGETS

    outcome: Counter[str] = Counter()
    failures: dict[str, list[int]] = {}
    began = time.process_time()
    with tempfile.TemporaryDirectory(prefix="fuzz-") as temporary:
        os.environ["TMPDIR"] = tempfile.tempdir = temporary
        folder = Path(temporary).resolve()
        run = TARGETS[name](folder)
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        for seed in range(first, first + count):
            try:
                outcome["refused" if refused(run, Random(seed), folder) else "taken"] += 1
            except (Exception, StuckError) as error:
                failures.setdefault(_kind(error), []).append(seed)
    return {"target": name, **outcome, "seconds": time.process_time() - began, "failures": failures}


def _kind(error: BaseException) -> str:
    """Where in the program an error came up, and what it is."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "/mftcoder/" in f.filename]
    place = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "oracle"
    return f"{place} {type(error).__name__}: {str(error)[-160:] if type(error).__name__ == 'HarmError' else ''}"


def again(name: str, seed: int) -> None:
    """One input, with its traceback if it breaks something."""
    from oracle import refused
    from targets import TARGETS

    with tempfile.TemporaryDirectory(prefix="fuzz-") as temporary:
        folder = Path(temporary).resolve()
        print(refused(TARGETS[name](folder), Random(seed), folder) or "taken")


def by_coverage(name: str, count: int) -> None:
    """Inputs that atheris grows towards code not yet reached; the first that breaks something ends the process."""
    import atheris
    from mutations import Drawn
    from oracle import refused
    from targets import TARGETS

    folder = Path(tempfile.mkdtemp(prefix="fuzz-")).resolve()
    run = TARGETS[name](folder)
    arguments = [sys.argv[0], f"-runs={count}", "-max_len=4096", "-timeout=300", f"-artifact_prefix={folder}/"]
    atheris.Setup(arguments, lambda data: refused(run, Drawn(data), folder) and None)
    atheris.Fuzz()


def main() -> int:
    if "--coverage" in sys.argv:  # before anything imports the program
        import atheris

        with atheris.instrument_imports(include=["mftcoder"]):
            import targets  # noqa: F401
    from targets import SHARES

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=100_000, help="of all targets together")
    parser.add_argument("--targets", nargs="+", default=list(SHARES), choices=SHARES, help="default: all")
    parser.add_argument("--seed", type=int, default=0, help="of the first input of each target")
    parser.add_argument("--only", type=int, metavar="SEED", help="this input again")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--coverage", action="store_true", help="let atheris draw, for one target")
    parser.add_argument("--to", type=Path, help="write the outcome as JSON, target by target")
    options = parser.parse_args()
    if options.only is not None:
        again(options.targets[0], options.only)
        return 0
    if options.coverage:
        by_coverage(options.targets[0], options.inputs)
        return 0
    total = sum(SHARES[name] for name in options.targets)
    import mftcoder.engine.deepspeed  # noqa: F401 - imported once, not by every process

    found, broken = [], 0
    for name in options.targets:
        count = max(1, options.inputs * SHARES[name] // total)
        cuts = [
            (options.seed + count * i // options.workers, options.seed + count * (i + 1) // options.workers)
            for i in range(options.workers)
        ]
        with ProcessPoolExecutor(options.workers, mp_context=get_context("fork")) as pool:
            for outcome in pool.map(campaign, *zip(*((name, a, b - a) for a, b in cuts), strict=True)):
                found.append(outcome)
                broken += sum(map(len, outcome["failures"].values()))
                print(
                    f"{name:<14} {outcome.get('taken', 0):>7,} taken {outcome.get('refused', 0):>7,} refused "
                    f"{outcome['seconds']:>7.1f} s",
                    flush=True,
                )
                for kind, seeds in sorted(outcome["failures"].items()):
                    print(f"    {len(seeds):>5} × {kind}  seeds {seeds[:EXAMPLES]}", flush=True)
        if options.to:
            options.to.write_text(json.dumps(found, indent=1))
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
