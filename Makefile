# make            what there is to make
# make demo       four small services and the sidecar in front of them, on loopback
# make shop       five services that call each other, a sidecar beside each, and trouble once a minute
# make check      the tests to run all the time: units, laws of stages, wire format
# make test       every test
#
# Needs Python 3.11 or newer and make.  Everything else is installed into $(VENV) from requirements/ (versions and hashes
# pinned).  Another interpreter:  make test PYTHON=/usr/bin/python3.12 VENV=.venv-3.12

PYTHON ?= python3
VENV ?= .venv

COMPILED_TESTS ?= tests/wire tests/contract $(patsubst %,tests/unit/%,cache core downstream engine http2 stages transform upstream) \
    $(patsubst %,tests/e2e/test_%.py,grpc http2 identities killed_workers quotas redis_limits resilience shop streaming websocket workers)

override BIN := $(VENV)/bin
override PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
override INSTALL := $(PIP) install --require-hashes --no-deps

# without bytecode beside the sources, each of the processes that tests start would compile its modules anew
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help demo shop docs site screenshots check test testasyncio testcompiled node lint compiled instructions bench soak fuzz fuzzcompiled chaos lock clean
.SUFFIXES:

help:  ## this list
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' Makefile

demo: $(VENV)/.runtime  ## four small services and the sidecar in front of them; Ctrl-C drains and ends it
	@$(BIN)/sidecar demo

shop: $(VENV)/.runtime  ## five services that call each other, a sidecar beside each, customers and trouble
	@$(BIN)/sidecar demo shop

check: $(VENV)/.dev  ## the tests of units, contracts and wire format, in under a minute (PYTEST="-k retry" for some)
	@$(BIN)/python -m pytest -n 2 --dist loadfile tests/unit tests/contract tests/wire $(PYTEST)

test: $(VENV)/.dev  ## every test, three files at a time, those with processes first (PYTEST="-k retry" for some)
	@$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder $(PYTEST)

lint: $(VENV)/.dev  ## ruff, mypy, and the rules for docstrings, comments and names (docs/lint.py)
	@$(BIN)/ruff check --quiet
	@$(BIN)/ruff format --check --quiet
	@$(BIN)/mypy --no-error-summary
	@$(BIN)/python -m docs.lint
	@echo "lint: clean"

docs: $(VENV)/.runtime  ## write all generated files anew: references in docs/, schemas for editors
	@$(BIN)/python -m docs.generate

site: $(VENV)/.site  ## the documentation as a site that needs no network, into build/site; a dead link fails
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict
	@echo "site: build/site/index.html"

screenshots: $(VENV)/.dev  ## the pictures of the documentation, from real runs (needs chromium)
	@$(BIN)/python -m tests.docs.screenshots

compiled: build/compiled/.built  ## the request path as C extensions, into build/compiled (needs a C compiler and python3-dev)

