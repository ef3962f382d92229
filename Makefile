# Every target does its own set-up: a machine with Python 3.11 or newer, make and git is enough.
#
#   make demo     start a worker on the embedded queue and give it real work
#   make check    lint, types, import contract, pure tests (no server, no process): under 90 seconds
#   make test     everything, private servers included: under 12 minutes
#   make bench    measure, beside a peer, and print ratios
#   make clean    remove what the others made
#
# Another Python: make test PYTHON=python3.13 VENV=.venv313

WORKS  := -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
PYTHON := $(shell for p in python3 python3.13 python3.12 python3.11; do $$p $(WORKS) && echo $$p && break; done)
VENV   := .venv
BIN    := $(VENV)/bin
PEER   := .venv-peer

# Private servers that the tests need, by their names in scripts/services.py.
SERVICES := redis rabbitmq postgresql mariadb
# A real Celery, which tests/golden and tests/interop put on the other side.
CELERY := 'celery[auth,redis,yaml,msgpack,sqlalchemy]==5.7.*' 'flower>=2' brotli pymysql 'psycopg[binary]'
# Pythons on which the pure tests run as well, where they are found.
OTHERS := 3.12 3.13
# Pure tests at once; all others run alone, since many of them measure time.
JOBS := 2

PURE := $(BIN)/pytest --pure --numprocesses $(JOBS) --quiet
REST := $(BIN)/pytest -m "process or service or slow"

.PHONY: demo check lint pure test rest others bench clean
.DEFAULT_GOAL := check

demo: $(VENV)/.core
	$(BIN)/python examples/wordcount/demo.py

check: lint pure

lint: $(VENV)/.dev
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

pure: $(VENV)/.dev
	$(PURE)

test: $(VENV)/.dev $(PEER)/.celery $(PEER)/.node
	$(PURE)
	@$(MAKE) --no-print-directory --jobs=2 rest others

# Most of its tests wait for servers and other processes: the other Pythons have the second core meanwhile.
rest:
	$(BIN)/python scripts/services.py run $(SERVICES) -- $(REST)

# Pythons that are not here are named, so that nobody believes they were tried.
others:
	@for v in $(OTHERS); do \
	  for p in python$$v $$HOME/.pyenv/versions/$$v.*/bin/python$$v none; do $$p $(WORKS) && break; done; \
	  if [ $$p = none ]; then echo "SKIPPED pure tests on Python $$v: no working python$$v on this machine"; continue; fi; \
	  $(MAKE) --no-print-directory pure PYTHON=$$p VENV=.venv$$(echo $$v | tr -d .) JOBS=1 >.others.log 2>&1 \
	    || { cat .others.log; exit 1; }; \
	  echo "pure tests on Python $$v: $$(tail -n 1 .others.log)"; \
	done

bench: $(VENV)/.bench $(PEER)/.celery
	$(BIN)/python scripts/services.py run redis rabbitmq -- $(BIN)/python -m benchmarks

clean:
	-[ ! -d .svc ] || python3 scripts/services.py stop
	rm -rf .venv .venv3* .others.log $(PEER) .svc build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# What is installed is remembered by a stamp, so that it happens again only when pyproject.toml changes.
INSTALL = $(BIN)/python -m pip install -qq --disable-pip-version-check

$(VENV)/bin/python:
	@test -n "$(PYTHON)" || { echo "umbel needs Python 3.11 or newer with its venv module" \
	  "(on Debian: apt-get install python3 python3-venv)"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.core: pyproject.toml | $(VENV)/bin/python
	$(INSTALL) --editable .
	@touch $@

$(VENV)/.dev: pyproject.toml | $(VENV)/bin/python
	$(INSTALL) --editable '.[dev]'
	@touch $@ $(VENV)/.core

$(PEER)/.celery:
	$(PYTHON) -m venv $(PEER)
	$(PEER)/bin/python -m pip install -qq --disable-pip-version-check $(CELERY)
	@touch $@

# A client in JavaScript, where there is Node.js and npm can be reached; else its tests say that they are skipped.
$(PEER)/.node: | $(PEER)/.celery
	-@npm install --silent --no-audit --no-fund --prefix $(PEER)/node celery-node@0.5.9
	@touch $@

$(VENV)/.bench: $(VENV)/.dev
	$(INSTALL) --editable '.[bench]'
	@touch $@
