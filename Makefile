# `make demo` and `make test` build what they need, from Python 3.11+ and pip alone.
PYTHON ?= python3
VENV = .venv
BIN = $(VENV)/bin
# A pair of torch and torchvision that fit each other, with a CPU build where the package index has one. A
# torch that is already in the environment is left alone.
TORCH = torch==2.13.0 torchvision==0.28.0

.PHONY: demo test test-fast bench gpu lint lab clean

demo: $(VENV)/installed
	$(BIN)/clipreid run params/demo.yaml --jobs 2

# Five to six minutes. CI adds what takes five seconds or more, such as grids that are killed: `make test ALL=1`.
test: $(VENV)/installed-test
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(if $(ALL),,-m "not heavy")

# The inner loop: about a minute.
test-fast: $(VENV)/installed-test
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not training and not browser and not slow and not heavy"

bench: $(VENV)/installed
	$(BIN)/python tests/benchmarks/bench.py

# On a machine with an NVIDIA GPU: nine minutes. tests/gpu/README.md says what each row means.
gpu: $(VENV)/installed
	$(BIN)/python tests/gpu/accept.py

lint: $(VENV)/installed-test
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

lab: $(VENV)/installed
	cd notebooks && ../$(BIN)/jupyter lab

$(VENV)/bin/python:
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11))" || \
	    { echo "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: $(VENV)/bin/python pyproject.toml
	$(BIN)/python -c "import torch" 2>/dev/null || $(BIN)/python -m pip install --progress-bar off $(TORCH)
	$(BIN)/python -m pip install --progress-bar off -e .
	touch $@

$(VENV)/installed-test: $(VENV)/installed
	$(BIN)/python -m pip install --progress-bar off -e ".[test]"
	touch $@

clean:
	rm -rf $(VENV) clipreid_hands.egg-info
