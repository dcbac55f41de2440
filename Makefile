# Two commands on a fresh machine with Python 3.11 or newer: `make demo` and `make test`.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
EXAMPLES := $(sort $(wildcard specs/examples/*.yaml))

# The repository root is the package: it must not be on the path of what runs here.
export PYTHONSAFEPATH := 1

.PHONY: help demo test lint types check bench protocol clean

help:  ## this list
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST)

demo: $(VENV)/.core  ## solve the four real examples, beside what people do today
	$(BIN)/equipoise solve --method exact --compare $(EXAMPLES)

test: $(VENV)/.dev  ## run the tests
	$(BIN)/python -m pytest -n 2

lint: $(VENV)/.dev  ## check style
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev  ## check types
	$(BIN)/basedpyright

check: lint types test  ## all of the above

bench: $(VENV)/.dev  ## measure compile and solve times on this machine
	$(BIN)/python benchmarks/compile_and_solve.py

protocol: $(VENV)/.dev  ## make the stubs of the gRPC protocol again
	$(BIN)/python -m equipoise.server.protocol.generate

clean:  ## remove the environment and everything built
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .hypothesis

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Equipoise needs Python 3.11 or newer: make PYTHON=python3.11 …"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.core: pyproject.toml | $(VENV)/bin/python
	$(PIP) install --quiet --editable .
	@touch $@

$(VENV)/.dev: pyproject.toml | $(VENV)/bin/python
	$(PIP) install --quiet --editable '.[dev]'
	@touch $@ $(VENV)/.core
