# Each target does all the set-up it needs; nothing has to be done by hand before it.
PYTHON ?= $(shell sh scripts/find-python.sh)
VENV := .venv
BIN := $(VENV)/bin
SOURCES := pyproject.toml hatch_build.py $(wildcard js/*)

.PHONY: demo lab test test-vm test-all test-fast lint bench clean help

help:
	@echo "make demo   run the quickstart notebook for real and save it as a page"
	@echo "make lab    open JupyterLab on the notebooks"
	@echo "make test   lint, types and all tests"
	@echo "make test-vm  the tests of the kernel again, on a kernel of their own in virtual machines"
	@echo "make test-all  both in their long form: every leg for every user, thousands of tries; hours"
	@echo "make bench  the benchmarks beside their peers"

demo: $(VENV)/.notebooks
	@sh scripts/system-packages.sh run
	@$(BIN)/python scripts/demo.py

lab: $(VENV)/.notebooks
	@sh scripts/system-packages.sh run
	@$(BIN)/jupyter lab --notebook-dir=notebooks $(if $(filter 0,$(shell id -u)),--allow-root) notebooks/01-quickstart.ipynb

test: $(VENV)/.tests
	@sh scripts/system-packages.sh test
	$(MAKE) --no-print-directory lint
	@sh scripts/test-native.sh $(BIN)/python $(PYTEST_OPTIONS)

test-vm: $(VENV)/.tests
	@sh scripts/system-packages.sh test
	@sh scripts/system-packages.sh vm
	@sh scripts/test-vm.sh $(BIN)/python

test-all:
	CTLAB_TEST_LONG=1 $(MAKE) --no-print-directory test
	CTLAB_TEST_LONG=1 $(MAKE) --no-print-directory test-vm

test-fast: $(VENV)/.tests
	$(BIN)/python -m pytest -m "not faults and not browser" $(PYTEST_OPTIONS)

lint: $(VENV)/.tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/.tests
	@sh scripts/system-packages.sh bench
	$(BIN)/python benchmarks/run.py

$(VENV)/.python:
	@sh scripts/system-packages.sh python
	@test -n "$(PYTHON)" || { echo "ctlab needs Python 3.11 or newer: apt-get install python3 python3-venv"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.notebooks: $(VENV)/.python $(SOURCES)
	$(BIN)/python -m pip install -q -e '.[notebooks]'
	@touch $@

$(VENV)/.tests: $(VENV)/.notebooks
	$(BIN)/python -m pip install -q -e '.[tests]'
	@touch $@

clean:
	rm -rf $(VENV) out build dist ctlab/static/*.js .pytest_cache .mypy_cache .ruff_cache .hypothesis
