# `make help` lists what there is to make. Everything lands in $(VENV) and build/.

PYTHON ?= python3
VENV ?= .venv
# A package index to take torch from; see docs/troubleshooting.md, "gigabytes of CUDA".
TORCH_INDEX ?=
# Handed to pytest: make test-python PYTEST_ARGS='tests/runtime -x'
PYTEST_ARGS ?=

BIN := $(abspath $(VENV))/bin
PY := $(VENV)/bin/python
# Only errors are shown; what pip is busy with, the lines of the recipes say.
PIP := $(PY) -m pip --disable-pip-version-check -qq
EXTRA_INDEX := $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))

# What an editable install has to be renewed for. Python files are used where they stand.
NATIVE := CMakeLists.txt $(shell find lif_op runtime \
    -name '*.cc' -o -name '*.h' -o -name '*.map' -o -name CMakeLists.txt -o -name '*.cmake.in')
CXX_FILES := $(shell find lif_op runtime/include examples fuzz tests -name '*.cc' -o -name '*.h')

# Where Python.h is, or was put. pip hands CMAKE_ARGS on to CMake.
HEADERS := $(abspath $(VENV))/include/python
export CMAKE_ARGS += -DPython_INCLUDE_DIR=$(HEADERS)

# cmake and ninja come from $(VENV), pybind11 too.
CMAKE := PATH="$(BIN):$$PATH" cmake
CTEST := PATH="$(BIN):$$PATH" ctest --output-on-failure
DEVELOPER := -G Ninja -DSPIKEDEPLOY_DEVELOPER=ON -DSPIKEDEPLOY_BUILD_TESTS=ON
# The runtime that came with the onnxruntime package, for the tests of the C++ headers.
ONNXRUNTIME = -DSPIKEDEPLOY_ONNXRUNTIME="$$(ls \
    $(abspath $(VENV))/lib/python3*/site-packages/onnxruntime/capi/libonnxruntime.so.*)"

.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help demo test test-long lint test-python test-cpp build-cpp test-emulated test-install \
    build-sanitize sanitize sanitize-python valgrind test-memory fuzz deeploy format lock licenses clean

help:
	@echo 'make demo          install, quantize the shipped network, run it, show the table'
	@echo 'make test          install; lint, Python tests, C++ tests (20 minutes at most)'
	@echo 'make test-long     the same with the long tests, and the C++ tests under sanitizers'
	@echo 'make lint          ruff, clang-format, mypy, import rules'
	@echo 'make test-python   pytest without the long tests; PYTEST_ARGS="tests/runtime -x"'
	@echo 'make test-cpp      C++ tests, every warning an error'
	@echo 'make test-emulated kernels on older x86 and on Arm, bundles on five processors, in QEMU'
	@echo 'make test-install  the wheel in an empty environment, and the oldest ONNX Runtime'
	@echo 'make sanitize      C++ tests under the address, undefined-behaviour and thread sanitizers'
	@echo 'make sanitize-python  the Python parity tests, op library and module under the first two'
	@echo 'make valgrind      C++ tests of kernels and readers in Valgrind, AVX2 the widest target'
	@echo 'make test-memory   the last three in short, as continuous integration runs them'
	@echo 'make fuzz          damaged inputs for kernels, parsers, readers, FUZZ_SECONDS=60 for each'
	@echo 'make deeploy       networks compiled by Deeploy (installs it apart), run over steps with state'
	@echo 'make format        format Python and C++'
	@echo 'make lock          constraints.txt anew: the newest versions that the bounds allow'
	@echo 'make licenses      docs/licenses.md anew, from what is installed'
	@echo 'make clean         remove what make has made, $(VENV) included'
	@echo 'variables          PYTHON=$(PYTHON) VENV=$(VENV) TORCH_INDEX=$(TORCH_INDEX) PYTEST_ARGS'

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
	$(PY) -m mypy attacks/make.py fuzz/readers.py
	$(VENV)/bin/lint-imports --no-logo
	@$(PIP) check

test-python: $(VENV)/.test
	$(PY) -m pytest -m 'not long and not emulated' $(PYTEST_ARGS)

test-install: $(VENV)/.test
	$(PY) -m pytest -m long tests/packaging tests/lif_op/test_oldest_runtime.py

test-cpp: build-cpp
	$(CTEST) --test-dir build/developer

build-cpp: $(VENV)/.test
	$(CMAKE) -S . -B build/developer $(DEVELOPER) $(ONNXRUNTIME) -DSPIKEDEPLOY_BUILD_BENCH=ON -DSPIKEDEPLOY_BUILD_FUZZ=ON \
	  -DSPIKEDEPLOY_BUILD_PYTHON=ON -DPython_EXECUTABLE="$(abspath $(PY))" \
	  -DPython_INCLUDE_DIR=$(HEADERS) \
	  -Dpybind11_DIR="$$($(PY) -m pybind11 --cmakedir)"
	$(CMAKE) --build build/developer

