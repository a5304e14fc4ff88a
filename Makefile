# Each target does its own set-up in .venv; on a fresh machine Python 3.11 to 3.13 and make are enough.
.DEFAULT_GOAL := help
.PHONY: help setup demo test lint format lock clean
SHELL := /bin/sh
# make PYTHON=... chooses the interpreter that .venv is made with.
export PYTHON
BIN := .venv/bin
ROOTS := headrace producers learners consumers serving operators
CODE := $(ROOTS) tests benchmarks conftest.py
on = $(filter-out 0 no false,$(1))

help:  ## List the targets
	@awk -F ':.*## ' '/^[a-z%-]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' Makefile

setup:  ## Make .venv ready (every target does it; quick when it is)
	@sh requirements/setup.sh

demo: setup  ## The whole road in under 5 minutes; DATA=path KAFKA=1 SERVE=1 ARGS="--seed 2"
	@$(BIN)/headrace demo $(if $(DATA),--data "$(DATA)") $(if $(call on,$(KAFKA)),--kafka) $(if $(call on,$(SERVE)),--serve) $(ARGS)

test: lint  ## Every check and test; ARGS="-k log" goes to pytest
	@$(BIN)/python -m pytest -n 2 --dist loadfile $(ARGS)

lint: setup  ## Style, types and import directions
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --quiet --check .
	@$(BIN)/mypy --no-error-summary $(CODE)
	@PYTHONPATH=. $(BIN)/lint-imports --no-logo

format: setup  ## Write the style
	@$(BIN)/ruff check --quiet --fix .
	@$(BIN)/ruff format --quiet .

bench-%: setup  ## A benchmark, e.g. make bench-learn_rate ARGS="--events 200000 --out rate.json"
	@$(BIN)/python -m benchmarks.$* $(ARGS)

# The locks hold no download addresses. What torch's own build needs (and nothing else does) is left to torch.
COMPILE := $(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-emit-find-links --no-annotate --no-header
WITHOUT_TORCH := awk '/^[a-z]/ { keep = !/^(torch==|triton==|nvidia-|cuda-)/ } keep'

lock: setup  ## Resolve the newest allowed versions into requirements/*.lock
	@$(COMPILE) requirements/build.in --output-file .venv/build.lock
	@$(COMPILE) --constraint requirements/torch.txt --extra dev pyproject.toml --output-file .venv/dev.lock
	@$(COMPILE) --constraint .venv/dev.lock pyproject.toml --output-file .venv/run.lock
	@for name in build dev run; do \
		{ echo "# By 'make lock'. Installed without dependencies and with hashes checked; see requirements/setup.sh."; \
		  $(WITHOUT_TORCH) .venv/$$name.lock; } > requirements/$$name.lock; done

clean:  ## Remove .venv, caches and what the demo left
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis build dist demo-*
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
