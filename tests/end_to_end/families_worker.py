"""Run by a launcher: train several configs in one process group; what goes wrong is noted in their folders.

torchrun … families_worker.py CONFIG [CONFIG …]
"""

import sys
import traceback
from pathlib import Path

from mftcoder.config.load import load
from mftcoder.engine.deepspeed import process_group
from mftcoder.training.run import train

if __name__ == "__main__":
    with process_group():
        for path in sys.argv[1:]:
            config = load(path)
            try:
                train(config)
            except Exception:
                Path(f"{config.output_dir}.error").write_text(traceback.format_exc())
