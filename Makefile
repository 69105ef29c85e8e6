# make demo: train on the handwritten digits, pictures in runs/demo.   make test: the tests.
# Both create .venv and install their dependencies.
# make test-thorough: with the cases that make test leaves out for the time that they take.
# make test-newest: the tests with the newest torch, in .venv-newest (5.5 GB).
# make test-cuda-build: what a CUDA build of torch shows without a GPU, in .venv-newest.
# make test-triton36: all Triton kernels compiled by Triton 3.6, which CUDA builds of torch 2.11 bring, for six GPUs.
# make test-processors: the tests with older instruction sets in torch's libraries.
# make test-sanitizers: the tests of the native kernels under AddressSanitizer and UndefinedBehaviorSanitizer.
# make test-arm: the CPU kernels for ARM64, cross-compiled and run under qemu (Debian's g++-aarch64-linux-gnu, qemu-user-static).
# make wheel: a wheel with the CPU kernels and an sdist in dist/, audited.   make test-wheel: installed and run without a
# compiler, by every Python of TEST_PYTHONS.
# make docs: the site in site/, built by .venv-docs without the network.   make docs-serve: the same on http://127.0.0.1:8000.
# make test-campaign: 20,000 random graphs through every engine; a training that is killed 50 times and resumed, and one
# on three ranks, 20 times.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := -m pip --disable-pip-version-check install -qq
PIP := $(BIN)/python $(INSTALL) -c constraints.txt
TEST_PYTHONS ?= $(PYTHON)
NEWEST := .venv-newest
TRITON36 := .venv-triton36
DOCS := .venv-docs
CPP_FILES := $(shell find csrc tests -name '*.h' -o -name '*.cpp' -o -name '*.cuh' -o -name '*.cu')
SOURCES := setup.py pyproject.toml constraints.txt fastlangevin/kernels/build.py $(shell find csrc -type f)

# File by file, in the order of tests/conftest.py.
IN_PARALLEL := -n auto --dist loadfile --no-loadscope-reorder

# Waiting threads sleep. If another program uses a core, spinning threads make training ten times slower. Not so in
# benchmarks, whose eager loops are up to half as fast if threads sleep.
TESTS := test test-thorough test-newest test-cuda-build test-triton36 test-processors test-sanitizers test-arm test-campaign
demo $(TESTS): export OMP_WAIT_POLICY ?= PASSIVE

.PHONY: demo $(TESTS) wheel test-wheel docs docs-serve lint format bench bench-docs bench-family bench-quick clean

demo: $(VENV)/.demo
	$(BIN)/fastlangevin train digits --out runs/demo --resume

test: $(VENV)/.dev
	$(BIN)/python -m pytest $(IN_PARALLEL)

test-thorough: $(VENV)/.dev
	THOROUGH=1 $(BIN)/python -m pytest $(IN_PARALLEL)

test-newest: $(NEWEST)/.dev
	$(NEWEST)/bin/python -m pytest $(IN_PARALLEL)

test-cuda-build: $(NEWEST)/.cuda-build
	$(NEWEST)/bin/python -m pytest -m cuda_build

test-triton36: $(VENV)/.dev $(TRITON36)/triton
	THOROUGH=1 PYTHONPATH=$(TRITON36) $(BIN)/python -m pytest -m ahead_of_time tests/kernels/triton

test-processors: $(VENV)/.dev
	nice $(BIN)/python scripts/test_processors.py $(ARGS)

test-sanitizers: $(VENV)/.dev
	nice $(BIN)/python scripts/test_sanitizers.py $(ARGS)

test-arm: $(VENV)/.dev
	TEST_ARM64=1 nice $(BIN)/python -m pytest tests/kernels/cpu/test_arm64.py $(ARGS)

test-campaign: $(VENV)/.dev
	RANDOM_GRAPHS=$${RANDOM_GRAPHS:-20000} nice $(BIN)/python -m pytest tests/score/test_random_graphs.py
	nice $(BIN)/python scripts/kill_campaign.py $(ARGS)
	nice $(BIN)/python scripts/kill_campaign.py --ranks 3 --times 20

