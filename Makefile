# make demo: install, train on real handwritten digits, draw what was learned into demo/.
# make test: the same set-up, then every check and test.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt

.PHONY: demo test clean

demo: .venv/demo.stamp
	$(BIN)/python -m unnoise demo --out demo --overwrite

test: .venv/test.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

# torch first and pinned, so that nothing that depends on it can pull another build.
.venv/demo.stamp: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("unnoise needs Python 3.11 or newer, this is " + sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv .venv
	@echo "installing (torch is the large one) ..."
	$(PIP) torch==2.13.0
	$(PIP) -e '.[demo]'
	touch $@

.venv/test.stamp: .venv/demo.stamp
	$(PIP) -e '.[dev]'
	$(PIP) --no-deps torch-fidelity  # the tests read its Inception alone; its metadata would pull torchvision
	touch $@

clean:
	rm -rf .venv demo build *.egg-info
