# SPDX-License-Identifier: MIT
# make demo | test | bench | lint | sanitize | neon | train | clean. Everything lives in .venv and build.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# The CPU tests need no CUDA packages: one version, so that its CPU build can be provided.
TORCH := torch==2.13.0
SOURCES := pyproject.toml CMakeLists.txt $(wildcard csrc/*/* cmake/*)
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
CXX_FILES := $(wildcard csrc/*/*.h csrc/*/*.inl csrc/*/*.cpp)
PY_DIRS := nnsym_fast tests benchmarks examples tools

.PHONY: demo test bench lint format sanitize neon train clean

$(VENV)/venv.stamp:
	$(PYTHON) -m venv $(VENV)
	touch $@

# The package with what the job needs; then, on top, what the tests and the benchmarks need.
$(VENV)/job.stamp: $(VENV)/venv.stamp $(SOURCES)
	$(PIP) install --editable ".[job]"
	touch $@

$(VENV)/dev.stamp: $(VENV)/job.stamp
	$(PIP) install $(TORCH)
	$(PIP) install --editable ".[dev]"
	touch $@

$(VENV)/bench.stamp: $(VENV)/dev.stamp
	$(PIP) install --editable ".[dev,bench]"
	touch $@

demo: $(VENV)/job.stamp
	rm -rf demo
	$(BIN)/nnsym-fast inspect digits-mlp
	$(BIN)/nnsym-fast verify digits-mlp
	$(BIN)/nnsym-fast verify digits-cnn
	$(BIN)/nnsym-fast sample digits-mlp --samples 2000 --seed 0 --out demo/orbit.zarr --observables norm,distance,function
	$(BIN)/nnsym-fast report demo/orbit.zarr --out demo/report
	@echo "Look at demo/report/index.html; the networks are in demo/orbit.zarr."

test: $(VENV)/dev.stamp
	$(BIN)/pytest $(PYTEST_ARGS)

bench: $(VENV)/bench.stamp
	$(BIN)/pytest benchmarks --benchmark-columns=min,median,rounds $(PYTEST_ARGS)

train: $(VENV)/dev.stamp
	$(BIN)/python examples/train_digits.py

lint: $(VENV)/dev.stamp
	$(BIN)/ruff check $(PY_DIRS)
	$(BIN)/ruff format --check $(PY_DIRS)
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror $(CXX_FILES)

format: $(VENV)/dev.stamp
	$(BIN)/ruff check --fix $(PY_DIRS)
	$(BIN)/ruff format $(PY_DIRS)
	$(BIN)/clang-format -i $(CXX_FILES)

# The kernel tests against a build with the address and undefined-behaviour sanitizers. -S: without the site's own
# (editable) copy of the package.
sanitize: $(VENV)/dev.stamp
	PATH="$(CURDIR)/$(BIN):$$PATH" cmake --preset sanitize -Dpybind11_DIR=$$($(BIN)/python -m pybind11 --cmakedir) \
	  -DPython_EXECUTABLE=$(CURDIR)/$(BIN)/python
	PATH="$(CURDIR)/$(BIN):$$PATH" cmake --build --preset sanitize
	rm -rf build/sanitize/site && mkdir -p build/sanitize/site
	cp -r nnsym_fast build/sanitize/site/ && cp build/sanitize/_cpu*.so build/sanitize/site/nnsym_fast/
	LD_PRELOAD="$$(g++ -print-file-name=libasan.so) $$(g++ -print-file-name=libstdc++.so)" \
	  ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 \
	  NNSYM_SITE=$$($(BIN)/python -c "import sysconfig; print(sysconfig.get_path('purelib'))") \
	  $(BIN)/python -S tools/sanitized.py

# The baseline unit compiles for 64-bit Arm (NEON): needs a cross compiler.
neon:
	mkdir -p build/neon
	for unit in isa dense wilson ode; do aarch64-linux-gnu-g++ -std=c++20 -O3 -Wall -Wextra -Werror -fPIC -fvisibility=hidden \
	  -fno-math-errno -fno-trapping-math -fno-exceptions -Wno-maybe-uninitialized -DNNSYM_ISA=baseline -c csrc/cpu/$$unit.cpp \
	  -o build/neon/$$unit.o || exit 1; done
	aarch64-linux-gnu-g++ -std=c++20 -O3 -Wall -Wextra -Werror -fPIC -c csrc/core/dispatch.cpp -o build/neon/dispatch.o
	aarch64-linux-gnu-nm --defined-only --extern-only build/neon/isa.o build/neon/dense.o build/neon/wilson.o build/neon/ode.o

clean:
	rm -rf $(VENV) build demo .benchmarks
