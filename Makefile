# make setup      create .venv and install what a search needs; TORCH=cpu for PyTorch without CUDA libraries
# make develop    add the developers' tools, which lint, test and docs need
# make search     run a search with the built-in images and teachers; BUDGET=200 architectures, ARGS='more options'
# make lint       run ruff, mypy and the import contracts
# make test       run the fast tests in one process per core; JOBS=1 for one process, ARGS='options of pytest'
# make test-slow  run the other tests, some take minutes; make test-exhaustive adds more cases of them
# make docs       generate the reference pages and build the site in docs/_build
# make clean      remove .venv, the site and the tools' caches
# A quick look:   make search BUDGET=8 ARGS='--rung-steps 10,30 --train-images 256 --val-images 64'
# PYTHON=python3.12 chooses the interpreter of .venv, VENV=DIR another folder for it.
PYTHON ?= python3
VENV   ?= .venv
TORCH  ?=
BUDGET ?= 200
ARGS   ?=
JOBS   ?= $(shell nproc 2>/dev/null || getconf _NPROCESSORS_ONLN)
PY     := $(VENV)/bin/python
PIP    := $(PY) -m pip install --disable-pip-version-check --constraint constraints.txt

CPU_INDEX := https://download.pytorch.org/whl/cpu
PYTEST    := $(PY) -m pytest -n $(JOBS) --maxprocesses 8

.PHONY: help setup develop search test test-slow test-exhaustive lint docs clean

help:
	@sed -n 's/^# //p' Makefile

setup: $(VENV)/.ready
develop: $(VENV)/.ready-dev
$(VENV)/.ready-dev: EXTRAS := [dev]

$(VENV)/.ready $(VENV)/.ready-dev: pyproject.toml constraints.txt nas/teachers/requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is required; try make PYTHON=python3.11 ...")'
ifeq ($(TORCH),cpu)
	@echo "installing into $(VENV), with PyTorch's CPU build: about 2.1 GB, some minutes"
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) --index-url $(CPU_INDEX) --no-deps 'torch<2.14' 'torchvision<0.29'  # the next line installs what they need
else
	@echo "installing into $(VENV), with PyPI's PyTorch and its CUDA libraries: several GB, some minutes;"
	@echo "without a GPU, make setup TORCH=cpu needs less"
	@$(PYTHON) -m venv $(VENV)
endif
	@$(PIP) --editable '.$(EXTRAS)'
	@$(PIP) --no-deps --require-hashes --requirement nas/teachers/requirements.txt
	@echo "ready: . $(VENV)/bin/activate, then backbone-nas --help; or make search"
	@touch $(VENV)/.ready $@

search: setup
	$(VENV)/bin/backbone-nas search --budget $(BUDGET) $(ARGS)

test: develop
	$(PYTEST) $(ARGS)

test-slow: develop
	$(PYTEST) -m "slow and not exhaustive" $(ARGS)

test-exhaustive: develop
	$(PYTEST) -m slow $(ARGS)

lint: develop
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

docs: develop
	$(PY) docs/generate.py
	$(PY) -m sphinx -W --keep-going -q docs docs/_build

clean:
	rm -rf $(VENV) docs/_build *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