test-emulated: build-cpp
	$(call need,test "$$(uname -m)" = x86_64,make test-emulated needs an x86-64 machine; \
	  on others run make test-cpp)
	$(call need,(command -v aarch64-linux-gnu-g++ && command -v qemu-aarch64 && \
	  command -v qemu-x86_64),no compiler for Arm or no QEMU; \
	  on Debian: apt install g++-aarch64-linux-gnu qemu-user)
	$(CMAKE) -S . -B build/aarch64 $(DEVELOPER) --toolchain cmake/aarch64-linux-gnu.cmake
	$(CMAKE) --build build/aarch64
	$(CTEST) --test-dir build/aarch64 -R isolation
	sh lif_op/kernels/emulated_test.sh build/developer/lif_op build/aarch64/lif_op
	$(PY) -m pytest -q -m emulated tests/export/test_bundle_emulated.py

# The op library and lif_op._core are loaded by a Python that was built without sanitizers, so their
# runtimes come first. Python itself never frees all it took: leaks are the C++ tests' matter.
SANITIZED := build/sanitize
RUNTIMES = $$($${CXX:-c++} -print-file-name=libasan.so) $$($${CXX:-c++} -print-file-name=libubsan.so)
SANITIZED_PYTEST = LD_PRELOAD="$(RUNTIMES)" ASAN_OPTIONS=detect_leaks=0 \
  UBSAN_OPTIONS=print_stacktrace=1 \
  SPIKEDEPLOY_OP_LIBRARY=$(abspath $(SANITIZED))/lif_op/liblif_ops.so \
  SPIKEDEPLOY_TEST_CORE="$$(ls $(abspath $(SANITIZED))/lif_op/_core*.so)" \
  $(PY) -m pytest -q -p tests.other_core -m 'not long and not emulated'
THREADED := build/sanitize-thread
VALGRIND := valgrind --quiet --error-exitcode=9 --leak-check=full --errors-for-leak-kinds=definite

build-sanitize: $(VENV)/.test
	$(CMAKE) -S . -B $(SANITIZED) $(DEVELOPER) $(ONNXRUNTIME) -DSPIKEDEPLOY_SANITIZE=address,undefined \
	  -DSPIKEDEPLOY_BUILD_PYTHON=ON -DPython_EXECUTABLE="$(abspath $(PY))" \
	  -DPython_INCLUDE_DIR=$(HEADERS) -Dpybind11_DIR="$$($(PY) -m pybind11 --cmakedir)"
	$(CMAKE) --build $(SANITIZED)
	$(CMAKE) -S . -B $(THREADED) $(DEVELOPER) $(ONNXRUNTIME) -DSPIKEDEPLOY_SANITIZE=thread
	$(CMAKE) --build $(THREADED)

sanitize: build-sanitize
	$(CTEST) --test-dir $(SANITIZED)
	LIF_OP_TEST_EVERY=10 $(CTEST) --test-dir $(THREADED)

sanitize-python: build-sanitize
	$(SANITIZED_PYTEST) tests/lif_op/test_kernels.py tests/lif_op/test_fused_kernels.py \
	  tests/lif_op/test_onnxruntime.py tests/lif_op/test_fused.py tests/parity \
	  --deselect tests/parity/test_fused.py::test_memory_does_not_grow

# Valgrind knows no AVX-512, and does not follow ONNX Runtime's own kernels.
valgrind: $(VENV)/.test
	$(call need,command -v valgrind,no valgrind; on Debian: apt install valgrind)
	$(CMAKE) -S . -B build/valgrind $(DEVELOPER) \
	  -DCMAKE_TEST_LAUNCHER="$$(echo $(VALGRIND) | tr ' ' ';')"
	$(CMAKE) --build build/valgrind
	LIF_OP_TARGET=avx2 LIF_OP_TEST_EVERY=20 $(CTEST) --test-dir build/valgrind

# The last three in short: some of the cases, some of the tests.
test-memory: build-cpp build-sanitize
	LIF_OP_TEST_EVERY=50 $(CTEST) --test-dir $(SANITIZED)
	LIF_OP_TEST_EVERY=50 $(CTEST) --test-dir $(THREADED)
	$(SANITIZED_PYTEST) tests/lif_op/test_kernels.py tests/lif_op/test_fused.py
	if command -v valgrind > /dev/null; then for test in lif qlif qconv check; do \
	  LIF_OP_TARGET=avx2 LIF_OP_TEST_EVERY=100 $(VALGRIND) build/developer/lif_op/$${test}_test || exit 1; \
	  done; else echo '*** SKIPPED: valgrind is missing' >&2; fi

