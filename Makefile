# Two commands do all set-up by themselves: `make demo` and `make test`.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
#: Test processes side by side.
JOBS ?= 2
#: How long `make fuzz` searches.
FUZZ_SECONDS ?= 60
#: What `make chaos` does: instances of each of eight senders, faults in each test.
CHAOS_INSTANCES ?= 150
CHAOS_ROUNDS ?= 10
#: What tests need of npm, each with its package.json.
VALIDATOR := tests/support/fhir-validator
AZURITE := tests/support/azurite

.PHONY: demo test chaos commands lint types layers check format fuzz bench docs clean

demo: $(VENV)/.ready  ## the whole flow with a sample study, on embedded defaults
	$(BIN)/imaging-ingestion demo

READY_FOR_TESTS := commands $(VENV)/.ready-dev $(VALIDATOR)/node_modules/.ready $(AZURITE)/node_modules/.ready

test: $(READY_FOR_TESTS)  ## every test, against real servers
	$(BIN)/pytest -n $(JOBS) --dist worksteal $(PYTEST_ARGS)

chaos: $(READY_FOR_TESTS)  ## faults during ingest, longer than in `make test`
	CHAOS_INSTANCES=$(CHAOS_INSTANCES) CHAOS_ROUNDS=$(CHAOS_ROUNDS) \
		$(BIN)/pytest -n $(JOBS) --dist worksteal tests/chaos $(PYTEST_ARGS)

commands:  # of Debian, that tests run
	scripts/need_commands curl:curl npm:npm storescp:dcmtk setpriv:util-linux faketime:faketime

lint: $(VENV)/.ready-dev  ## style and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.ready-dev  ## mypy --strict over the package
	$(BIN)/mypy

layers: $(VENV)/.ready-dev  ## which room may import which
	$(BIN)/lint-imports

check: lint types layers

format: $(VENV)/.ready-dev  ## mend what lint can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/.ready-dev  ## the pages that are made from the code
	$(BIN)/python scripts/make_configuration_reference.py > docs/configuration.md

fuzz: $(VENV)/.ready-dev  ## look for what breaks an association, FUZZ_SECONDS long, in a copy of the corpus
	$(PYTHON) -m pip --python $(VENV)/bin/python install --quiet --disable-pip-version-check \
		--constraint constraints.txt atheris
	mkdir -p build/fuzz && cp -n tests/fuzz/corpus/* build/fuzz/
	$(BIN)/python tests/fuzz/fuzz_upper_layer.py -max_total_time=$(FUZZ_SECONDS) \
		-artifact_prefix=build/ build/fuzz

bench: $(VENV)/.ready-dev  ## beside Orthanc, in one run
	$(BIN)/python benchmarks/dicomweb.py

clean:
	rm -rf $(VENV) build dist $(VALIDATOR)/node_modules $(AZURITE)/node_modules

# Debian's python3 comes without ensurepip, so the environment is made without pip and filled by the
# pip that is there.
$(VENV)/bin/python:
	$(PYTHON) scripts/check_python.py
	$(PYTHON) -m venv --without-pip $(VENV)

$(VENV)/.ready: $(VENV)/bin/python pyproject.toml constraints.txt
	$(PYTHON) -m pip --python $(VENV)/bin/python install --quiet --disable-pip-version-check \
		--constraint constraints.txt --editable .
	touch $@

$(VENV)/.ready-dev: $(VENV)/bin/python pyproject.toml constraints.txt
	$(PYTHON) -m pip --python $(VENV)/bin/python install --quiet --disable-pip-version-check \
		--constraint constraints.txt --editable '.[dev]'
	touch $(VENV)/.ready $@

tests/support/%/node_modules/.ready: tests/support/%/package.json | commands
	npm install --prefix $(<D) --no-package-lock --no-audit --no-fund --silent
	touch $@
