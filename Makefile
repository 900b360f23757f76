SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

PYTHON ?= python3
RUN := .venv/bin/python
PIP := $(RUN) -m pip --disable-pip-version-check
# Measuring coverage doubles the time of a test; these alone have to cover the pure packages.
PURE_TESTS := tests/consensus tests/ledger tests/node tests/primitives
LOCKS := requirements/build.txt requirements/runtime.txt requirements/demo.txt requirements/test.txt

# The directory of one's own files for the demo. It travels in the environment, unexpanded: any name is safe there.
override export DATA := $(value DATA)

.PHONY: help install demo test model check bench chaos floods mutants clean

help: ## Show this list
	@awk -F ': .*## ' '/^[a-z]+: .*## / { printf "  make %-9s %s\n", $$1, $$2 }' Makefile

install: .venv/.installed ## Install everything into .venv (done by the others when needed)

.venv/.requirements: $(LOCKS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; say which: make PYTHON=python3.11")'
	@echo "Installing the locked packages into .venv; about a minute the first time."
	@$(PYTHON) -m venv .venv
	@$(PIP) install -q -r requirements/build.txt
	@PYTHONUNBUFFERED=1 $(PIP) install --progress-bar off --no-deps --no-build-isolation --use-pep517 $(LOCKS:%=-r %) | { \
	  total=$$(cat $(LOCKS) | grep -c ==); count=0; \
	  while read -r word rest; do \
	    case $$word in Collecting) count=$$((count + 1)); [ $$((count % 10)) -ne 0 ] || echo "  $$count of $$total packages";; \
	      Installing) echo "  unpacking the wheels";; esac; \
	  done; }
	@touch $@

.venv/.installed: .venv/.requirements setup.cfg pyproject.toml
	@$(PIP) install -q --no-deps --no-build-isolation --config-settings editable_mode=compat -e .
	@touch $@

demo: .venv/.installed ## Run a consortium of eight daemons on real files (DATA=DIR: on your own)
	@$(RUN) -m simulations.demo

test: check ## Run all checks and tests; fails below 95 % branch coverage of the pure packages
	@echo "Tests of the packages with pure code, on all cores, with coverage"
	@$(RUN) -m pytest -n logical --maxprocesses 8 -m "not processes and not chaos" $(PURE_TESTS) \
	  --cov --cov-report=term-missing:skip-covered
	@echo "The other tests of one process, on all cores"
	@$(RUN) -m pytest -n logical --maxprocesses 8 -m "not processes and not chaos" $(PURE_TESTS:%=--ignore=%)
	@echo "Tests that start processes, one at a time"
	@$(RUN) -m pytest -m processes

model: .venv/.installed ## Check the formal model of the consensus exhaustively (needs spin and gcc)
	@$(RUN) -m simulations.model_check

check: .venv/.installed ## Run ruff (style, errors) and mypy (strict types)
	@echo "Style and errors (ruff)"
	@$(RUN) -m ruff check --quiet .
	@$(RUN) -m ruff format --quiet --diff . || { echo "To apply this: $(RUN) -m ruff format ." >&2; exit 1; }
	@echo "Types (mypy)"
	@$(RUN) -m mypy

bench: .venv/.installed ## Measure real daemons against every aim and the floor: a quarter of an hour
	@$(RUN) -m simulations.bench

chaos: .venv/.installed ## Run real daemons under load while everything goes wrong: three seeds, about ten minutes
	@$(RUN) -m pytest -m chaos
	@$(RUN) -m simulations.chaos

floods: .venv/.installed ## Flood a real daemon in every way a hostile member can: about four minutes
	@$(RUN) -m simulations.floods

mutants: .venv/.installed ## Plant one bug after another: the simulator must find each (up to 10 minutes a bug)
	@$(RUN) -m simulations.mutants

clean: ## Remove .venv, caches and build leftovers
	@rm -rf .venv build medpact.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage .coverage.*
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
