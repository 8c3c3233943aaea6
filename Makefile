PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help install demo screenshot test test-slow soak bench lint format clean

help: ## show the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

install: $(INSTALLED) ## create .venv, or bring it up to date

# The stamp is older than pyproject.toml or constraints.txt exactly when .venv has to be updated.
$(INSTALLED): pyproject.toml constraints.txt
	@echo "installing into $(VENV) (about three minutes and 7 GB the first time)"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --progress-bar off \
		-c constraints.txt -e '.[dev]'
	touch $@

# Two processes of one thread draw faster than one process of two.
demo: $(INSTALLED) ## run the demonstration grid and print where its page is
	$(BIN)/crossframe run demo --jobs 2 --threads 1

screenshot: $(INSTALLED) ## take docs/demo/page.png of the page of runs/demo (needs Chromium)
	$(BIN)/python docs/demo/screenshot.py

# One thread per process: two processes with two threads each would fight over two cores.
test: $(INSTALLED) ## the tests that run everywhere, in a few minutes
	OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

test-slow: $(INSTALLED) ## the tests that take minutes or gigabytes
	$(BIN)/python -m pytest -m slow

soak: $(INSTALLED) ## kill runs 200 times, at random moments, and compare what comes out
	OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 CROSSFRAME_KILLS=200 \
		$(BIN)/python -m pytest -p no:xdist tests/test_kills.py

bench: $(INSTALLED) ## time and memory: attention, methods, harness
	OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/python -m pytest benchmarks -m bench -p no:xdist -s

lint: $(INSTALLED) ## ruff and mypy
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: $(INSTALLED) ## let ruff mend what it can
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean: ## remove .venv, caches and build results; runs/ stays
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .benchmarks
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
