# `make demo` and `make test` set up their own environment on a machine that has git, make, Python 3.10+ and a
# package index.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test slow soak clients lint tables docs docs-serve wheel clean

demo: $(VENV)/.installed
	$(BIN)/python scripts/demo.py

test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

slow: export COATNET_SLOW := 1
slow: test

soak: $(VENV)/.installed
	COATNET_SOAK=100000 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 tests/convert/test_fuzz.py

clients: $(VENV)/.installed
	$(BIN)/python -m pip install --editable '.[test,clients]'
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/clients tests/export tests/docs/test_blocks.py

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

tables: $(VENV)/.installed
	$(BIN)/python -m scripts.tables

docs: $(VENV)/.docs
	$(BIN)/python -m mkdocs build

docs-serve: $(VENV)/.docs
	$(BIN)/python -m mkdocs serve

wheel: $(VENV)/.installed
	$(BIN)/python -m pip wheel --no-deps --wheel-dir dist .

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "coatnet-zoo needs Python 3.10 or newer; set PYTHON=")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --no-compile --editable '.[test]'
	$(BIN)/python -m compileall -qq -j 0 $(VENV) || true  # pip would compile on one core; some files cannot be compiled
	touch $@

$(VENV)/.docs: $(VENV)/.installed
	$(BIN)/python -m pip install --editable '.[docs]'
	touch $@

clean:
	rm -rf $(VENV) dist build site
