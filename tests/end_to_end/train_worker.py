"""Run by a launcher: train several configs, one after the other, in one process group.

torchrun … train_worker.py CONFIG [CONFIG …]
"""

import sys

from mftcoder.config.load import load
from mftcoder.engine.deepspeed import process_group
from mftcoder.training.run import train

if __name__ == "__main__":
    with process_group():
        for path in sys.argv[1:]:
            train(load(path))
