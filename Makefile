# Two commands on a fresh machine: `make demo` and `make test`. They need Python 3.11 or newer, git and make.
# Another build of torch, for example for CUDA 12.8:
#   make demo TORCH="torch==2.13.0 --index-url https://download.pytorch.org/whl/cu128"
SHELL := /bin/bash
VENV := .venv
PYTHON := $(VENV)/bin/python
TORCH ?= torch==2.13.0
PIP := $(PYTHON) -m pip --disable-pip-version-check --no-input
export WARP_CACHE_PATH ?= $(CURDIR)/build/warp
ifneq ($(wildcard ../shared/data/README.md),)
export STRUCTWM_DATA ?= $(abspath ../shared/data)
endif

.PHONY: demo test lint format bench peers clean
demo: $(VENV)/.demo
	$(PYTHON) -m structwm.kernels.build
	$(VENV)/bin/structwm demo $(ARGS)

test: $(VENV)/.dev lint
	$(PYTHON) -m structwm.kernels.build
	$(PYTHON) -m pytest -n 2 --dist loadfile $(ARGS)

lint: $(VENV)/.dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

format: $(VENV)/.dev
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

NAME ?= pushing
bench: $(VENV)/.dev
	$(PYTHON) -m benchmarks.$(NAME) $(ARGS)

# What `python -m benchmarks.planning` compares with. TorchRL wants another tensordict, so it has an environment of its own.
PEER_PIP := build/torchrl/bin/python -m pip --disable-pip-version-check --no-input
peers: $(VENV)/.dev
	$(PIP) install -c constraints.txt -e '.[peers]'
	$(PYTHON) -m venv build/torchrl
	$(PEER_PIP) install $(TORCH)
	$(PEER_PIP) install torchrl==0.14.1 $(shell grep -E '^(gymnasium|scipy|warp-lang|rich)==' constraints.txt)

clean:
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache

# PyBullet has wheels up to Python 3.11 only, so 3.11 is tried first.
$(VENV)/.base:
	@for candidate in python3.11 python3.12 python3.13 python3; do \
	  if $$candidate -c 'import sys, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then \
	    echo "making $(VENV) with $$($$candidate --version)"; $$candidate -m venv $(VENV) || exit 1; break; fi; done; \
	test -x $(PYTHON) || { echo "structwm needs Python 3.11, 3.12 or 3.13 with venv, and found none; install one (Debian: apt install python3.11-venv)."; exit 1; }
	@echo "installing torch ($(TORCH)); another build: make demo TORCH='...'"
	$(PIP) install --quiet --upgrade pip setuptools
	$(PIP) install --progress-bar on $(TORCH)
	@touch $@

$(VENV)/.demo: $(VENV)/.base pyproject.toml constraints.txt
	@echo "installing structwm and what the demo needs"
	$(PIP) install -c constraints.txt -e '.[demo]'
	@touch $@

$(VENV)/.dev: $(VENV)/.base pyproject.toml constraints.txt
	@echo "installing structwm and what the tests need"
	$(PIP) install -c constraints.txt -e '.[dev]'
	@touch $@ $(VENV)/.demo