build/compiled/.built: $(shell find sidecar chaos policies -type f -not -name '*.pyc') hatch_build.py pyproject.toml $(VENV)/.bench
	@rm -rf build/compiled build/wheel
	@HATCH_BUILD_HOOKS_ENABLE=1 $(PIP) wheel --no-deps --no-build-isolation --no-index --wheel-dir build/wheel .
	@$(PIP) install --no-deps --no-index --target build/compiled build/wheel/*.whl
	@touch $@

testasyncio: $(VENV)/.dev  ## the tests with real processes, whose sidecars run on asyncio's own loop instead of uvloop
	@TEST_LOOP=asyncio $(BIN)/python -m pytest -n 3 --dist loadfile tests/e2e tests/neighbours

node: build/node/.installed  ## what some tests run beside the sidecar, such as an OpenID provider, into build/node (needs Node and npm)

build/node/.installed: requirements/node/package-lock.json
	@rm -rf build/node; mkdir -p build/node; cp requirements/node/*.json build/node
	@npm ci --prefix build/node --ignore-scripts --no-audit --no-fund --silent
	@touch $@

testcompiled: $(VENV)/.bench  ## tests of the request path against those extensions, two minutes (COMPILED_TESTS="tests/e2e" for others)
	@command -v cc >/dev/null && $(BIN)/python -c 'import os, sys, sysconfig; \
	    sys.exit(not os.path.exists(sysconfig.get_path("include") + "/Python.h"))' || { \
	    echo "testcompiled: skipped, for want of a C compiler (cc) or of Python.h (python3-dev)"; exit 0; }; \
	set -e; $(MAKE) --no-print-directory compiled; \
	rm -rf build/tested; mkdir build/tested; \
	cp -r bench deploy docs policies pyproject.toml tests build/compiled/* build/tested; \
	cd build/tested; export PYTHONPATH="$$PWD"; \
	$(abspath $(BIN))/python -c 'from sidecar.engine.build import describe_build as build; assert build() == "compiled", build()'; \
	$(abspath $(BIN))/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder $(COMPILED_TESTS)

instructions: $(VENV)/.dev  ## instructions of a request under valgrind, beside their limits (INSTRUCTIONS="--write" for new limits)
	@$(BIN)/python -m bench.instructions $(INSTRUCTIONS)

bench: $(VENV)/.bench  ## CPU a request, throughput, latency and start beside other proxies (BENCH="--help" for options)
	@$(BIN)/python -m bench $(BENCH)

soak: $(VENV)/.dev  ## half an hour of mixed traffic, faults and reloads; report in bench/soak.md (SOAK="--minutes 2")
	@$(BIN)/python -m bench.soak $(SOAK)

fuzz: $(VENV)/.dev  ## a minute of coverage-guided fuzzing for each parser (FUZZ=600 for ten, FUZZ=runs=1000 for as many inputs)
	@for target in policies conditions fields heads request response hpack session messages templates; do PYTHONHASHSEED=0 $(BIN)/python -m tests.fuzz.$$target $(or $(FUZZ),60) || exit 1; done
	@$(MAKE) --no-print-directory fuzzcompiled

fuzzcompiled: $(VENV)/.dev  ## a minute of made heads for the readers in C, where `make compiled` has built them (FUZZ as above)
	@PYTHONSAFEPATH=1 PYTHONPATH="$$PWD/build/compiled:$$PWD" $(BIN)/python -m tests.fuzz.heads compiled $(or $(FUZZ),60)

chaos: $(VENV)/.runtime  ## break things on purpose, without and with sidecars, and judge; report in chaos.html (CHAOS="..." for options)
	@$(BIN)/python -m chaos.cli run --report chaos.html $(CHAOS)

lock: $(VENV)/.lock  ## make requirements/*.txt anew (UPGRADE=1: with newer versions)
	@set -e; compile() { $(BIN)/uv pip compile --quiet --generate-hashes --no-emit-index-url --universal \
	    --python-version 3.11 --no-annotate --custom-compile-command 'make lock' $(if $(UPGRADE),--upgrade) "$$@"; }; \
	compile pyproject.toml --extra speed --extra top --extra redis -o requirements/runtime.txt; \
	compile pyproject.toml --extra speed --extra top --extra redis --extra dev -c requirements/runtime.txt -o requirements/dev.txt; \
	compile pyproject.toml --extra speed --extra top --extra redis --extra dev --extra bench --extra compiled -c requirements/dev.txt -o requirements/bench.txt; \
	compile requirements/build.in -c requirements/dev.txt -o requirements/build.txt; \
	compile requirements/site.in -c requirements/bench.txt -o requirements/site.txt; \
	compile pyproject.toml requirements/build.in --extra speed --extra top --extra redis --extra compiled -c requirements/bench.txt -c requirements/build.txt -o requirements/compiled.txt

clean:  ## remove the virtual environment and all caches
	@rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis dist build
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The virtual environment.  Debian keeps what makes one in a package of its own.
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo "$(PYTHON) is not Python 3.11 or newer; name another one: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	    if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	        echo "installing python3-venv ..."; \
	        apt-get install --yes -qq python3-venv >/dev/null 2>&1 || \
	            { apt-get update -qq && apt-get install --yes -qq python3-venv >/dev/null; }; \
	    else \
	        echo "$(PYTHON) cannot make virtual environments yet; run: sudo apt-get install python3-venv" >&2; exit 1; \
	    fi; }
	@$(PYTHON) -m venv $(VENV)

# The checkout itself goes in last, without dependencies and with the pinned build backend.
$(VENV)/.runtime: requirements/runtime.txt requirements/build.txt pyproject.toml | $(BIN)/python
	@echo "installing into $(VENV) ..."
	@$(INSTALL) -r requirements/runtime.txt -r requirements/build.txt
	@$(PIP) install --no-deps --no-build-isolation --no-index --editable .
	@touch $@

$(VENV)/.dev: requirements/dev.txt $(VENV)/.runtime
	@echo "installing the tools of the tests into $(VENV) ..."
	@$(INSTALL) -r requirements/dev.txt
	@touch $@

$(VENV)/.bench: requirements/bench.txt $(VENV)/.dev
	@$(INSTALL) -r requirements/bench.txt
	@touch $@

# The site's tools alone: they neither need the sidecar nor the tests.
$(VENV)/.site: requirements/site.txt | $(BIN)/python
	@echo "installing the tools of the site into $(VENV) ..."
	@$(INSTALL) -r requirements/site.txt
	@touch $@

$(VENV)/.lock: | $(BIN)/python
	@$(PIP) install uv
	@touch $@
