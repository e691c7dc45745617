"""A trace of some steps by torch.profiler, for chrome://tracing or https://ui.perfetto.dev."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from mftcoder.config.schema import Profile
from mftcoder.distributed import Group
from mftcoder.errors import MftcoderError

FOLDER = "profile"


class Profiling:
    """Follows the training loop and records the steps that ``settings`` name, on the ranks that they name."""

    def __init__(self, settings: Profile | None, output_dir: Path, group: Group, tell: Callable[[str], None]) -> None:
        self._steps = settings.steps if settings and group.rank in settings.ranks else (0, -1)
        self._folder, self._group, self._tell = output_dir / FOLDER, group, tell
        self._running: profile | None = None
        self._first = 0

    def follow(self, step: int) -> None:
        """To be called between two steps, with the number of those done."""
        first, last = self._steps
        if self._running and step >= last:
            self.close()
        elif not self._running and first <= step + 1 <= last:
            activities = [ProfilerActivity.CPU]
            if self._group.device.type == "cuda":
                activities.append(ProfilerActivity.CUDA)
            self._first, self._running = step + 1, profile(activities=activities, record_shapes=True)
            self._running.start()

    def close(self) -> None:
        """Write the trace, if one is being recorded."""
        if self._running is None:
            return
        running, self._running = self._running, None
        if self._group.device.type == "cuda":
            torch.cuda.synchronize(self._group.device)
        running.stop()
        self._folder.mkdir(exist_ok=True)
        path = self._folder / f"from-step-{self._first}-rank-{self._group.rank}.json.gz"
        running.export_chrome_trace(str(path))
        self._tell(f"wrote {path}; open it in https://ui.perfetto.dev")


def check_ranks(settings: Profile | None, num_ranks: int) -> None:
    """MftcoderError if a rank is to be recorded that there is not."""
    if settings and max(settings.ranks) >= num_ranks:
        raise MftcoderError(
            f"logging.profile.ranks: must be below {num_ranks}, the number of ranks; found {max(settings.ranks)}."
        )
