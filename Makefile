# make setup, then make check while working, make test before a change goes in.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.set-up
# ninja, which DeepSpeed calls by name, is in there; two torch threads on busy cores are slower than one.
RUN := PATH="$(CURDIR)/$(BIN):$$PATH" OMP_NUM_THREADS=1

.PHONY: setup requirements check test test-all smoke demo generated clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(MAKE) --no-print-directory requirements
	@echo "installing into $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@PIP_CONSTRAINT=constraints.txt $(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@

# Found out now, not in the middle of a build: DeepSpeed compiles its parts when they are first used.
requirements:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "$(PYTHON) must be Python 3.11 or newer: install python3.11, or say make PYTHON=/path/to/python"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null \
		|| { echo "$(PYTHON) cannot make virtual environments: install python3-venv"; exit 1; }
	@command -v g++ >/dev/null || { echo "there is no g++: install g++"; exit 1; }
	@$(PYTHON) -c 'import os, sys, sysconfig; sys.exit(not os.path.exists(sysconfig.get_path("include") + "/Python.h"))' \
		|| { echo "$(PYTHON) has no Python.h: install python3-dev"; exit 1; }

check: setup
	@echo "format, lint, types, unit tests"
	@$(RUN) ruff format --check --quiet . || { echo "run: $(BIN)/ruff format"; exit 1; }
	@$(RUN) ruff check --quiet .
	@$(RUN) mypy
	@$(RUN) python -m pytest -q -m "not engine and not long and not browser"

# Two files of tests at a time: most tests keep one core busy.
test: setup
	@$(RUN) python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder -m "not long"

test-all: setup
	@$(RUN) python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder

smoke: setup
	@$(RUN) tools/smoke.sh

demo: setup
	@$(RUN) tools/demo.sh

# configs/schema.json and the tables of configs/README.md, and the same in configs/construct, from the schemas in mftcoder;
# the table of model families.
generated: setup
	@$(RUN) python -c 'from pathlib import Path; from mftcoder.config.describe import refresh; refresh(Path("configs"))'
	@$(RUN) python -c 'from pathlib import Path; from mftcoder.config.describe import refresh; \
		from mftcoder.construct.settings import ConstructConfig; refresh(Path("configs/construct"), ConstructConfig)'
	@$(RUN) python -c 'from pathlib import Path; from mftcoder.models.describe import refresh; refresh(Path("configs/models.md"))'

clean:
	@rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
