# The front door. CI calls the same targets.

PYTHON ?= python3.11
PYTEST_ARGS ?=
CRASH_ARGS ?=
SOAK_ARGS ?=
POD_ARGS ?=

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

.PHONY: help run test test-pythons integration crash-test soak image pod-life check docs bench format clean
.PHONY: check-ruff check-format check-mypy check-mypy-3.10 check-basedpyright
.PHONY: check-imports check-documents check-configuration check-fleet

help: ## Show the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: $(VENV)/.run-installed ## Start the daemon and a demo producer
	$(BIN)/python deploy/demo/run.py

test: $(VENV)/.dev-installed $(VENV)/.pythons-made ## Run the tests; PYTEST_ARGS="-m 'not slow'" for the quick ones
	$(BIN)/python -m pytest -q -n 2 --dist worksteal $(PYTEST_ARGS)

CHECKS := ruff format mypy mypy-3.10 basedpyright imports documents configuration fleet
check: $(CHECKS:%=check-%) ## Lint, format, types, import rules, documents; -j 2 -O for two at a time

check-ruff: COMMAND = ruff check
check-format: COMMAND = ruff format --check
check-mypy: COMMAND = mypy
# Protocol and client run on it, too.
check-mypy-3.10: COMMAND = mypy --python-version 3.10 --follow-imports=silent protocol/src client/src
check-basedpyright: COMMAND = basedpyright
check-imports: COMMAND = lint-imports --no-logo
check-documents: COMMAND = python docs/check.py
check-configuration: COMMAND = python docs/generate_configuration.py --check
check-fleet: COMMAND = python docs/fleet_cost.py --check

$(CHECKS:%=check-%): $(VENV)/.dev-installed
	@echo "== $(COMMAND)"
	@$(BIN)/$(COMMAND)

docs: $(VENV)/.dev-installed ## Make the generated parts of the documents anew
	$(BIN)/python docs/generate_configuration.py
	$(BIN)/python docs/fleet_cost.py

integration: $(VENV)/.dev-installed ## Run the tests against real parts, installing what is missing
	@command -v prometheus >/dev/null || apt-get install -y --no-install-recommends prometheus >/dev/null \
		|| echo "== Prometheus cannot be installed here: its tests are skipped"
	@command -v systemd-analyze >/dev/null || apt-get install -y --no-install-recommends systemd >/dev/null \
		|| echo "== systemd cannot be installed here: its tests are skipped"
	@test -x $(BIN)/uwsgi || $(PIP) install uwsgi==2.0.31 \
		|| echo "== uWSGI cannot be built here: its recipe is skipped"
	$(BIN)/python -m pytest -q -rs tests/integration tests/deploy tests/e2e/test_recipes.py $(PYTEST_ARGS)

test-pythons: $(VENV)/.dev-installed ## Run the client's tests under each Python, 3.10 to 3.14, that is here
	$(BIN)/python -m tests.pythons $(PYTEST_ARGS)

crash-test: $(VENV)/.dev-installed ## Kill the daemon 200 times a loop, and count every event; CRASH_ARGS="--kills 20"
	$(BIN)/python -m tests.crash $(CRASH_ARGS)
	$(BIN)/python -m tests.crash stall

pod-life: $(VENV)/.dev-installed ## Let a pod live, of namespaces, and print what each event costs it; POD_ARGS="--times 3"
	@$(BIN)/python -m tests.pod $(POD_ARGS)

soak: $(VENV)/.dev-installed ## Ten minutes of gunicorn, load and restarts of the daemon; SOAK_ARGS="--minutes 1"
	$(BIN)/python -m tests.soak $(SOAK_ARGS)

image: $(VENV)/.dev-installed ## Build the image without a Docker engine and run the daemon from it; IMAGE_ARGS="--extras otel"
	@command -v buildah >/dev/null && command -v debootstrap >/dev/null \
		|| apt-get install -y --no-install-recommends buildah debootstrap >/dev/null \
		|| echo "== buildah and debootstrap cannot be installed here; docker build . does the same"
	@$(BIN)/python -m deploy.image $(IMAGE_ARGS)
	$(BIN)/python -m pytest -q -rs tests/deploy/test_image_built.py $(PYTEST_ARGS)

bench: $(VENV)/.dev-installed ## Measure, and print the figures
	$(BIN)/python -m bench

format: $(VENV)/.dev-installed ## Format, and fix what ruff can fix
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

clean: ## Remove the environment, the caches and what was built
	rm -rf $(VENV) .image .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	rm -rf {.,protocol,client,daemon}/dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# ---- the environment; a stamp is newer than what it was installed from

$(BIN)/python:
	@echo "== creating $(VENV)"
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.run-installed: requirements/run.txt pyproject.toml | $(BIN)/python
	@echo "== installing what the daemon needs"
	@$(PIP) install --require-hashes -r requirements/run.txt
	@$(PIP) install --no-deps --no-build-isolation -e .
	@touch $@

# What the client's tests need under the other Pythons that are installed.
$(VENV)/.pythons-made: requirements/dev.txt tests/pythons.py | $(VENV)/.dev-installed
	@$(BIN)/python -m tests.pythons prepare
	@touch $@

# dev.txt holds all of run.txt, at the same versions.
$(VENV)/.dev-installed: requirements/dev.txt pyproject.toml | $(BIN)/python
	@echo "== installing what tests, checks and benchmarks need"
	@$(PIP) install --require-hashes -r requirements/dev.txt
	@$(PIP) install --no-deps --no-build-isolation -e .
	@touch $(VENV)/.run-installed $@
