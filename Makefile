# make search: the whole job.  make lint, make test, make test-slow: what CI runs.  Variables: BUDGET, ARGS, JOBS, PYTHON.
PYTHON ?= python3
VENV   ?= .venv
BUDGET ?= 200
ARGS   ?=
JOBS   ?= logical
PY     := $(VENV)/bin/python

PYTEST := $(PY) -m pytest -n $(JOBS) --maxprocesses 8

.PHONY: help setup search test test-slow lint clean

help:
	@sed -n '1s/^# //p' Makefile

setup: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml nas/teachers/requirements.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; try make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --editable '.[dev]'
	$(PY) -m pip install --quiet --no-deps --require-hashes --requirement nas/teachers/requirements.txt
	@touch $@

search: setup
	$(PY) -m nas.search --budget $(BUDGET) $(ARGS)

test: setup
	$(PYTEST) $(ARGS)

test-slow: setup
	$(PYTEST) -m slow $(ARGS)

lint: setup
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

clean:
	rm -rf $(VENV) *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
