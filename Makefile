# Everything a reader or an author does, one word each. `make help` lists the words.
# Needs GNU make, git and Python >= 3.11; each target sets up .venv by itself.
# Another interpreter: make run PYTHON=python3.13

PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
# The stamp is written last: a set-up that was interrupted has none, so the next call finishes it.
STAMP := $(VENV)/cambook-installed
# For make run, store, test…: what follows is handed on, e.g. make run ARGS="01 -p MODEL tiny_resnet"
ARGS ?=

NBVAL := --nbval --nbval-current-env --nbval-sanitize-with tests/notebooks/sanitize.cfg
# loadscope keeps the cells of one notebook in one worker, in order. Two workers with two threads each get into
# each other's way on two cores: two chapters side by side took 170 s, with one thread each 97 s.
PYTEST := OMP_NUM_THREADS=1 $(PY) -m pytest -n 2 --dist loadscope --durations=10
LAB := $(if $(filter 0,$(shell id -u)),--allow-root)
# The part of JupyterLab that asks about news at the first start and looks for updates: a book needs no network.
NEWS := @jupyterlab/apputils-extension:announcements

.DEFAULT_GOAL := help
.PHONY: help setup run lab test test-all test-browser bench evidence data store doctor clean

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*## /  make \1	/p' $(MAKEFILE_LIST) | expand -t 20

run: $(STAMP)  ## execute all notebooks into build/, write HTML pages and a table of minutes
	@$(PY) tools/run_notebooks.py $(ARGS)

test: $(STAMP)  ## all tests (unit, parity, stored notebooks) except the slow and the browser ones
	@$(PYTEST) $(NBVAL) -m "not slow and not browser" tests notebooks $(ARGS)

lab: $(STAMP)  ## open JupyterLab at the start page
	@$(PY) -m jupyterlab $(LAB) notebooks/00_start_here.ipynb $(ARGS)

doctor: $(STAMP)  ## check this installation line by line, and say what to do about what fails
	@$(PY) -m cambook doctor

test-all: $(STAMP)  ## the tests with the slow ones (every notebook with every network)
	@$(PYTEST) $(NBVAL) -m "not browser" tests notebooks $(ARGS)

test-browser: $(STAMP)  ## the playground in a real browser (needs Chromium)
	@$(PY) -m pytest -m browser tests/browser $(ARGS)

bench: $(STAMP)  ## time the library against the others, on this machine
	@$(PY) tests/benchmarks/run.py $(ARGS)

evidence: $(STAMP)  ## for authors: compute the tables of evidence again and store them
	@$(PY) tools/evidence.py $(ARGS)

data: $(STAMP)  ## weights and data sets: make data ARGS="list", then make data ARGS="get NAME"
	@$(PY) -m data_download $(ARGS)

store: $(STAMP)  ## for authors: execute the notebooks in place and store their outputs
	@$(PY) tools/store_notebooks.py $(ARGS)

setup: $(STAMP)  ## only set up .venv

clean:  ## remove .venv and build/
	rm -rf $(VENV) build

# --no-compile, as uv does: Python compiles what is imported when it is imported, a quarter of the 15,000 files. pip would
# compile all of them, and the set-up would take a minute longer.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "cambook needs Python 3.11 or newer, and $(PYTHON) is $$($(PYTHON) --version 2>&1 || echo not there)."; \
	  echo "Install one and name it, for example: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	@rm -f $@
	@echo "Setting up $(VENV) (once, a few minutes; nearly all of it is the download of torch)"
	@if command -v uv >/dev/null 2>&1; then \
	  { $(PY) -c '' 2>/dev/null || $(PYTHON) -m venv --clear --without-pip $(VENV); } && \
	  uv pip install --python $(PY) -c constraints.txt -e ".[notebooks,test]"; \
	else \
	  { $(PY) -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV); } && \
	  $(PY) -m pip install --no-compile -c constraints.txt -e ".[notebooks,test]"; \
	fi || { echo "The set-up did not finish. When the cause above is mended, call make again."; exit 1; }
	@$(PY) -m jupyter labextension disable --level=sys_prefix $(NEWS) >/dev/null 2>&1 || \
	  echo "JupyterLab may ask about news at its first start; any answer will do."
	@touch $@
