# make train | quick | test | chaos | check | laws | docs | bench | slurm-up: each does its own set-up in .venv, once.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
GPUS   := $(shell nvidia-smi -L 2>/dev/null | grep -c '^GPU')
# One process a GPU, as many as share a batch of 16 evenly; two on a CPU.
NPROC  ?= $(shell for n in 16 8 4 2 1; do [ $(GPUS) -ge $$n ] && echo $$n && exit; done; echo 2)
# Half of the tests' time is waiting: more workers than cores. tests/conftest.py says what stays with one worker.
WORKERS ?= 4
CONFIG ?= configs/phantom.yaml
# The versions that are installed; .github/workflows/ci.yml tries the lowest ones that pyproject.toml allows.
CONSTRAINTS ?= constraints.txt
ARGS   ?=
# The files of which `make test` runs a short form (tests/long_form.py).
LONG_FORMS = $(shell grep -l '^from long_form' tests/test_*.py)

.PHONY: help setup train quick test chaos check laws docs bench format slurm-up slurm-down
.DEFAULT_GOAL := help
# Else every process that a test starts would compile the package anew.
unexport PYTHONDONTWRITEBYTECODE

help:  ## show this
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 12

setup: $(VENV)/.dev  ## make .venv with everything that developing needs

# Two stamps, so that training does not wait for the tools of developers, and nothing is installed twice.
$(VENV)/.python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "segtrain needs Python 3.11 or newer, $(PYTHON) is older: make PYTHON=/path/to/python3.11" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.run: $(VENV)/.python pyproject.toml $(CONSTRAINTS)
	$(BIN)/pip install --disable-pip-version-check -q -c $(CONSTRAINTS) -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.run
	$(BIN)/pip install --disable-pip-version-check -q -c $(CONSTRAINTS) -e '.[dev,deepspeed]'
	@touch $@

$(VENV)/.docs: $(VENV)/.run
	$(BIN)/pip install --disable-pip-version-check -q -c $(CONSTRAINTS) -e '.[docs]'
	@touch $@

train: $(VENV)/.run  ## train on phantom patients (CONFIG=..., NPROC=..., ARGS='key=value ...')
	@$(BIN)/python -m segtrain.train --nproc $(NPROC) --config $(CONFIG) $(ARGS)

quick: $(VENV)/.dev  ## a minute of tests, each law among them
	$(BIN)/pytest -n 2 -q -m quick

test: $(VENV)/.dev  ## run every test that this machine can run; says what it skipped and why
	$(BIN)/pytest -n $(WORKERS)

check: $(VENV)/.dev  ## ruff, format, mypy, spelling, import layers
	$(BIN)/ruff check -q .
	$(BIN)/ruff format -q --check .
	$(BIN)/mypy --no-error-summary
	$(BIN)/codespell -q 3
	$(BIN)/pytest -q -p no:warnings tests/test_architecture.py

laws: $(VENV)/.dev  ## run the tests of the laws: law, tests, result
	$(BIN)/pytest -n $(WORKERS) -q --laws

docs: $(VENV)/.docs  ## build the site in site/, which opens from a file; every link and anchor is checked
	$(BIN)/python -m docs.pages
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build -q --strict

chaos: $(VENV)/.dev  ## the long form of breaking things: 240 kills, all stops, 200 faults of a mirror, 30 preemptions, 100,000 inputs
	CHAOS_KILLS=$${CHAOS_KILLS:-240} CHAOS_SEEDS=$${CHAOS_SEEDS:-10} \
		$(BIN)/pytest -s tests/chaos tests/test_checkpoint.py tests/test_checkpoint_damage.py \
		tests/test_offline_s3.py $(LONG_FORMS)
	CHAOS_PREEMPTIONS=$${CHAOS_PREEMPTIONS:-30} $(BIN)/pytest -s tests/slurm/test_early_moments.py
	FUZZ_INPUTS=$${FUZZ_INPUTS:-100000} $(BIN)/pytest -s tests/fuzz

# PEERS=1 goes on with other programs, in environments of their own in .bench; ROWS=peers runs these alone.
bench: $(VENV)/.dev  ## measure against the reference's way (ROWS='step feed', LGG=/data/kaggle_3m) and others (PEERS=1)
	$(if $(filter-out peers,$(or $(ROWS),all)),\
		$(BIN)/python -m benchmarks $(filter-out peers,$(ROWS)) $(if $(LGG),--lgg $(LGG)) --json bench.json)
	$(if $(PEERS)$(filter peers,$(ROWS)),\
		$(BIN)/python -m benchmarks.peers $(if $(LGG),--lgg $(LGG)) --json peers.json $(ARGS))

slurm-up: $(VENV)/.dev  ## start a SLURM cluster of two virtual nodes on this machine, as root (ARGS='--nodes 4')
	@$(BIN)/python tests/slurm start $(ARGS)

slurm-down: $(VENV)/.dev  ## stop it
	@$(BIN)/python tests/slurm stop

format: $(VENV)/.dev  ## format the code
	$(BIN)/ruff check -q --fix .
	$(BIN)/ruff format -q .
