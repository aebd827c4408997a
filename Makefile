# make demo   the main job in a napari window (off screen without a display)
# make test   set up, lint, type-check, layers, all quick tests
# See README.md for the rest.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# a venv on Windows keeps its programs elsewhere
ifeq ($(OS),Windows_NT)
BIN := $(VENV)/Scripts
endif
PIP_INSTALL := $(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt
MANIFESTS := pyproject.toml constraints.txt

.PHONY: demo test test-all lint docs bench clean

demo: $(VENV)/.demo
	@scripts/system-libraries window
	@$(BIN)/python scripts/run_demo.py

test: lint
	@scripts/system-libraries tests
	$(BIN)/python -m pytest -n 2 -m "not slow" --cov --cov-report=term --cov-report=xml:build/coverage.xml

test-all: lint
	@scripts/system-libraries tests
	$(BIN)/python -m pytest -n 2

lint: $(VENV)/.test
	$(BIN)/ruff format --check src tests benchmarks docs examples scripts
	$(BIN)/ruff check src tests benchmarks docs examples scripts
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/npe2 validate napari_medseg

docs: $(VENV)/.test
	@scripts/system-libraries tests
	$(BIN)/python docs/make_pictures.py

bench: $(VENV)/.test
	@scripts/system-libraries tests
	$(BIN)/python benchmarks/startup.py
	$(BIN)/python benchmarks/opening.py
	$(BIN)/python benchmarks/opening_pyramid.py
	$(BIN)/python benchmarks/engine_2d.py --systems bare,monai,ours,ours-auto
	$(BIN)/python benchmarks/engine_2d.py --network he_nuclei --overlaps 0.125 --half-glass --systems monai,ours,ours-auto
	$(BIN)/python benchmarks/engine_3d.py --systems bare,monai,ours,ours-auto
	$(BIN)/python benchmarks/engine_3d.py --memory 384 --classes 100
	$(BIN)/python benchmarks/engine_scaling.py
	$(BIN)/python benchmarks/cluster.py
	$(BIN)/python benchmarks/metrics_objects.py
	$(BIN)/python benchmarks/error_maps.py

clean:
	rm -rf build dist $(VENV)

$(VENV)/bin/python $(VENV)/Scripts/python.exe:
	$(PYTHON) scripts/check_python.py
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: $(MANIFESTS) | $(BIN)/python
	$(PIP_INSTALL) -e '.[qt]'
	@touch $@

$(VENV)/.test: $(MANIFESTS) | $(BIN)/python
	$(PIP_INSTALL) -e '.[all,test]'
	@touch $@ $(VENV)/.demo
