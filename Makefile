# Everything a newcomer types. `make up` and `make test` install what they need first, and only when it changed.
#
#   make up        start the engine (ARGS="--demo --port 9000" go to `tradeengine up`)
#   make test      lint, types, layers, then all tests but the long ones
#   make test-long the long ones: everything is killed, lost, restored, upgraded
#   make test-alerts  of these what is about rules, alerts, dashboards and runbooks: for whoever changes one
#   make faults    strike a running engine at random, and see that it keeps its promises (ARGS="--seed 7 --rounds 3";
#                  ARGS=--help says more; ten minutes if nothing is said)
#   make simulate  SEEDS=5000 schedules of a simulated engine, with deaths between any two steps; a failure is one line
#                  that repeats it
#   make perf      all benchmarks; what they measure is stored in perf/results
#   make perf-check  whether the kernel is as fast as stored there (ARGS="rest pipeline": these benchmarks too)
#   make soak      the engine used in every way for HOURS (0.2 unless told), and what grew, drifted or failed by then
#   make install   the environment alone: .venv/bin/tradeengine is the command afterwards
#   make dependency-audit  whether a locked package has a known vulnerability; asks PyPI about each, so it needs the network
#   make coverage  lines and branches that tests take, of programs and kernels too; fails below its bounds

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=
TESTS ?=
SEEDS ?= 5000
HOURS ?= 0.2
# Files of tests that run side by side; many of them run a whole engine. They come folder by folder: neighbours share
# engines, and long files of a few tests do not begin when all others have ended.
WORKERS ?= 3
IN_PARALLEL := --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder
# Programs that tests need and that are no Python packages: each a command, and the package of Debian that has it.
PROGRAMS := chromium:chromium promtool:prometheus amtool:prometheus-alertmanager pgbouncer:pgbouncer systemd-analyze:systemd

# What `make coverage` runs without compilation: tests that run kernels in their own process.
UNCOMPILED := tests/core $(wildcard tests/storage/test_journal*.py) tests/storage/test_snapshots.py tests/ipc/test_ring.py \
	tests/ipc/test_seqlock.py tests/ipc/test_buckets.py tests/ipc/test_replay_guard.py tests/ipc/test_metrics.py \
	tests/actors/test_matcher_timers.py tests/actors/test_risk.py tests/actors/test_risk_recovery.py

# What machine code is made of: the kernels, and whatever else of ours they call or take constants from.
KERNEL_SOURCES := src/kernels.py $(wildcard src/core/*.py) src/ipc/segment.py src/storage/journal_format.py \
	$(filter-out src/core/%,$(shell grep -l njit src/*/*.py))

.PHONY: up test test-long test-alerts faults simulate lint perf perf-check soak install dependency-audit coverage programs clean
.DELETE_ON_ERROR:

up: install
	@exec $(BIN)/tradeengine up $(ARGS)

test: lint programs
	@$(BIN)/python -m pytest $(IN_PARALLEL) -m "not long" $(TESTS)

test-long: install programs
	@$(BIN)/python -m pytest $(IN_PARALLEL) -m long $(TESTS)

test-alerts: install programs
	@$(BIN)/python -m pytest tests/monitoring

lint: install
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/mypy --no-error-summary
	@$(BIN)/lint-imports > $(VENV)/lint-imports.log || { cat $(VENV)/lint-imports.log; exit 1; }

perf: install
	@$(BIN)/python -m perf

perf-check: install
	@$(BIN)/python -m perf.check $(ARGS)

faults: install
	@$(BIN)/python -m tests.faults $(or $(ARGS),--minutes 10)

simulate: install
	@$(BIN)/python -m tests.simulation --seeds 0..$(SEEDS) --workers $(WORKERS) $(ARGS)

soak: install
	@$(BIN)/python -m perf.soak --hours $(HOURS) --picture docs/soak.svg --store

# Twice: as programs run, and then kernels as plain Python, because coverage sees no compiled line. What a random test
# takes by luck would come and go, so the second time its seeds are fixed.
coverage: install programs
	@rm -rf .coverage-data
	@NUMBA_JIT_COVERAGE=0 $(BIN)/coverage run -m pytest $(IN_PARALLEL) -m "not long" $(TESTS)
	@NUMBA_DISABLE_JIT=1 TEST_SEED=1 $(BIN)/coverage run -m pytest -p tests.uncompiled --hypothesis-seed=0 \
		$(IN_PARALLEL) --timeout 600 $(UNCOMPILED)
	@$(BIN)/coverage combine --quiet
	@$(BIN)/coverage report
	@$(BIN)/python -m tests.coverage_bounds

# Strict: a package that could not be asked about is no package without vulnerabilities.
dependency-audit: install
	@$(BIN)/pip-audit --strict --require-hashes --disable-pip --progress-spinner off --requirement requirements.lock

# From Debian where that may be done; elsewhere tests that need one of these are skipped.
programs: install
	@tests/programs.sh $(PROGRAMS)

install: $(VENV)/.stamp-kernels

$(VENV)/.stamp-environment:
	@command -v $(PYTHON) > /dev/null || { echo "$(PYTHON) is needed; name another 3.11 to 3.13 by make PYTHON=…" >&2; exit 1; }
	@echo "making the environment in $(VENV), once"
	@$(PYTHON) -m venv $(VENV)
	@touch $@

# The lock file is for every platform and for development too, so that what is tested is what runs.
$(VENV)/.stamp-packages: requirements.lock $(VENV)/.stamp-environment
	@echo "installing packages from requirements.lock"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@touch $@

$(VENV)/.stamp-project: pyproject.toml $(VENV)/.stamp-packages
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps --editable .
	@touch $@

$(VENV)/.stamp-kernels: $(KERNEL_SOURCES) $(VENV)/.stamp-project
	@$(BIN)/python -m tradeengine.kernels
	@touch $@

clean:
	rm -rf $(VENV) .coverage-data .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache dist
	find src tests perf -name __pycache__ -type d -prune -exec rm -rf {} +
