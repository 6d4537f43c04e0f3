# `make demo` and `make test` do everything on a fresh machine: own virtual environment, tested versions, run.

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
VIDEO ?=
# Processes that share the tests; each takes about 2 GB of memory.
WORKERS ?= 2
PARALLEL := --numprocesses $(WORKERS) --dist loadfile
# Python of the oldest supported set; Transformers 5.20 is the last series that runs on 3.10.
OLDEST_PYTHON ?= $(shell command -v python3.10 || echo $(PYTHON))
# What `make lock` must not renew, such as HOLD="torch<=2.14.1 torchvision<=0.29.1".
HOLD ?=

MATRIX_TESTS := tests/modeling_trajtok tests/processors tests/hub tests/parity tests/transformers_common
# What CI tries with the newest releases: what they have broken before.
SHORT_TESTS := tests/modeling_trajtok/test_modeling_trajvlm.py tests/processors/test_processing_trajvlm.py \
	tests/hub/test_remote_code_trajvlm.py tests/transformers_common
COMPILE := $(RUN) -m uv pip compile --quiet --universal --python-version 3.10 --all-extras --no-header --no-annotate

.PHONY: demo app test lint style bench lock test-matrix test-oldest test-newest test-newest-short

demo: $(VENV)/installed
	$(RUN) examples/demo.py $(VIDEO)

app: $(VENV)/installed
	$(RUN) examples/app.py

test: $(VENV)/tests-fetched
	$(RUN) -m pytest $(PARALLEL)

lint: $(VENV)/installed
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

style: $(VENV)/installed
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

bench: $(VENV)/installed
	$(RUN) examples/benchmark_tokenizer.py

# The lock holds for every platform and for Python 3.10 upwards; setuptools comes from it, so building needs no other.
$(VENV)/installed: pyproject.toml requirements/locked.txt
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --constraint requirements/locked.txt setuptools
	$(RUN) -m pip install --quiet --constraint requirements/locked.txt --no-build-isolation --editable ".[dev]"
	touch $@

%/tests-fetched: %/installed tests/fetch_transformers_tests.py
	$*/bin/python tests/fetch_transformers_tests.py
	touch $@

test-matrix: test-oldest test-newest

test-oldest: .venv-oldest/tests-fetched
	.venv-oldest/bin/python -m pytest $(PARALLEL) $(MATRIX_TESTS)

test-newest: .venv-newest/tests-fetched
	.venv-newest/bin/python -m pytest $(PARALLEL) $(MATRIX_TESTS)

test-newest-short: .venv-newest/tests-fetched
	.venv-newest/bin/python -m pytest $(PARALLEL) $(SHORT_TESTS)

.venv-oldest/installed: pyproject.toml requirements/oldest.txt
	$(OLDEST_PYTHON) -m venv .venv-oldest
	.venv-oldest/bin/python -m pip install --quiet --constraint requirements/oldest.txt setuptools
	.venv-oldest/bin/python -m pip install --quiet --constraint requirements/oldest.txt --no-build-isolation \
		--editable ".[dev]"
	touch $@

# Looks through to the locked environment and installs beside it what is newer, upper bounds or not. Made anew each time.
.PHONY: .venv-newest/installed
.venv-newest/installed: $(VENV)/installed
	$(PYTHON) -m venv --clear .venv-newest
	$(RUN) tests/newest_environment.py .venv-newest

lock: $(VENV)/installed
	$(RUN) -m pip install --quiet uv
	printf '%s\n' $(HOLD) > $(VENV)/held.txt
	$(COMPILE) --upgrade --constraint $(VENV)/held.txt --output-file requirements/locked.txt pyproject.toml
	$(COMPILE) --upgrade --resolution lowest-direct --output-file requirements/oldest.txt pyproject.toml
