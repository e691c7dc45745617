"""The command line: parse, call the command, and turn errors into messages and exit codes."""

import io
import logging
import os
import sys
import warnings

from mftcoder.commands import COMMANDS, make_parser
from mftcoder.commands.output import tell
from mftcoder.errors import INTERRUPTED, MftcoderError, ReportedByMain, RunError


def main(argv: list[str] | None = None) -> int:
    """Run one command. Returns 0: done, 1: failed, 2: the input is at fault, 75 or 130: stopped by a signal."""
    arguments = make_parser().parse_args(argv)
    _quieten_libraries()
    if isinstance(sys.stdout, io.TextIOWrapper):  # data and file names can hold what its encoding cannot write
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        code = COMMANDS[arguments.name].run(arguments)
        sys.stdout.flush()
        return code
    except ReportedByMain as error:
        return error.exit_code
    except MftcoderError as error:
        tell(f"mftcoder {arguments.name}: {error}")
        return error.exit_code
    except BrokenPipeError:  # as by `| head`: the reader has seen enough
        _leave_stdout()
        return RunError.exit_code
    except OSError as error:  # a full disk, a folder that is read-only
        place = f"{error.filename}: " if error.filename else ""
        tell(f"mftcoder {arguments.name}: {place}{error.strerror or error}")
        _leave_stdout()
        return RunError.exit_code
    except KeyboardInterrupt:
        tell(f"mftcoder {arguments.name}: interrupted")
        return INTERRUPTED


def _quieten_libraries() -> None:
    """Leave out what libraries say at every start and nobody can act on; set before they are imported."""
    logging.getLogger("DeepSpeed").addFilter(_is_news)
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)  # an optional kernel is not there
    warnings.filterwarnings("ignore", message=".*gradient_checkpointing", category=FutureWarning)  # of peft's calls


def _is_news(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith("Setting accelerator to CPU")


def _leave_stdout() -> None:
    """If standard output can no longer be written, drop what waits for it, or Python would fail again at its exit."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
