"""Which software and hardware this machine has: what a bug report should say."""

import os
import platform
from typing import Any

from mftcoder import __version__
from mftcoder.versions import versions


def environment() -> dict[str, Any]:
    """Versions, operating system, cores, memory in GiB, CUDA devices. No package needs to be there."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "versions": {"mftcoder": __version__, **versions()},
        "platform": platform.platform(),
        "cores": os.cpu_count(),
        "memory_gib": round(memory / 2**30, 1),
        "cuda": _cuda_devices(),
    }


def _cuda_devices() -> list[dict[str, Any]]:
    try:
        import torch
    except ImportError:
        return []
    devices = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    return [{"name": device.name, "memory_gib": round(device.total_memory / 2**30, 1)} for device in devices]
