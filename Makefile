# Each target does its own set-up in .venv; on a fresh machine Python 3.11 to 3.13 and make are enough.
.DEFAULT_GOAL := help
.PHONY: compose-drill kubernetes-drill help setup demo check test test-full most-tests all-tests compiled lint style types format simulate chaos faults pythons mutate release lock clean
SHELL := /bin/sh
# make PYTHON=... chooses the interpreter that the environment is made with, VENV=... its folder.
VENV := .venv
export PYTHON VENV
# Where this is set, each process compiles the libraries that it imports anew: 1.5 s with torch, 0.5 s without.
unexport PYTHONDONTWRITEBYTECODE
BIN := $(VENV)/bin
ROOTS := headrace producers learners consumers serving operators
CODE := $(ROOTS) tests benchmarks deploy requirements conftest.py
on = $(filter-out 0 no false,$(1))

help:  ## List the targets
	@awk -F ':.*## ' '/^[a-z%-]+:.*## / { printf "  make %-17s %s\n", $$1, $$2 }' Makefile

setup:  ## Make .venv ready (every target does it; quick when it is)
	@sh requirements/setup.sh

demo: setup  ## The whole road in under 5 minutes; DATA=path KAFKA=1 SERVE=1 ARGS="--seed 2"
	@$(BIN)/headrace demo $(if $(DATA),--data "$(DATA)") $(if $(call on,$(KAFKA)),--kafka) $(if $(call on,$(SERVE)),--serve) $(ARGS)

# The fast tests start no process of ours and no broker.
FAST := tests/unit tests/conformance tests/property $(ROOTS) benchmarks deploy
PYTEST := $(BIN)/python -m pytest

check: lint  ## The inner loop, at most 2 minutes: style, types, imports, fast tests; ARGS="-k log" goes to pytest
	@$(PYTEST) -n 2 --quiet -m "not slow and not full" $(FAST) $(ARGS)
	@echo "check: style, types, imports and fast tests are in order; before a push: make test"

# The other tests wait for brokers and processes more than they compute: three at a time keep two cores busy, of which
# one begins with those that wait (conftest.py).
test: style  ## Everything that CI runs, fast tests first, at most 20 minutes; ARGS as above
	@$(MAKE) --no-print-directory --jobs 2 types most-tests

test-full: style  ## That, and the tests that take longer; ARGS as above
	@$(MAKE) --no-print-directory --jobs 2 types all-tests

most-tests: compiled
	@$(PYTEST) -n 3 -m "not full" $(ARGS)

all-tests: compiled
	@$(PYTEST) -n 3 $(ARGS)

# On a fresh machine each of the processes would compile all libraries and tests, at the same time.
compiled: setup
	@[ -d tests/__pycache__ ] || $(PYTEST) --collect-only --quiet > /dev/null

lint: style types  ## Style, types and import directions

style: setup
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --quiet --check .
	@PYTHONPATH=. $(BIN)/lint-imports --no-logo

types: setup
	@$(BIN)/mypy --no-error-summary $(CODE)

format: setup  ## Write the style
	@$(BIN)/ruff check --quiet --fix .
	@$(BIN)/ruff format --quiet .

bench-%: setup  ## A benchmark, e.g. make bench-learn_rate ARGS="--events 200000 --out rate.json"
	@$(BIN)/python -m benchmarks.$* $(ARGS)

chaos: setup  ## Faults on real processes, audited; ARGS="--minutes 60 --seed 1 --kafka --faults kill,network"
	@$(BIN)/python -m tests.chaos $(ARGS)

faults: setup  ## Each n-th system call of a commit and a snapshot fails; needs strace; ARGS="--each 20 --name syscalls"
	@$(BIN)/python -m tests.chaos.sweep $(ARGS)

compose-drill: setup  ## docker-compose.yml on a real engine, as root on Debian; docs/containers.md; ARGS="--parts build,up"
	@$(BIN)/python -m tests.containers compose $(ARGS)

kubernetes-drill: setup  ## deploy/kubernetes on a cluster of one node, built from Go modules; needs what compose-drill builds
	@$(BIN)/python -m tests.containers kubernetes $(ARGS)

pythons:  ## `make check` with Python 3.12 and 3.13, where they are found, in .venv-3.12 and .venv-3.13
	@sh requirements/pythons.sh 3.12 3.13

simulate: setup  ## Shards among seeded faults, in one thread; ARGS="--seeds 100000 --jobs 2" or "--seed 17" for one trace
	@$(BIN)/python -m tests.simulation $(ARGS)

mutate: setup  ## Mutants of the core against its tests, an hour on 2 cores; ARGS="--count 50 --seed 2"
	@sh requirements/mutate.sh --out benchmarks/results/mutation.json $(ARGS)

release: setup  ## Build wheel and sdist into dist/, check both in a bare environment, print the next steps
	@sh requirements/release.sh

# The locks hold no download addresses. What torch's own build needs (and nothing else does) is left to torch.
# KEEP=1 keeps the locked versions, e.g. after a requirement has moved or gone.
COMPILE := $(BIN)/uv pip compile --quiet $(if $(call on,$(KEEP)),--constraint requirements/dev.lock,--upgrade) \
	--universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links --no-annotate --no-header
WITHOUT_TORCH := awk '/^[a-z]/ { keep = !/^(torch==|triton==|nvidia-|cuda-)/ } keep'

lock: setup  ## Resolve the newest allowed versions into requirements/*.lock; KEEP=1 keeps the locked ones
	@$(COMPILE) $(if $(call on,$(KEEP)),--constraint requirements/build.lock) requirements/build.in --output-file $(VENV)/build.lock
	@$(COMPILE) --constraint requirements/torch.txt --extra dev pyproject.toml --output-file $(VENV)/dev.lock
	@$(COMPILE) --constraint $(VENV)/dev.lock pyproject.toml --output-file $(VENV)/run.lock
	@for name in build dev run; do \
		{ echo "# By 'make lock'. Installed without dependencies and with hashes checked; see requirements/setup.sh."; \
		  $(WITHOUT_TORCH) $(VENV)/$$name.lock; } > requirements/$$name.lock; done

clean:  ## Remove .venv, caches and what the demo left
	rm -rf .venv .venv-3.* .venv-mutate .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis build dist demo-*
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
