PYTHON ?= python3
BIN := .venv/bin
INSTALL := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo test test-long check docs clean

demo: .venv/installed
	$(BIN)/splitcom demo

TWO := --numprocesses 2 --dist loadfile  # two files at once: many tests wait

test: .venv/installed-test
	$(BIN)/python -m pytest $(TWO) -m "not long"

test-long: .venv/installed-test  # waits for timeouts, a real Slurm, many whole runs
	$(BIN)/python -m pytest $(TWO) -m long

check: .venv/installed-test .venv/installed-check
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

docs: .venv/installed-docs
	$(BIN)/python -m sphinx --builder html --fail-on-warning --keep-going --quiet docs docs/_build/html
	@echo docs/_build/html/index.html

.venv/installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(INSTALL) torch==2.13.0
	$(INSTALL) --editable .
	touch $@

.venv/installed-%: .venv/installed
	$(INSTALL) --editable ".[$*]"
	touch $@

clean:
	rm -rf .venv build dist *.egg-info docs/_build
