# Every target works from a clean clone: it depends on the stamp of the environment, which make builds when needed.
PYTHON ?= python3
PRESET ?= cpu
SEEDS ?= 1
WORKERS ?= 2
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help install study report notebooks record test test-fast test-lab bench lab lint format clean

help: ## show the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "  variables: PRESET=quick|cpu|real|gpu|full (now $(PRESET))  WORKERS=$(WORKERS)  SEEDS=$(SEEDS)  PYTHON=$(PYTHON)"

$(STAMP): pyproject.toml requirements.lock
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "flatlab needs Python 3.11 or newer; try make PYTHON=python3.12")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test]' --constraint requirements.lock
	touch $@

install: $(STAMP) ## set up the environment in .venv

study: $(STAMP) ## run all notebooks with PRESET on WORKERS; writes results/PRESET/index.html
	$(BIN)/python -m flatlab run --preset $(PRESET) --seeds $(SEEDS) --workers $(WORKERS)

report: $(STAMP) ## rebuild results/PRESET/index.html from what has run
	$(BIN)/python -m flatlab report --preset $(PRESET)

notebooks: $(STAMP) ## run the notebooks with the quick preset and store their outputs in notebooks/
	$(BIN)/python -m flatlab run --preset quick --workers 2
	$(BIN)/python -m flatlab store --preset quick

record: $(STAMP) ## keep claims and figures of results/PRESET in notebooks/results/; renew its table and the README
	$(BIN)/python -m flatlab record --preset $(PRESET)

test: $(STAMP) ## lint, types, unit tests, laws, and the notebooks through nbval
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile --nbval-lax --nbval-current-env --nbval-cell-timeout=3600 \
	  --nbval-kernel-startup-timeout=600 --override-ini testpaths= notebooks

test-fast: lint ## lint, types, and the unit tests of the rooms that changed
	tests=$$($(BIN)/python tests/changed.py) && if [ -n "$$tests" ]; then \
	  $(BIN)/python -m pytest --numprocesses 2 --dist loadfile -m "not slow and not lab" $$tests; fi

test-lab: $(STAMP) ## open the notebooks in JupyterLab in a real browser (needs chromium)
	$(BIN)/python -m pytest -m lab tests/lab

bench: $(STAMP) ## print the speed ratios
	$(BIN)/python -m pytest tests/bench --benchmark-enable --benchmark-disable-gc --benchmark-columns=median,rounds --capture=no

lab: $(STAMP) ## open the notebooks in JupyterLab
	$(BIN)/jupyter lab notebooks/00_start_here.ipynb

lint: $(STAMP) ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP) ## format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## remove the environment, caches and results (not notebooks/results)
	rm -rf $(VENV) results build *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis .benchmarks
