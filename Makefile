# make demo    a virtual environment, the package, and `edgeresnext demo`
# make test    the same for the tests: lint, types, import contracts, tests without those marked slow
# make test-all  what CI runs: all tests, with coverage
# make device  the demo, then its bundle in fresh environments without PyTorch (DEVICE_PYTHONS="python3.10 python3.13")
# make arm64   the demo, then its bundle on an emulated arm64 Linux (root, debootstrap and qemu-user-static)
# make figures measures everything that the documents quote (many hours)

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

DEVICE_PYTHONS ?= python3.10 python3.13

.PHONY: demo test test-all device arm64 lint figures clean

demo: $(VENV)/.demo
	$(BIN)/edgeresnext demo

test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow"

test-all: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal --cov=edgeresnext --cov-report=term:skip-covered --cov-fail-under=94

device: demo
	tests/device/check.sh edgeresnext-demo/bundle "$$(ls edgeresnext-demo/digits/validation/7/*.png | head -1)" $(DEVICE_PYTHONS)

arm64: demo
	PYTHON=$(BIN)/python tests/device/arm64.sh edgeresnext-demo/bundle "$$(ls edgeresnext-demo/digits/validation/7/*.png | head -1)"

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/hadolint docker/*.Dockerfile

figures: $(VENV)/.dev
	$(BIN)/python benchmarks/suite.py
	$(BIN)/python benchmarks/harness.py
	$(BIN)/python benchmarks/fidelity.py
	$(BIN)/python benchmarks/build.py
	$(BIN)/python calibration/shapes/train.py build/shapes
	$(BIN)/python benchmarks/quantization.py --shapes build/shapes/shapes.safetensors --shapes-data build/shapes
	$(BIN)/python benchmarks/processors.py --shapes build/shapes/shapes.safetensors --shapes-data build/shapes
	$(BIN)/python benchmarks/engines.py
	$(BIN)/python benchmarks/training.py
	$(BIN)/python benchmarks/int8_training.py --shapes build/shapes/shapes.safetensors --shapes-data build/shapes
	$(BIN)/python benchmarks/cardinality.py build/cardinality
	$(BIN)/python benchmarks/faults.py
	$(BIN)/python benchmarks/kill_points.py
	$(BIN)/python benchmarks/demo.py
	$(BIN)/python benchmarks/render.py

clean:
	rm -rf $(VENV) edgeresnext-demo

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(INSTALL) -e '.[build,cpu,demo]'
	touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(INSTALL) -e '.[dev]'
	touch $@
