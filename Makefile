# make run: the quickstart search. make test: all checks. Beyond them: make slow, tests of minutes; make browser, all
# tests of the dashboard in Chromium, of which make test runs the short ones where there is one, with screenshots in
# build/screenshots; make fuzz. All create what they need in .venv.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# A stamp holds the checksum of pyproject.toml that was installed, so that touching the file costs nothing.
KEY := $(shell cksum pyproject.toml | cut -d' ' -f1)
RUN_STAMP := $(VENV)/installed-run-$(KEY)
DEV_STAMP := $(VENV)/installed-dev-$(KEY)

JS := tests/dashboard/js

# The tests start many processes, each of which would compile every module anew where the environment forbids to keep
# bytecode.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: run test slow browser fuzz format clean

run: $(RUN_STAMP)
	@# Exit code 4: the time budget ended before the proposals did, which slow machines may see.
	$(BIN)/evosplit run configs/quickstart.yaml || [ $$? -eq 4 ]

test: $(DEV_STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	@# Linter and types of the page's JavaScript; without npm, or away from a registry, its tests skip themselves.
	-@! command -v npm >/dev/null || test $(JS)/node_modules/.package-lock.json -nt $(JS)/package-lock.json || \
		npm ci --prefix $(JS) --no-audit --no-fund --silent
	@# Types beside the tests: mypy is one process of half a minute.
	@$(MAKE) --no-print-directory -j 2 types tests

.PHONY: types tests
types: $(DEV_STAMP)
	$(BIN)/mypy

tests: $(DEV_STAMP)
	@# One more try: some tests kill or time processes, which a busy machine may upset.
	@# -rs: what was skipped says what is missing. Two workers a core: much of the time is waiting.
	$(BIN)/pytest -n $$(($$($(BIN)/python -c 'import os; print(os.cpu_count())') * 2)) --dist loadfile \
		--no-loadscope-reorder --reruns 1 -rs -m "not gpu and not slow"

# More of the same, minutes long: more random programs against their C++, every export target, OpenEvolve as a baseline,
# and all properties that `make test` tries on generated examples, on four times as many.
slow: $(DEV_STAMP)
	$(BIN)/pytest -n auto --dist loadfile --reruns 1 --hypothesis-profile many -m "(slow or hypothesis) and not gpu and not browser"

# Coverage-guided, for FUZZ_SECONDS; not part of test, since atheris has no wheels for every system.
FUZZ_SECONDS ?= 30

fuzz: $(DEV_STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[fuzz]'
	$(BIN)/python tests/faults/fuzz_gate.py --seconds $(FUZZ_SECONDS)

browser: $(DEV_STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[browser]'
	@command -v chromium chromium-browser google-chrome >/dev/null || $(BIN)/playwright install --only-shell chromium || { \
		echo "error: no Chromium to test the dashboard in" >&2; echo "hint: apt install chromium" >&2; exit 3; }
	EVOSPLIT_BROWSER=required $(BIN)/pytest -n auto --dist loadfile -m browser

format: $(DEV_STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	@! test -d $(JS)/node_modules || (cd $(JS) && npx biome check --write ../../../evolve/dashboard/static .)

clean:
	rm -rf $(JS)/node_modules $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "error: evosplit needs Python 3.11 or newer, $(PYTHON) is $$($(PYTHON) --version 2>&1)" >&2; \
		echo "hint: make PYTHON=python3.12 run" >&2; exit 3; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "error: $(PYTHON) cannot make virtual environments" >&2; \
		echo "hint: apt install python3-venv" >&2; exit 3; }
	$(PYTHON) -m venv $(VENV)

$(RUN_STAMP): | $(BIN)/python
	@test -e $(DEV_STAMP) || $(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	@rm -f $(VENV)/installed-run-*
	@touch $@

# Exact versions with hashes, where LOCK names a file of them; what an index lacks of it comes by its range.
LOCK ?=

$(DEV_STAMP): | $(BIN)/python
	@test -z "$(LOCK)" || $(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $(LOCK) || \
		echo "warning: $(LOCK) cannot be installed here, so the newest versions within their ranges are" >&2
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@# Not everywhere are there wheels for a browser's driver: then its tests skip themselves.
	-$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[browser]'
	@rm -f $(VENV)/installed-dev-*
	@touch $@