FUZZ_SECONDS ?= 60
CLANG := $(firstword $(foreach name,clang++ clang++-19 clang++-16 clang++-14,$(shell command -v $(name))))
fuzz: $(VENV)/.test
	$(call need,test -n "$(CLANG)",no clang++; on Debian: apt install clang-14 libclang-rt-14-dev)
	$(CMAKE) -S . -B build/fuzz -G Ninja -DCMAKE_CXX_COMPILER=$(CLANG) \
	  -DSPIKEDEPLOY_BUILD_FUZZ=ON -DSPIKEDEPLOY_SANITIZE=fuzzer-no-link,address,undefined
	$(CMAKE) --build build/fuzz
	for corpus in fuzz/corpus/*; do target=$$(basename $$corpus); mkdir -p build/fuzz/new/$$target; \
	  build/fuzz/fuzz/$${target}_fuzz -max_total_time=$(FUZZ_SECONDS) -artifact_prefix=build/fuzz/ \
	    build/fuzz/new/$$target $$corpus || exit 1; done
	$(PY) fuzz/readers.py --seconds $(FUZZ_SECONDS)
	SPIKEDEPLOY_EXAMPLES=5000 $(PY) -m pytest -q tests/attacks/test_bodies.py

# Deeploy wants old versions of what we need new, hence an environment of its own.
deeploy: $(VENV)/.test
	test -x build/deeploy/bin/python || $(PYTHON) -m venv build/deeploy
	build/deeploy/bin/python -m pip install -qq 'deeploy-pulp==0.2.1'
	$(PY) -m pytest -q tests/export/test_deeploy_target.py

format: $(VENV)/.test
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .
	$(VENV)/bin/clang-format -i $(CXX_FILES)

# The newest versions that the bounds in pyproject.toml allow, in an environment of their own.
lock:
	rm -rf build/lock
	$(PYTHON) -m venv build/lock
	build/lock/bin/python -m pip install -qq --upgrade pip
	build/lock/bin/python -m pip install -qq $(EXTRA_INDEX) '.[test,view]'
	build/lock/bin/python tests/packaging/lock.py > build/constraints.txt
	mv build/constraints.txt constraints.txt

licenses: $(VENV)/.test
	$(PY) tests/packaging/licenses.py docs/licenses.md

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# What the machine must have, before anything is downloaded. $(call need,test command,what to do)
need = @$(1) > /dev/null 2>&1 || { echo "error: $(2)" >&2; exit 1; }
IS_NEW := import sys; sys.exit(sys.version_info < (3, 11))
HAS_VENV := import ensurepip, venv

# The stamps are written last, so that an interrupted installation is taken up again.
$(VENV)/.created:
	$(call need,$(PYTHON) -c '$(IS_NEW)',$(PYTHON) is not Python 3.11 or newer; \
	  name one that is: make PYTHON=python3.11)
	$(call need,$(PYTHON) -c '$(HAS_VENV)',$(PYTHON) cannot make virtual environments; \
	  on Debian: apt install python3-venv)
	$(call need,command -v "$${CXX:-c++}",no C++ compiler; on Debian: apt install g++)
	@echo "creating $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV)
	@sh lif_op/python_headers.sh $(PYTHON) $(HEADERS)
	@echo "installing pip and the build tools"
	@$(PIP) install --progress-bar off --constraint constraints.txt --upgrade \
	  pip 'scikit-build-core>=0.10' 'pybind11>=2.12' 'cmake>=3.25' 'ninja>=1.11'
	@touch $@

# Without build isolation, so that the tools installed above are used, also where there is no
# network; with a build folder, so that a change in one C++ file compiles that file.
define install
	@echo "installing spikedeploy[$(1)] with what it needs, building the op library"
	@$(PIP) install --no-build-isolation --config-settings=build-dir=$(abspath $(VENV))/build \
	  $(EXTRA_INDEX) --constraint constraints.txt --editable '.[$(1)]' || \
	  { echo "error: the installation failed, see above and docs/troubleshooting.md" >&2; exit 1; }
	@ls $(VENV)/lib/python3*/site-packages | grep -qiE '^(nvidia|cuda)([-_]|$$)' && \
	  echo "warning: torch brought gigabytes of CUDA; docs/troubleshooting.md tells" \
	    "how to get the small build" >&2 || true
endef

$(VENV)/.demo: $(VENV)/.created pyproject.toml constraints.txt $(NATIVE)
	$(call install,export)
	@touch $@

# Includes what the demo needs.
$(VENV)/.test: $(VENV)/.created pyproject.toml constraints.txt $(NATIVE)
	$(call install,test)
	@touch $(VENV)/.demo $@
