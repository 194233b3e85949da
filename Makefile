# `make help` lists what there is to make. Everything lands in $(VENV) and build/.

PYTHON ?= python3
VENV ?= .venv
# Folder index to take torch from; see docs/troubleshooting.md, "torch brings gigabytes of CUDA".
TORCH_INDEX ?=
PYTEST_ARGS ?=

PY := $(VENV)/bin/python
# Only errors are shown; what pip is busy with, the lines of the recipes say.
PIP := $(PY) -m pip --disable-pip-version-check -qq
EXTRA_INDEX := $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))

# What an editable install has to be renewed for: Python files are used where they stand.
NATIVE := CMakeLists.txt $(shell find lif_op \
    -name '*.cc' -o -name '*.h' -o -name '*.map' -o -name CMakeLists.txt)
CXX_FILES := $(shell find lif_op $(wildcard runtime/include examples) -name '*.cc' -o -name '*.h')
DEVELOPER := -DSPIKEDEPLOY_DEVELOPER=ON -DSPIKEDEPLOY_BUILD_TESTS=ON

.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help demo test test-long test-install lint test-python test-cpp sanitize format clean

help:
	@echo 'make demo          install, then quantize the shipped network, run it, and show the table'
	@echo 'make test          install, then lint, Python tests and C++ tests (20 minutes at most)'
	@echo 'make test-long     the same, the long tests, and the C++ tests under sanitizers'
	@echo 'make lint          ruff, clang-format, mypy, import rules'
	@echo 'make test-python   pytest without the long tests; PYTEST_ARGS="tests/runtime -x"'
	@echo 'make test-cpp      the C++ tests, compiled with every warning an error'
	@echo 'make test-install  the wheel in an empty environment, and the oldest ONNX Runtime'
	@echo 'make sanitize      the C++ tests under address and undefined-behaviour sanitizers'
	@echo 'make format        format Python and C++'
	@echo 'make clean         remove what make has made, $(VENV) too'
	@echo 'Variables: PYTHON=$(PYTHON) VENV=$(VENV) TORCH_INDEX=$(TORCH_INDEX) PYTEST_ARGS'

demo: $(VENV)/.demo
	$(PY) -m export.qdq --run

test: lint test-python test-cpp

test-long: lint sanitize
	$(PY) -m pytest $(PYTEST_ARGS)
	$(MAKE) test-cpp

lint: $(VENV)/.test
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(VENV)/bin/clang-format --dry-run --Werror $(CXX_FILES)
	$(PY) -m mypy
	$(VENV)/bin/lint-imports

test-python: $(VENV)/.test
	$(PY) -m pytest -m 'not long' $(PYTEST_ARGS)

test-install: $(VENV)/.test
	$(PY) -m pytest -m long tests/packaging tests/lif_op/test_oldest_runtime.py

# pybind11 comes from $(VENV), and so do cmake and ninja where the machine has none.
configure = PATH="$(abspath $(VENV))/bin:$$PATH" cmake -S . -B $(1) -G Ninja $(DEVELOPER)
run-ctest = PATH="$(abspath $(VENV))/bin:$$PATH" ctest --test-dir $(1) --output-on-failure

test-cpp: $(VENV)/.test
	$(call configure,build/developer) -DSPIKEDEPLOY_BUILD_BENCH=ON -DSPIKEDEPLOY_BUILD_PYTHON=ON \
	  -DPython_EXECUTABLE="$(abspath $(PY))" -Dpybind11_DIR="$$($(PY) -m pybind11 --cmakedir)"
	PATH="$(abspath $(VENV))/bin:$$PATH" cmake --build build/developer
	$(call run-ctest,build/developer)

sanitize: $(VENV)/.test
	$(call configure,build/sanitize) -DSPIKEDEPLOY_SANITIZE=address,undefined
	PATH="$(abspath $(VENV))/bin:$$PATH" cmake --build build/sanitize
	$(call run-ctest,build/sanitize)

format: $(VENV)/.test
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .
	$(VENV)/bin/clang-format -i $(CXX_FILES)

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamps are written last, so an interrupted run is taken up again.
$(VENV)/.created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2> /dev/null || \
	  { echo "error: $(PYTHON) is not Python 3.11 or newer; name one: make PYTHON=python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2> /dev/null || \
	  { echo "error: $(PYTHON) has no venv; on Debian: apt install python3-venv" >&2; exit 1; }
	@command -v "$${CXX:-c++}" > /dev/null || \
	  { echo "error: no C++ compiler; on Debian: apt install g++" >&2; exit 1; }
	@echo "creating $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV)
	@echo "installing pip and the build tools"
	@$(PIP) install --progress-bar off --upgrade pip 'scikit-build-core>=0.10' 'pybind11>=2.12' 'cmake>=3.25' 'ninja>=1.11'
	@touch $@

# Without build isolation: the tools installed above are used again and again, and offline.
define install
	@echo "installing spikedeploy[$(1)] and what it needs, building the op library"
	@$(PIP) install --no-build-isolation $(EXTRA_INDEX) --editable '.[$(1)]' || \
	  { echo "error: the installation failed, see above and docs/troubleshooting.md" >&2; exit 1; }
	@if ls -d $(VENV)/lib/python3*/site-packages/nvidia* > /dev/null 2>&1; then \
	  echo "warning: torch came with CUDA, gigabytes more than needed;" \
	    "docs/troubleshooting.md tells how to get the small build" >&2; fi
endef

$(VENV)/.demo: $(VENV)/.created pyproject.toml $(NATIVE)
	$(call install,export)
	@touch $@

# Includes what the demo needs.
$(VENV)/.test: $(VENV)/.created pyproject.toml $(NATIVE)
	$(call install,test)
	@touch $(VENV)/.demo $@
