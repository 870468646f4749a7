# What a person types. `make drill` and `make test` set everything up the first time, from requirements.lock with
# hashes; afterwards they need no network.

SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help setup drill test lint format docs lock clean

VENV := .venv
BIN := $(VENV)/bin
FAULT ?= wipe
TESTS ?= tests
JOBS ?= 2
PIP := $(BIN)/python -m pip --disable-pip-version-check -qq

help: ## show this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 10

setup: $(VENV)/.installed ## make the virtual environment from the lock

drill: $(VENV)/.installed ## break a sandbox's database and recover it (FAULT=kill, stop, exhaust, drop-table, corrupt, wipe, control-file)
	@$(BIN)/recoup drill database --fault $(FAULT)

# File by file, as what a file starts is shared in it; in a short place, as the path of a socket holds 107 bytes.
test: $(VENV)/.installed ## the whole test suite (TESTS=tests/unit for a part, JOBS=1 for one after the other)
	@place=$$(mktemp -d "$${TMPDIR:-/tmp}/r.XXXXXX") && chmod 755 "$$place"; \
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --basetemp="$$place/t" $(TESTS); code=$$?; \
	rm -rf --one-file-system "$$place"; exit $$code

lint: $(VENV)/.installed ## style, types and the import walls
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.installed ## bring the code into the house style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/.installed ## write docs/commands.md from the commands
	$(BIN)/python -m deployments.reference > docs/commands.md

lock: $(VENV)/.installed ## resolve the dependencies anew and write requirements.lock
	$(BIN)/uv pip compile --quiet --upgrade --universal --generate-hashes --no-emit-index-url --python-version 3.11 \
	  --all-extras --custom-compile-command "make lock" pyproject.toml -o requirements.lock

clean: ## remove what setup, tests and linters made
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The first Python that the lock is for and that can make environments; PYTHON=/path/to/python3.13 names another.
$(VENV)/.python:
	@for python in $(PYTHON) python3.11 python3 python3.12 python3.13 python3.14 /usr/bin/python3; do \
	  $$python -c 'import ensurepip, venv, sys; sys.exit(not (3, 11) <= sys.version_info < (3, 15))' 2>/dev/null || continue; \
	  echo "setting up $(VENV) with $$($$python --version)"; \
	  $$python -m venv --clear $(VENV) >/dev/null && touch $@ && exit; \
	done; \
	echo "recoup needs Python 3.11, 3.12, 3.13 or 3.14 with its venv module; on Debian or Ubuntu, as root:" >&2; \
	echo "  apt-get install python3 python3-venv" >&2; \
	exit 2

# uv alone comes through pip, at the version and hashes of the lock; where uv cannot reach a registry that pip is
# configured for, pip installs the same files.
$(VENV)/.locked: requirements.lock $(VENV)/.python
	@awk '/^[a-z]/ {wanted = /^uv==/} wanted' requirements.lock > $(VENV)/uv.lock
	@$(PIP) install --no-compile --require-hashes -r $(VENV)/uv.lock
	@VIRTUAL_ENV=$(CURDIR)/$(VENV) $(BIN)/uv pip install --quiet --require-hashes -r requirements.lock || \
	  { echo "uv could not; installing with pip" >&2; $(PIP) install --no-compile --require-hashes -r requirements.lock; }
	@touch $@

$(VENV)/.installed: pyproject.toml $(VENV)/.locked
	@$(PIP) install --no-index --no-deps --no-build-isolation --editable .
	@touch $@
