# Every target first installs what it needs into .venv; a second call has nothing to install.
PYTHON ?= $(shell command -v python3.11 || command -v python3 || echo python3.11)
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help install demo test test-unit test-long dev bench train lint types clean

help:  ## Show the targets.
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

install: $(INSTALLED)  ## Install everything into .venv.

# uv installs in parallel; where it fails (with private certificates, for example), pip installs one by one.
# Versions are pinned by constraints.txt. The pipeline starts several processes: without bytecode each would spend
# seconds on compiling, even later ones where PYTHONDONTWRITEBYTECODE is set, as in many containers.
$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11))" 2>/dev/null || \
	  { echo "Python 3.11 or newer is needed: install it, or name another with make PYTHON=/path/to/python3."; exit 2; }
	@echo "Installing into $(VENV) (some GB the first time)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv -c constraints.txt
	@$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --constraint constraints.txt --editable '.[dev]' || \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@$(BIN)/python -m compileall -q cli cv_assets resources sensors serve
	@touch $@

demo: $(INSTALLED)  ## Draw sample recordings, run the pipeline, compare with the ground truth.
	@$(BIN)/python -m demo

# In the order of the folders: otherwise the files with few but slow tests come last, and one process waits for the other.
test: lint types  ## Lint, types, tests.
	@$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

test-unit: $(INSTALLED)  ## The unit tests alone.
	@$(BIN)/python -m pytest -n 2 --dist loadfile -m 'not slow and not long' --ignore=tests/end_to_end $(PYTEST_ARGS)

test-long: $(INSTALLED)  ## The tests that take minutes each.
	@$(BIN)/python -m pytest -m long -n 2 --dist loadfile

lint: $(INSTALLED)
	@$(BIN)/ruff format --check --quiet . && $(BIN)/ruff check --quiet .

types: $(INSTALLED)
	@$(BIN)/mypy

dev: $(INSTALLED)  ## Run the UI (127.0.0.1:3000) and the daemon on recordings/ and data/.
	@$(BIN)/cv-assets dev $(DEV_ARGS)

bench: $(INSTALLED)  ## Compare with the alternatives; prints a table, writes benchmarks/results.json.
	@$(BIN)/python -m benchmarks

train: $(INSTALLED)  ## Train the bundled model again from newly drawn scenes (about half an hour on 2 cores).
	@$(BIN)/python -m demo.train_model

clean:  ## Remove .venv and the demo's output; keep data and recordings.
	rm -rf $(VENV) demo/run .mypy_cache .ruff_cache .pytest_cache