# FASTLANGEVIN_CUDA=1 includes the CUDA kernels, which need the glibc of the machine that builds them.
wheel: $(VENV)/.release
	rm -rf dist build
	FASTLANGEVIN_CUDA=$${FASTLANGEVIN_CUDA:-0} $(BIN)/python -m build --no-isolation --outdir dist .
	$(BIN)/python scripts/audit_wheel.py dist/*.whl

test-wheel: wheel
	@for python in $(TEST_PYTHONS); do scripts/test_wheel $$python dist/*.whl || exit 1; done

docs: $(DOCS)/.docs
	NO_MKDOCS_2_WARNING=1 PATH=$(CURDIR)/$(DOCS)/bin:$$PATH $(DOCS)/bin/mkdocs build --strict

docs-serve: $(DOCS)/.docs
	NO_MKDOCS_2_WARNING=1 PATH=$(CURDIR)/$(DOCS)/bin:$$PATH $(DOCS)/bin/mkdocs serve --strict

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror $(CPP_FILES)

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CPP_FILES)

bench: $(VENV)/.peers
	mkdir -p .benchmarks
	$(BIN)/python -m pytest benchmarks/ --benchmark-only --benchmark-json=.benchmarks/latest.json
	$(BIN)/python benchmarks/report.py .benchmarks/latest.json --out .benchmarks/report

# The family of samplers alone, about four minutes: its results join the committed ones.
bench-family: $(VENV)/.peers
	mkdir -p .benchmarks
	$(BIN)/python -m pytest benchmarks/bench_family.py --benchmark-only --benchmark-json=.benchmarks/family.json
	cp .benchmarks/family.json benchmarks/results/cpu-family.json
	$(BIN)/python benchmarks/report.py

bench-docs: $(VENV)/.dev
	rm -f benchmarks/results/cpu*.json
	cp .benchmarks/latest.json benchmarks/results/cpu.json
	$(BIN)/python benchmarks/report.py
	$(BIN)/python scripts/draw_speed.py

bench-quick: $(VENV)/.dev
	$(BIN)/python benchmarks/guard.py

$(VENV)/.torch: constraints.txt
	@echo "setting up $(VENV): torch and its dependencies (a minute or two)"
	$(PYTHON) -m venv $(VENV)
	$(PIP) --upgrade pip setuptools
	$(PIP) torch numpy ninja
	@touch $@

$(VENV)/.demo: $(VENV)/.torch $(SOURCES)
	@echo "installing fastlangevin and building its native kernels"
	$(PIP) --no-build-isolation -e '.[plots]'
	@touch $@

$(VENV)/.dev: $(VENV)/.torch $(SOURCES)
	@echo "installing fastlangevin with its test tools and building its native kernels"
	$(PIP) --no-build-isolation -e '.[dev]'
	@touch $@ $(VENV)/.demo

# The tools alone: the package itself is built and installed by nothing but the wheel's own build.
$(VENV)/.release: $(VENV)/.torch pyproject.toml
	$(PIP) $$($(BIN)/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["release"])')
	@touch $@

# The other packages are those of constraints.txt; triton is the one that this torch asks for.
$(NEWEST)/.torch: constraints.txt constraints-newest.txt
	@echo "setting up $(NEWEST): a CUDA build of torch, of 5.5 GB"
	$(PYTHON) -m venv $(NEWEST)
	grep -v '^torch==' constraints.txt | cat - constraints-newest.txt > $(NEWEST)/constraints.txt
	$(NEWEST)/bin/python $(INSTALL) -c $(NEWEST)/constraints.txt --upgrade pip setuptools
	$(NEWEST)/bin/python $(INSTALL) -c $(NEWEST)/constraints.txt torch torchvision numpy ninja
	@touch $@

$(NEWEST)/.dev: $(NEWEST)/.torch $(SOURCES)
	$(NEWEST)/bin/python $(INSTALL) -c $(NEWEST)/constraints.txt --no-build-isolation -e '.[dev]'
	@touch $@

# What reads LSUN's format, and Inception's architecture.
$(NEWEST)/.cuda-build: $(NEWEST)/.dev
	$(NEWEST)/bin/python $(INSTALL) -c $(NEWEST)/constraints.txt lmdb torch-fidelity
	@touch $@

# Compiling needs no CUDA build of torch: this Triton takes the place of the other on the path.
$(TRITON36)/triton: $(VENV)/.dev
	$(PIP) --no-deps --upgrade --target $(TRITON36) triton==3.6.0
	@touch $@

# One by one: a peer that cannot be installed is reported in its row of the results.
$(VENV)/.peers: $(VENV)/.dev
	@for peer in $$($(BIN)/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["peers"])'); do \
	  $(PIP) $$peer || echo "$$peer could not be installed: the benchmarks will report it"; done
	@touch $@

# The tools alone: the pages are made from the sources, without importing them.
$(DOCS)/.docs: pyproject.toml constraints.txt
	@echo "setting up $(DOCS): mkdocs and its extensions"
	$(PYTHON) -m venv $(DOCS)
	$(DOCS)/bin/python $(INSTALL) -c constraints.txt $$($(PYTHON) -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["docs"])')
	@touch $@

clean:
	rm -rf build dist site *.egg-info fastlangevin/_native $(VENV)/.demo $(VENV)/.dev $(VENV)/.peers $(NEWEST)/.dev $(NEWEST)/.cuda-build
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis
