# Needs python3 (3.10 to 3.13), make and git; everything else is fetched into this folder.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

UV := $(or $(shell command -v uv 2>/dev/null),.uv/bin/uv)
PYTHON := .venv/bin/python
LABEL_STUDIO := .ls-venv/bin/label-studio
LABEL_STUDIO_STAMP := .ls-venv/.complete
CYCLES ?= 3
HEADLESS ?= 0
CHAOS_FAULTS ?= 300
CHAOS_SEED ?= 1
BENCHMARKS := $(filter-out benchmarks/_%,$(wildcard benchmarks/*.py))

.PHONY: help setup label-studio demo test test-long chaos audit lint format bench docs reference export clean

help: ## Show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 16

setup: $(UV) ## Install the backend into .venv
	$(UV) sync --frozen --quiet

.uv/bin/uv:
	@python3 -m venv .uv || { echo "python3 cannot make a virtual environment; on Debian: apt install python3-venv" >&2; exit 1; }
	.uv/bin/pip install --quiet uv

label-studio: $(LABEL_STUDIO_STAMP) ## Install Label Studio into .ls-venv, apart because its pins differ from ours

# Stamped last: an interrupted install is never taken for a whole one.
$(LABEL_STUDIO_STAMP): requirements-label-studio.txt | $(UV)
	rm -rf .ls-venv
	$(UV) venv --quiet .ls-venv
	$(UV) pip install --quiet --python .ls-venv/bin/python --requirements requirements-label-studio.txt
	touch $@

demo: setup $(LABEL_STUDIO_STAMP) ## Run the whole loop on a sample project: HEADLESS=1 (the default without a terminal), CYCLES=3
	@headless=; if [ "$(HEADLESS)" = 1 ] || ! [ -t 1 ]; then headless=--headless; fi; \
	.venv/bin/al-backend demo --label-studio $(LABEL_STUDIO) --cycles $(CYCLES) $$headless

test: setup $(LABEL_STUDIO_STAMP) lint ## Check style and types, run every test that can run here: ARGS="-k name"
ifdef ARGS
	$(PYTHON) -m pytest -ra --durations=10 $(ARGS)
else
# Side by side all but what talks to Label Studio: there, one server and its projects are shared, and waits are real.
	OMP_NUM_THREADS=1 $(PYTHON) -m pytest -ra --durations=10 -m "not labelstudio and not long" --numprocesses logical --maxprocesses 8
	$(PYTHON) -m pytest -ra --durations=10 -m "labelstudio and not long"
endif

test-long: setup ## What takes minutes and CI leaves out: large networks on many images, a slow learner by heart
	$(PYTHON) -m pytest -ra --durations=10 -m long --timeout 3600

chaos: setup $(LABEL_STUDIO_STAMP) ## Somebody labels while everything is killed again and again: CHAOS_FAULTS=300, CHAOS_SEED=1
	CHAOS_FAULTS=$(CHAOS_FAULTS) CHAOS_SEED=$(CHAOS_SEED) $(PYTHON) -m pytest -ra -m labelstudio tests/chaos

lint: setup ## Check style and types
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

format: setup ## Rewrite files in the common style
	.venv/bin/ruff check --fix-only --quiet .
	.venv/bin/ruff format .

bench: setup ## Run every benchmark in its quick form
	@for file in $(BENCHMARKS); do \
		name=$$(basename $$file .py); \
		if [ $$name != __init__ ]; then echo "== $$name"; $(PYTHON) -m benchmarks.$$name --quick; fi; \
	done

docs: setup ## Build the documentation into .build/docs
	NO_MKDOCS_2_WARNING=1 $(PYTHON) -m mkdocs build --strict --quiet

reference: setup ## Write the pages anew that are made from the code: settings, commands, routes
	$(PYTHON) -m al_backend.settings_table > docs/settings.md
	$(PYTHON) -m al_backend.commands_table > docs/commands.md
	$(PYTHON) -m al_backend.routes_table > docs/routes.md

export: $(UV) ## Write the requirements files anew from the lock
	$(UV) export --quiet --frozen --no-default-groups --extra s3 --no-emit-project --no-annotate --no-header --output-file requirements.txt
	echo "label-studio==1.23.2" | $(UV) pip compile --quiet --universal --python-version 3.10 --no-annotate --no-header --output-file requirements-label-studio.txt -

audit: setup ## Ask for known weaknesses in the dependencies and whether each is a current release: ARGS=--json
	$(PYTHON) -m tools.audit --uv $(UV) $(ARGS)

clean: ## Remove what was installed and built, keep data/
	rm -rf .venv .ls-venv .uv .build .mypy_cache .ruff_cache .pytest_cache .hypothesis dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
