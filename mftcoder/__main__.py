"""``python -m mftcoder``, which is also what ``deepspeed --module mftcoder`` and ``torchrun -m mftcoder`` run."""

import sys

from mftcoder.cli import main

if __name__ == "__main__":
    sys.exit(main())
