# `make demo` and `make test` do everything on a fresh machine: own virtual environment, dependencies, run.

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
VIDEO ?=

.PHONY: demo app test lint style bench

demo: $(VENV)/installed
	$(RUN) examples/demo.py $(VIDEO)

app: $(VENV)/installed
	$(RUN) examples/app.py

test: $(VENV)/installed
	$(RUN) -m pytest

lint: $(VENV)/installed
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

style: $(VENV)/installed
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

bench: $(VENV)/installed
	$(RUN) examples/benchmark_tokenizer.py

$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --upgrade pip
	$(RUN) -m pip install --quiet --editable ".[dev]"
	touch $@
