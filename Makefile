# `make demo` and `make test` do all set-up themselves: an environment in .venv, and the package installed into it.
PYTHON ?= python3
VENV ?= .venv
BIN := $(abspath $(VENV))/bin
RUN := $(BIN)/python -P
SOURCES := pyproject.toml setup.py CMakeLists.txt $(shell find csrc kernels moleflow_fast -name '*.py' -o -name '*.h' -o -name '*.cpp' -o -name '*.cu')

.PHONY: help install demo lint test bench gpu-check clean

help: ## this list
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 12

$(VENV)/.created:
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.installed: $(VENV)/.created $(SOURCES)
	$(BIN)/pip install .
	@touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(BIN)/pip install '.[test,bench]'
	@touch $@

install: $(VENV)/.installed ## create .venv and install the package into it

demo: $(VENV)/.installed ## learn six synthetic categories one after another; tables and pictures in runs/
	$(RUN) -m moleflow_fast.train

lint: $(VENV)/.installed-test ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/mypy

test: lint ## lint, then every test, against the installed package
	OMP_NUM_THREADS=1 $(RUN) -m pytest -q -n auto # a worker per core: more threads would only get in their way

bench: $(VENV)/.installed-test ## benchmarks: result as JSON in bench/results/cpu/, tables on the screen
	@mkdir -p .benchmarks
	$(RUN) -m pytest bench --benchmark-only --benchmark-json=.benchmarks/raw.json
	$(RUN) bench/tables.py .benchmarks/raw.json --results bench/results/cpu

gpu-check: $(VENV)/.installed-test ## everything that needs a GPU: its tests, then the benchmarks
	$(RUN) -c "import torch; assert torch.cuda.is_available(), 'no GPU here'; print(torch.cuda.get_device_name())"
	$(RUN) -m pytest -q -m gpu
	$(RUN) -m pytest bench --benchmark-only --benchmark-autosave

clean: ## remove the environment and everything built
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .benchmarks
