# One environment, built once and again only when its description changes.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
OUT ?= build/parity
IMAGES ?=
export TF_CPP_MIN_LOG_LEVEL ?= 3

.PHONY: help setup parity test lint format bench clean

help:
	@echo "make parity [IMAGES=folder]  compare official Keras, keras_stoch and torch_ref; report in $(OUT)"
	@echo "make test                    run the tests"
	@echo "make lint | format           check | fix the style"
	@echo "make bench                   print the benchmark tables"
	@echo "make setup                   build $(VENV) (the others do it by themselves)"

setup: $(STAMP)

# torch goes first: its own line keeps pip from choosing another build for a dependency.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 11) else f"Python 3.11 or newer is needed, $(PYTHON) is {v[0]}.{v[1]}; set PYTHON=")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[torch,jax,dev]'
	@touch $@

parity: $(STAMP)
	$(BIN)/python -m parity run --out $(OUT) $(if $(IMAGES),--images $(IMAGES))

test: $(STAMP)
	$(BIN)/python -m pytest -n 2 --dist loadfile $(PYTEST_ARGS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMP)
	@for script in benchmarks/*.py; do echo "== $$script"; $(BIN)/python $$script || exit 1; done

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .ruff_cache
