# Each target does all the set-up it needs; nothing has to be done by hand before it.
PYTHON ?= $(shell sh scripts/find-python.sh)
VENV := .venv
BIN := $(VENV)/bin
SOURCES := pyproject.toml hatch_build.py $(wildcard js/*)

.PHONY: demo lab test test-vm test-all test-pythons test-fast lint bench docs release clean help

help:
	@echo "make demo   run the quickstart notebook for real and save it as a page"
	@echo "make lab    open JupyterLab on the notebooks"
	@echo "make test   lint, types and all tests"
	@echo "make test-fast  within a minute: what one runs while writing"
	@echo "make test-vm  the tests of the kernel again, on a kernel of their own in virtual machines"
	@echo "make test-pythons  the tests that need no lab, on each of Python 3.11, 3.12 and 3.13 that is found"
	@echo "make test-all  all three, in their long form: every leg for every user, thousands of tries; hours"
	@echo "make bench  the benchmarks beside their peers"
	@echo "make docs   the site: the pages, the quickstart as it ran, the reference"
	@echo "make release  wheel and sdist in dist/, tried in an environment of their own"

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
	$(MAKE) --no-print-directory test-pythons
	CTLAB_TEST_LONG=1 $(MAKE) --no-print-directory test-vm

# Its environments belong to the Pythons; what all share is the system's.
test-pythons: $(VENV)/.python
	@sh scripts/system-packages.sh run
	@sh scripts/test-pythons.sh $(PYTEST_OPTIONS)

# Within a minute: what needs no lab, and of what needs one the files that most of the code passes through.
FAST := tests/pure $(addprefix tests/kernel/test_,$(addsuffix .py,containers container_life explain_container networks)) \
        $(addprefix tests/notebook/test_,$(addsuffix .py,bad_input explain verbs))
test-fast: $(VENV)/.tests
	$(BIN)/python -m pytest -q --numprocesses=3 --dist=loadfile --no-loadscope-reorder $(FAST) $(PYTEST_OPTIONS)

lint: $(VENV)/.tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/.tests
	@sh scripts/system-packages.sh bench
	$(BIN)/python benchmarks/run.py

docs: $(VENV)/.docs
	@sh scripts/system-packages.sh run
	@$(BIN)/python scripts/docs.py

release: $(VENV)/.release
	@sh scripts/system-packages.sh run
	@$(BIN)/python scripts/release.py

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

$(VENV)/.docs: $(VENV)/.notebooks
	$(BIN)/python -m pip install -q -e '.[docs]'
	@touch $@

$(VENV)/.release: $(VENV)/.python pyproject.toml
	$(BIN)/python -m pip install -q 'build>=1.2'
	@touch $@

clean:
	rm -rf $(VENV) $(VENV)-3.* out build dist ctlab/static/*.js .pytest_cache .mypy_cache .ruff_cache .hypothesis
