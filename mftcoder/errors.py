"""The errors a user can cause or must hear about. Each message says where, what, what was found, and the remedy."""

INTERRUPTED = 130  # exit code, as shells report SIGINT


class MftcoderError(Exception):
    """The input is at fault: a config, a file, a checkpoint. The command line prints the message and exits with 2."""

    exit_code = 2


class RunError(MftcoderError):
    """The input was in order but the run could not go on (losses not finite, a rank that is silent): exit code 1."""

    exit_code = 1


class StoppedError(RunError):
    """A run stopped because a signal asked for it; it goes on with --resume. Schedulers may take 75 for "try again"."""

    exit_code = 75  # EX_TEMPFAIL of sysexits.h; INTERRUPTED after Ctrl-C


class StopNow(BaseException):
    """SIGTERM before the first step, on its way out: not to be taken for a failure of what it interrupts.

    Attributes:
        error: what it becomes once it is out.
    """

    def __init__(self, error: StoppedError) -> None:
        super().__init__(str(error))
        self.error = error


class ReportedByMain(MftcoderError):  # noqa: N818 - it says where the error is, not what
    """An error of rank 0 on another rank: it ends this process too, but only rank 0 prints it."""

    def __init__(self, original: MftcoderError) -> None:
        super().__init__(str(original))
        self.exit_code = original.exit_code
