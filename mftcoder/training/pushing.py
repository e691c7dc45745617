"""Pushing checkpoints to the hub while training: ``mftcoder export … --push`` in a process of its own, on rank 0.

Nothing here waits before training is over, and no other rank takes part. One push runs at a time; of the checkpoints
that are saved meanwhile the newest comes next. What is pushed is a snapshot of the run, by hard links, so that the run
may delete the checkpoint.

    OUTPUT/pushing/step-000300/   the snapshot: as a run that ended there; deleted once it is pushed
    OUTPUT/exports/step-000300/   what is pushed; those before it are deleted once it is pushed
    OUTPUT/push.log               what the process says
"""

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from mftcoder.config.schema import Config
from mftcoder.errors import MftcoderError, RunError
from mftcoder.training.checkpoint import Checkpoint, find_checkpoint

LOG = "push.log"
FILES = ("config.json", "run.json", "metrics.jsonl")  # of a run, that an export reads
TIMEOUT_SECONDS = float(os.environ.get("MFTCODER_PUSH_TIMEOUT", 24 * 3600))  # of waiting, when training is over
# The process is no rank, and leaves the GPU to those that are.
_OF_RANKS = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_WITHOUT_GPU = {"CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu"}


def check_push(config: Config) -> None:
    """MftcoderError if it can be seen before training that pushing will fail."""
    if not config.export.push_every:
        return
    if config.export.adapter and config.export.base_model is None and Path(config.model.path).is_dir():
        raise MftcoderError(
            f"export.base_model: the adapters to push belong to the folder {config.model.path}, which nobody else has. "
            "Name the hub id of which that is a copy, or set export.adapter to false."
        )
    from huggingface_hub import constants, get_token

    if get_token() is None:
        raise MftcoderError("export.push_to: there is no token for the hub. Set HF_TOKEN, or call hf auth login.")
    if constants.HF_HUB_OFFLINE:
        raise MftcoderError("export.push_to: HF_HUB_OFFLINE is set. Unset it, or delete export.push_every.")


class Pushing:
    """What ``export.push_to`` and ``push_every`` ask for. ``tell`` takes lines for the user."""

    def __init__(self, config: Config, tell: Callable[[str], None]) -> None:
        self._settings, self._folder, self._tell = config.export, Path(config.output_dir), tell
        self._process: subprocess.Popen[bytes] | None = None
        self._current: str | None = None  # the checkpoint that is pushed, or was last
        self._next: str | None = None
        self._failed = False  # whether the last push that ended did

    def saved(self, step: int) -> None:
        """The checkpoint of ``step`` is there: push it, or note it as the next. Does not wait."""
        if self._settings.push_every == "save":
            self._note(find_checkpoint(self._folder, f"step-{step}"))

    def ended(self) -> None:
        """Training is over and all is saved: the last one to push is the best checkpoint. Does not wait."""
        self._look()
        try:
            best = find_checkpoint(self._folder, "best")
        except MftcoderError:  # it was not kept
            best = find_checkpoint(self._folder, "last")
        if best.path.name == self._current and (self._process is not None or not self._failed):
            self._next = None
        else:
            self._note(best)

    def wait(self) -> None:
        """Until everything is pushed. RunError, with the command that goes on, if the last push failed."""
        while self._process is not None:
            self._tell(f"waiting for the push of {self._current} to {self._settings.push_to}; see {self._folder / LOG}")
            try:
                self._process.wait(TIMEOUT_SECONDS)
            except subprocess.TimeoutExpired:
                self.stop()
            self._look()
        if self._failed:
            raise RunError(f"export.push_to: {self._failure()}\nThe run is complete in {self._folder}.")

    def stop(self) -> None:
        """End a push that is under way; training failed."""
        self._next = None
        if self._process is not None:
            self._process.terminate()
            self._process.wait()

    def _note(self, checkpoint: Checkpoint) -> None:
        self._look()
        name = checkpoint.path.name
        if self._next and self._next != name:
            shutil.rmtree(self._folder / "pushing" / self._next, ignore_errors=True)
        _snapshot(self._folder, checkpoint)
        self._next = name
        self._start()

    def _look(self) -> None:
        """Take note of a push that has ended, and start the next."""
        if self._process is not None and self._process.poll() is not None:
            self._failed = self._process.returncode != 0
            self._process = None
            if self._failed:
                self._tell(f"the push of {self._current} to {self._settings.push_to} failed; see {self._folder / LOG}")
            else:
                self._tell(f"pushed {self._current} to {self._settings.push_to}")
                self._clear()
        self._start()

    def _start(self) -> None:
        if self._process is not None or self._next is None:
            return
        self._current, self._next = self._next, None
        environment = {key: value for key, value in os.environ.items() if key not in _OF_RANKS} | _WITHOUT_GPU
        snapshot = self._folder / "pushing" / self._current
        command = [sys.executable, "-m", "mftcoder", *self._arguments(snapshot)]
        with (self._folder / LOG).open("ab") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, env=environment
            )
        os.setpriority(os.PRIO_PROCESS, self._process.pid, 10)

    def _arguments(self, run: Path) -> list[str]:
        settings, name = self._settings, str(self._current)
        export = self._folder / "exports" / name
        words = ["export", str(run), "--to", str(export), "--checkpoint", name, "--overwrite"]
        words += ["--adapter"] if settings.adapter else []
        words += ["--push", str(settings.push_to), "--message", name]
        words += [] if settings.private else ["--public"]
        return [*words, *(["--revision", settings.revision] if settings.revision else [])]

    def _failure(self) -> str:
        """What became of the last push, and the command that goes on with it."""
        said = (self._folder / LOG).read_text(encoding="utf-8", errors="replace")
        reason = said.rpartition("mftcoder export: ")[2].strip() or f"see {self._folder / LOG}"
        if "To go on: " not in reason:  # it failed before there was anything to push
            reason += f"\nTo go on: {shlex.join(['mftcoder', *self._arguments(self._folder)])}"
        return f"the push of {self._current} to {self._settings.push_to} failed: {reason}"

    def _clear(self) -> None:
        shutil.rmtree(self._folder / "pushing" / str(self._current), ignore_errors=True)
        for export in (self._folder / "exports").glob("step-*"):
            if export.name != self._current:
                shutil.rmtree(export, ignore_errors=True)
        if not any((self._folder / "pushing").iterdir()):
            (self._folder / "pushing").rmdir()


def _snapshot(run: Path, checkpoint: Checkpoint) -> None:
    """The run as it is now with ``checkpoint`` alone, below ``pushing``; by links, so that it costs nothing."""
    snapshot = run / "pushing" / checkpoint.path.name
    shutil.rmtree(snapshot, ignore_errors=True)
    shutil.copytree(checkpoint.path, snapshot / "checkpoints" / checkpoint.path.name, copy_function=_link)
    for name in FILES:
        shutil.copy2(run / name, snapshot / name)


def _link(source: str, to: str) -> None:
    try:
        os.link(source, to)
    except OSError:  # a file system without hard links
        shutil.copy2(source, to)
