# Every target sets up what it needs in .venv by itself, so a fresh machine needs one command for each.
#
#   make demo       distil a student on handwritten digits and write a report card (installs the core only)
#   make test       everything that must hold before a change lands: the checks, the docs, the tests
#   make check      formatting, lint, types, floors
#   make docs       build the documentation into site/, strictly
#   make bench      run every benchmark
#   make bench-check  measure ratios to peers again and fail on one that has become 15 % worse
#   make test-slow  the long tests that `make test` leaves out
#   make reliability  inject every fault of the reliability suite and write the table in the documentation
#   make refresh-demo  run the demo and put its output and a picture of its report into the README
#   make clean      remove what the other targets built (the environment stays)

PYTHON ?= python3
JOBS ?= 2
VENV := .venv
BIN := $(VENV)/bin
STAMPS := $(VENV)/stamps
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
EXTRAS := dev,docs,language,export,cluster,tracking
# The build back-end comes from constraints.txt as well, so the install does not fetch one of its own.
INSTALL := $(PIP) install --no-build-isolation --constraint constraints.txt

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo refresh-demo test test-slow reliability check docs bench bench-check clean chromium

help:
	@sed -n 's/^#   //p' Makefile

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Tutelage needs Python 3.11 or newer; name one: make PYTHON=python3.11 …" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)

$(STAMPS)/core: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing Tutelage into $(VENV) (some minutes the first time) …"
	$(INSTALL) hatchling editables
	$(INSTALL) --editable .
	@mkdir -p $(@D) && touch $@

$(STAMPS)/dev: pyproject.toml constraints.txt $(STAMPS)/core
	@echo "Installing what the checks and tests need into $(VENV) …"
	$(INSTALL) --editable ".[$(EXTRAS)]"
	@mkdir -p $(@D) && touch $@

demo: $(STAMPS)/core
	$(BIN)/tutelage distill

refresh-demo: $(STAMPS)/core chromium
	$(BIN)/python docs/refresh_demo.py

check: $(STAMPS)/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(STAMPS)/dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "The documentation is in site/index.html."

# Browser tests drive the system's Chromium; without one they are skipped and say so.
chromium:
	@command -v chromium chromium-browser google-chrome >/dev/null || { \
		[ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends chromium >/dev/null; \
	} || echo "No Chromium here: the browser tests will be skipped."

test: check docs chromium
	$(BIN)/python -m pytest -n $(JOBS) -q

test-slow: $(STAMPS)/dev chromium
	$(BIN)/python -m pytest -n $(JOBS) -q -m slow

# The table is written whatever the outcome: a fault that lost something is counted as such.
reliability: $(STAMPS)/dev chromium
	@rm -rf build/faults
	@TUTELAGE_FAULTS=$(CURDIR)/build/faults $(BIN)/python -m pytest -n $(JOBS) -q -m "not slow" tests/reliability; status=$$?; \
	$(BIN)/python -m tests.reliability.faults build/faults docs/assets/reliability.json && exit $$status

# All of them run, whatever one of them misses; the exit status says whether any did.
bench: $(STAMPS)/dev
	@missed=; for file in $(filter-out $(addprefix benchmarks/,__init__.py allocator.py check.py harness.py page.py records.py),$(wildcard benchmarks/*.py)); do \
		name=$$(basename $$file .py); echo; echo "== $$name"; \
		$(BIN)/python -m benchmarks.$$name || missed="$$missed $$name"; \
	done; [ -z "$$missed" ] || { echo; echo "Missed or failed:$$missed" >&2; exit 1; }

bench-check: $(STAMPS)/dev
	$(BIN)/python -m benchmarks.check

clean:
	rm -rf site build dist .mypy_cache .ruff_cache .import_linter_cache .hypothesis
