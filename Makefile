# One environment, built once and again only when its description changes.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
OUT ?= build/parity
IMAGES ?=
MODELS ?=
RUN := $(BIN)/python -m parity run $(if $(IMAGES),--images $(IMAGES)) $(if $(MODELS),--models $(MODELS))
export TF_CPP_MIN_LOG_LEVEL ?= 3

.PHONY: help setup parity parity-full parity-long test test-all strangers lint format bench docs experiment clean

help:
	@echo "make parity [IMAGES=folder]  compare official Keras, keras_stoch and torch_ref; report in $(OUT)"
	@echo "make parity MODELS=b0        one model, for a look"
	@echo "make parity-full             the same, training at the paper's size; for a GPU"
	@echo "make parity-long             20 runs of each package to the end, a record for parity curves; about an hour"
	@echo "make experiment              the paper's comparison of models on generated lesions; about an hour"
	@echo "make docs                    build the documentation into build/site"
	@echo "make test                    run the tests that are not slow"
	@echo "make test-all                run all tests"
	@echo "make strangers               install other people's networks, which tests of parity use where they are there"
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
	$(RUN) --out $(OUT)

parity-full: $(STAMP)
	$(RUN) --full --out $(OUT)-full

parity-long: $(STAMP)
	$(BIN)/python -m parity long --out $(OUT)-long

experiment: $(STAMP)
	KERAS_STOCH_PROGRESS=1 $(BIN)/keras-stoch experiment

docs: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

# XLA compiles without LLVM's optimisations, which take longer than what small tests gain; `test-all` has them.
test: $(STAMP)
	XLA_FLAGS="--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true" $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m 'not slow' $(PYTEST_ARGS)

test-all: $(STAMP)
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

# Other people's networks, on which parity is tested too.
strangers: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[strangers]'

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
