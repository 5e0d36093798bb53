# `make demo` and `make test` each work alone on a fresh machine: they find a Python >= 3.10, make .venv, install the
# package with its tools and run. A stamp file makes the second call quick.
#
#   make test VENV=folder      use an environment you made yourself; nothing is installed into it
#   make test PYTHON=python3.12
#   make test JOBS=8           test workers, 2 by default
#   make hosts                 contract tests against every supported Ultralytics
#   make mutants FILES=ultra_dsmoe/ops SAMPLE=10
#                              break these files on purpose (all that compute by default), of each ten places (all), and
#                              run their own tests: a break that no test notices wants a better test, or its reason in
#                              benchmarks/mutants/reasons.yaml

PYTHON ?=
VENV ?= .venv
JOBS ?= 2
FILES ?=
SAMPLE ?=
OLDEST_HOST := 8.3.200

BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# A VENV from the command line or the environment belongs to the caller.
READY := $(if $(filter file,$(origin VENV)),$(STAMP))

# One thread per test worker: the tensors are small, more threads only contend.
QUIET_THREADS := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help demo test install lint format typecheck docs unit host-oldest hosts mutants wheel clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

$(STAMP): pyproject.toml
	@set -eu; \
	for python in $(PYTHON) python3 python3.13 python3.12 python3.11 python3.10 python; do \
	    if "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then found=$$python; break; fi; \
	done; \
	if [ -z "$${found:-}" ]; then echo "make: expected a Python >= 3.10, found none (make PYTHON=path names one)" >&2; exit 1; fi; \
	if ! [ -x $(BIN)/python ] && ! "$$found" -m venv $(VENV); then \
	    rm -rf $(VENV); echo "make: $$found cannot make environments; on Debian: apt install python3-venv" >&2; exit 1; \
	fi
	$(BIN)/python -m pip install --quiet --upgrade pip
	@echo "installing the package and its tools into $(VENV): some minutes, about 7 GB with a CUDA build of torch"
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	@touch $@

install: $(READY) ## make .venv and install the package with its tools

demo: $(READY) ## generate boards, train, export, check and predict: minutes on two cores
	@if [ -f examples/01_demo.py ]; then $(BIN)/python -u examples/01_demo.py; \
	else echo "make demo: expected examples/01_demo.py, it is not in this checkout" >&2; exit 1; fi

test: lint typecheck docs host-oldest unit ## everything CI runs

lint: $(READY) ## ruff, rules and format
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .

format: $(READY) ## let ruff mend what it can
	$(BIN)/python -m ruff check --fix .
	$(BIN)/python -m ruff format .

typecheck: $(READY) ## mypy on package, tests, benchmarks and examples
	$(BIN)/python -m mypy

docs: $(READY) ## the documentation as a site, in site/; a dead link is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

unit: $(READY) ## the tests, on the installed Ultralytics
	$(QUIET_THREADS) $(BIN)/pytest -n $(JOBS) --durations=10 --ignore=tests/benchmarks
	# In processes of their own: behind them, loading a checkpoint has crashed a worker.
	$(QUIET_THREADS) $(BIN)/pytest -n $(JOBS) --durations=10 tests/benchmarks

host-oldest: $(READY) ## contract tests on the oldest supported Ultralytics
	$(QUIET_THREADS) $(BIN)/python -m nox -s hosts -- $(OLDEST_HOST)

hosts: $(READY) ## contract tests on every supported Ultralytics
	$(QUIET_THREADS) $(BIN)/python -m nox -s hosts

mutants: $(READY) ## break the package a line at a time and say what no test notices: an hour and more
	$(QUIET_THREADS) $(BIN)/python -W ignore -m benchmarks.mutants $(FILES) $(if $(SAMPLE),--sample $(SAMPLE))

wheel: $(READY) ## build dist/*.whl
	$(BIN)/python -m build --wheel

clean: ## remove environment, caches and builds
	rm -rf .venv .nox .mypy_cache .ruff_cache .pytest_cache build dist site
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
