# `make demo`: a swarm of three peers on this machine, one of which is killed.   `make test`: the suite.
# `make check`: the gate, the same that continuous integration runs.
# Everything is installed into .venv, and again only when pyproject.toml or constraints.txt changes.

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# The first of these that is at least 3.11; choose another with `make PYTHON=/path/to/python test`.
PYTHON ?= $(shell for name in python3 python3.11 python3.12 python3.13; do \
	$$name -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$name; break; }; done)

.DEFAULT_GOAL := help
.PHONY: help demo test check format lint types layers docs map reference clean

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 16

$(STAMP): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "error: no Python 3.11 or newer found; install one or name it: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "error: $(PYTHON) is not Python 3.11 or newer" >&2; exit 1; }
	@test -x $(BIN)/python || "$(PYTHON)" -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,docs,quantize]'
	@touch $@

demo: $(STAMP) ## three peers, one killed in mid-sentence, the same text
	$(BIN)/swarm demo

test: $(STAMP) ## the whole suite
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder

check: lint types layers docs test ## the gate: format, lint, types, layers, documentation, tests

lint: $(STAMP) ## ruff: formatting and rules
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(STAMP) ## mypy --strict
	$(BIN)/mypy -p swarm -p tests

layers: $(STAMP) ## import-linter contracts
	$(BIN)/lint-imports

docs: $(STAMP) ## the documentation site, into build/site; a broken link is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

format: $(STAMP) ## let ruff format and repair what it can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

map: $(STAMP) ## write the map of files in docs/architecture.md anew
	$(BIN)/python -m tests.source_map

reference: $(STAMP) ## write docs/cli.md anew from the commands
	$(BIN)/python -m tests.cli_reference

clean: ## remove the virtual environment and caches
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
