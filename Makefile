# SPDX-License-Identifier: MIT
# make demo | test | bench | lint | sanitize | sanitize-cuda | cuda | neon | train | clean. Everything lives in .venv and build.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# The CPU tests need no CUDA packages: one version, so that its CPU build can be provided.
TORCH := torch==2.13.0
SOURCES := pyproject.toml CMakeLists.txt $(wildcard csrc/*/* cmake/*)
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
CXX_FILES := $(filter-out csrc/emulation/cuda_runtime.h,$(wildcard csrc/*/*.h csrc/*/*.inl csrc/*/*.cpp csrc/*/*.cu csrc/*/*.cuh))
PY_DIRS := nnsym_fast tests benchmarks examples tools
# The CUDA kernels: compiled for the CPU, for the tests. CUDA=ON compiles them for a GPU too.
CUDA := OFF
DEFINE := --config-settings=cmake.define.
JOB_BUILD := $(DEFINE)NNSYM_CUDA=$(CUDA) $(DEFINE)NNSYM_EMULATION=OFF
DEV_BUILD := $(DEFINE)NNSYM_CUDA=$(CUDA) $(DEFINE)NNSYM_EMULATION=ON
# What a build with CUDA takes where no nvcc is installed.
NVCC_WHEELS := nvidia-cuda-nvcc==13.0.* nvidia-cuda-crt==13.0.* nvidia-nvvm==13.0.* nvidia-cuda-runtime==13.0.* nvidia-cuda-cccl==13.0.*

.PHONY: demo test bench lint format sanitize sanitize-cuda cuda neon train clean

$(VENV)/venv.stamp:
	$(PYTHON) -m venv $(VENV)
	touch $@

# The package with what the job needs; with what the tests need, the job's included; and, on top, the benchmarks'.
$(VENV)/job.stamp: $(VENV)/venv.stamp $(SOURCES)
	$(PIP) install $(JOB_BUILD) --editable ".[job]"
	touch $@

$(VENV)/dev.stamp: $(VENV)/venv.stamp $(SOURCES)
	$(PIP) install $(TORCH)
	$(PIP) install $(DEV_BUILD) --editable ".[dev]"
	touch $(VENV)/job.stamp $@

$(VENV)/bench.stamp: $(VENV)/dev.stamp
	$(PIP) install $(DEV_BUILD) --editable ".[dev,bench]"
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

# The kernel tests against a build with the address and undefined-behaviour sanitizers: those of the CPU, and, apart, as
# they take long, those of the CUDA kernels in their emulation. -S: without the site's own (editable) copy of the package.
SANITIZED := LD_PRELOAD="$$(g++ -print-file-name=libasan.so) $$(g++ -print-file-name=libstdc++.so)" \
  ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 \
  NNSYM_SITE=$$($(BIN)/python -c "import sysconfig; print(sysconfig.get_path('purelib'))") $(BIN)/python -S tools/sanitized.py

sanitize sanitize-cuda: $(VENV)/dev.stamp
	PATH="$(CURDIR)/$(BIN):$$PATH" cmake --preset sanitize -Dpybind11_DIR=$$($(BIN)/python -m pybind11 --cmakedir) \
	  -DPython_EXECUTABLE=$(CURDIR)/$(BIN)/python -DNNSYM_EMULATION=$(if $(filter sanitize-cuda,$@),ON,OFF)
	PATH="$(CURDIR)/$(BIN):$$PATH" cmake --build --preset sanitize
	rm -rf build/sanitize/site && mkdir -p build/sanitize/site
	cp -r nnsym_fast build/sanitize/site/ && rm -f build/sanitize/site/nnsym_fast/*.so
	cp build/sanitize/_cpu*.so $(if $(filter sanitize-cuda,$@),build/sanitize/csrc/emulation/_cuda_emulated*.so) \
	  build/sanitize/site/nnsym_fast/
	$(SANITIZED) $(if $(filter sanitize-cuda,$@),cuda,cpu)

# The CUDA kernels compile for every architecture, without warnings, and without spills where that is promised; the
# module loads. Needs no GPU; takes nvcc from PyPI where there is none.
$(VENV)/nvcc.stamp: $(VENV)/dev.stamp
	[ -n "$$CUDACXX" ] || command -v nvcc || [ -x /usr/local/cuda/bin/nvcc ] || $(PIP) install $(NVCC_WHEELS)
	touch $@

cuda: $(VENV)/nvcc.stamp
	PATH="$(CURDIR)/$(BIN):$$PATH" cmake --preset cuda -Dpybind11_DIR=$$($(BIN)/python -m pybind11 --cmakedir) \
	  -DPython_EXECUTABLE=$(CURDIR)/$(BIN)/python
	PATH="$(CURDIR)/$(BIN):$$PATH" cmake --build --preset cuda
	cat $(patsubst csrc/cuda/%,build/cuda/csrc/cuda/CMakeFiles/nnsym_cuda_kernels.dir/%.o.log,$(wildcard csrc/cuda/*.cu)) \
	  > build/cuda/ptxas.log
	$(BIN)/python tools/ptxas.py build/cuda/ptxas.log
	NNSYM_CUDA_MODULE=$$(echo build/cuda/csrc/cuda/_cuda*.so) $(BIN)/pytest tests/test_cuda_build.py

# The baseline unit compiles for 64-bit Arm (NEON): needs a cross compiler.
neon:
	mkdir -p build/neon
	for unit in isa dense wilson ode phi4; do aarch64-linux-gnu-g++ -std=c++20 -O3 -Wall -Wextra -Werror -fPIC -fvisibility=hidden \
	  -fno-math-errno -fno-trapping-math -fno-exceptions -Wno-maybe-uninitialized -DNNSYM_ISA=baseline -c csrc/cpu/$$unit.cpp \
	  -o build/neon/$$unit.o || exit 1; done
	aarch64-linux-gnu-g++ -std=c++20 -O3 -Wall -Wextra -Werror -fPIC -c csrc/core/dispatch.cpp -o build/neon/dispatch.o
	aarch64-linux-gnu-nm --defined-only --extern-only build/neon/isa.o build/neon/dense.o build/neon/wilson.o build/neon/ode.o build/neon/phi4.o

clean:
	rm -rf $(VENV) build demo .benchmarks
