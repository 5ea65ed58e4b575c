# `make demo` analyses real recordings; `make test` checks everything. Each sets up .venv first, once.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CONSTRAINTS := constraints/cpu.txt
PIP_INSTALL := $(BIN)/python -m pip install --no-input --disable-pip-version-check --progress-bar off -c $(CONSTRAINTS)

# How llama.cpp is compiled: portable to every x86-64 with AVX2 and every aarch64, without the image library. For CUDA:
# CMAKE_ARGS=-DGGML_CUDA=on make llama
export CMAKE_ARGS ?= -DGGML_NATIVE=OFF -DLLAVA_BUILD=OFF
export CMAKE_BUILD_PARALLEL_LEVEL ?= $(shell getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2)
# Idle OpenMP threads sleep instead of spinning: on two cores several test processes would starve each other.
export OMP_WAIT_POLICY ?= PASSIVE

.DEFAULT_GOAL := help
.PHONY: help demo llama test lint types format wheelhouse clean

help:
	@echo "make demo     set up the device side (no compiler needed) and analyse examples/*.wav"
	@echo "make llama    add llama.cpp, the second runtime of the language model (compiles it: needs a C++ compiler)"
	@echo "make test     set up everything, then lint, types and tests"
	@echo "make lint     ruff, ruff format --check, import-linter"
	@echo "make types    pyright"
	@echo "make format   let ruff rewrite the files"
	@echo "make wheelhouse   all wheels for an installation without a network, into wheelhouse/"
	@echo "make clean    remove caches and builds (rm -r .venv removes the environment)"
	@echo "PYTHON=python3.12 make demo   chooses the interpreter (demo needs >= 3.10, test >= 3.11)"

demo: $(VENV)/.device
	$(BIN)/edge-emotion analyze examples/*.wav

llama: $(VENV)/.llama

test: lint types
	$(BIN)/python -m pytest -n 2

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache

types: $(VENV)/.dev
	$(BIN)/pyright

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

wheelhouse:
	deploy/wheelhouse.sh wheelhouse

clean:
	rm -rf build dist .pytest_cache .ruff_cache .hypothesis
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -exec rm -rf {} +

$(VENV)/.created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
	  echo "edge-emotion needs Python >= 3.10, but $(PYTHON) is $$($(PYTHON) --version 2>&1); try PYTHON=python3.12 make ..." >&2; exit 1; }
	@echo "==> creating $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV) || { echo "python -m venv failed; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	@touch $@

$(VENV)/.device: pyproject.toml $(CONSTRAINTS) | $(VENV)/.created
	@echo "==> installing edge-emotion for this device (about 60 MB of wheels, no torch, no compiler; under a minute)"
	@$(PIP_INSTALL) -q -e .
	@touch $@

$(VENV)/.llama: $(VENV)/.device
	@echo "==> installing llama-cpp-python: compiled from source the first time (6 to 12 minutes on 2 cores), from pip's cache after that"
	@$(PIP_INSTALL) -e ".[llama-cpp]" || { \
	  echo "compiling llama-cpp-python failed; it needs a C and a C++ compiler, on Debian and Ubuntu: apt install build-essential" >&2; exit 1; }
	@touch $@

$(VENV)/.dev: $(VENV)/.llama
	@$(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "training, export and their tests need Python >= 3.11, but $(VENV) has $$($(BIN)/python --version); rm -r $(VENV) and try PYTHON=python3.12 make test" >&2; exit 1; }
	@echo "==> installing training, export and development tools (torch and friends: a few minutes)"
	@$(PIP_INSTALL) -q pip  # the pinned one: dependency groups need pip >= 25.1
	@$(PIP_INSTALL) -q -e ".[train,export,ray]" --group dev
	@touch $@
