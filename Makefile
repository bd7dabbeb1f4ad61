# `make demo` and `make test` do all set-up themselves: an environment in .venv, and the package installed into it.
# With SYSTEM=1 the packages of $(PYTHON) are used as they are and nothing is fetched: the package alone is built, with
# the setuptools, pybind11, cmake and ninja that are there, into .system.
PYTHON ?= python3
VENV ?= .venv
BIN := $(abspath $(VENV))/bin
RESULTS ?= bench/results
ifdef SYSTEM
RUN := PYTHONPATH=$(abspath .system)$(if $(PYTHONPATH),:$(PYTHONPATH)) $(PYTHON) -P
READY := .system/.installed
else
RUN := $(BIN)/python -P
READY := $(VENV)/.installed-test
endif
SOURCES := pyproject.toml setup.py CMakeLists.txt $(shell find csrc kernels moleflow_fast -name '*.py' -o -name '*.pyi' -o -name '*.h' -o -name '*.cpp' -o -name '*.csv' -o -name '*.json' -o -name '*.html' -o -name '*.css' -o -name '*.js')

.PHONY: help install demo lint stubs test test-all bench gpu-check pictures api wheels clean

help: ## this list
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 12
	@echo 'SYSTEM=1 (gpu-check, bench): use the packages of PYTHON as they are and fetch nothing; RESULTS=folder'

$(VENV)/.created:
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.installed: $(VENV)/.created $(SOURCES)
	$(BIN)/pip install .
	@touch $@

$(VENV)/.installed-test: $(VENV)/.created $(SOURCES)
	MOLEFLOW_WERROR=on $(BIN)/pip install '.[test,bench]'
	@touch $(VENV)/.installed $@

.system/.installed: $(SOURCES)
	$(PYTHON) -m pip install --no-index --no-deps --no-build-isolation --upgrade --target .system .
	@touch $@

install: $(VENV)/.installed ## create .venv and install the package into it

demo: $(VENV)/.installed ## learn six synthetic categories one after another, find defects; pictures and a page in runs/demo/
	$(RUN) -m moleflow_fast demo

lint: $(VENV)/.installed-test ## format, ruff, the layers of the package, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	cd $(VENV) && $(BIN)/lint-imports --no-logo $(CURDIR)/pyproject.toml # there it finds the installed package, not the sources
	$(BIN)/mypy

stubs: $(VENV)/.installed-test ## the compiled part's signatures: moleflow_fast/_C.pyi
	$(BIN)/pip install pybind11-stubgen
	$(RUN) -m pybind11_stubgen moleflow_fast._C -o .
	$(BIN)/ruff check -q --fix --ignore E501 moleflow_fast/_C.pyi && $(BIN)/ruff format moleflow_fast/_C.pyi

test: lint ## lint, then every test, against the installed package
	OMP_NUM_THREADS=1 $(RUN) -m pytest -q -n auto # a worker per core: more threads would only get in their way

test-all: lint ## every test in full: every kernel compiled for every kind of GPU, every interpreted case
	OMP_NUM_THREADS=1 $(RUN) -m pytest -q -n auto --full

bench: $(READY) ## benchmarks: result as JSON in bench/results/cpu/, tables on the screen
	@mkdir -p .benchmarks && rm -f .benchmarks/rows.jsonl
	MOLEFLOW_BENCH_ROWS=.benchmarks/rows.jsonl $(RUN) -m pytest bench --benchmark-only
	$(RUN) bench/tables.py .benchmarks/rows.jsonl --results $(RESULTS)/cpu

gpu-check: $(READY) ## what needs a GPU, in 12 minutes (MINUTES=5: the first half of the list): benchmarks (JSON in bench/results/cuda/), tests, tables; PARTS="tests kernels"
	$(RUN) bench/gpu_check.py --results $(RESULTS) $(if $(MINUTES),--minutes $(MINUTES)) $(PARTS)

api: $(VENV)/.installed ## the package's public names from their docstrings, as pages in build/api/
	$(BIN)/pip install -q pdoc
	$(BIN)/python -P docs/api.py build/api

wheels: $(VENV)/.created ## a wheel of each Python in wheelhouse/, built in a container (needs Docker or Podman) and tried in a fresh environment
	$(BIN)/pip install -q 'cibuildwheel>=3'
	$(BIN)/cibuildwheel --output-dir wheelhouse

pictures: $(VENV)/.installed ## draw the pictures of README.md and docs/tour.md anew, from the demo set
	rm -rf .pictures && mkdir .pictures
	cd .pictures && $(RUN) -m moleflow_fast.train --log_dir . --experiment_name demo
	sed -n '/^```sh$$/,/^```$$/{/^```/d;p}' docs/tour.md | (cd .pictures && PATH=$(BIN):$$PATH sh -eu)
	$(RUN) docs/pictures/draw.py .pictures/demo .pictures

clean: ## remove the environment and everything built
	rm -rf $(VENV) .system .pictures build dist wheelhouse *.egg-info .pytest_cache .mypy_cache .ruff_cache .benchmarks
