"""``python -m mftcoder``; also ``deepspeed --module mftcoder train CONFIG`` and ``torchrun -m mftcoder train CONFIG``."""

import sys

from mftcoder.cli import main

if __name__ == "__main__":
    sys.exit(main())
