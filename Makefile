# make demo: train on the handwritten digits, pictures in runs/demo.   make test: the tests.
# Both create .venv and install their dependencies.
# make test-newest: the tests with the newest torch, in .venv-newest (5.5 GB).
# make test-cuda-build: what a CUDA build of torch shows without a GPU, in .venv-newest.
# make test-triton36: all Triton kernels compiled by Triton 3.6, which CUDA builds of torch 2.11 bring, for six GPUs.
# make test-processors: the tests with older instruction sets in torch's libraries.
# make test-sanitizers: the tests of the native kernels under AddressSanitizer and UndefinedBehaviorSanitizer.
# make test-campaign: 20,000 random graphs through every engine; a training that is killed 50 times and resumed, and one
# on three ranks, 20 times.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := -m pip --disable-pip-version-check install -qq
PIP := $(BIN)/python $(INSTALL) -c constraints.txt
NEWEST := .venv-newest
TRITON36 := .venv-triton36
CPP_FILES := $(shell find csrc tests -name '*.h' -o -name '*.cpp' -o -name '*.cuh' -o -name '*.cu')
SOURCES := setup.py pyproject.toml constraints.txt fastlangevin/kernels/build.py $(shell find csrc -type f)

# Waiting threads sleep. If another program uses a core, spinning threads make training ten times slower.
export OMP_WAIT_POLICY ?= PASSIVE

.PHONY: demo test test-newest test-cuda-build test-triton36 test-processors test-sanitizers test-campaign lint format bench bench-docs bench-quick clean

demo: $(VENV)/.demo
	$(BIN)/fastlangevin train digits --out runs/demo --resume

test: $(VENV)/.dev
	$(BIN)/python -m pytest -n auto --dist loadfile

test-newest: $(NEWEST)/.dev
	$(NEWEST)/bin/python -m pytest -n auto --dist loadfile

test-cuda-build: $(NEWEST)/.cuda-build
	$(NEWEST)/bin/python -m pytest -m cuda_build

test-triton36: $(VENV)/.dev $(TRITON36)/triton
	AHEAD_OF_TIME=all PYTHONPATH=$(TRITON36) $(BIN)/python -m pytest -m ahead_of_time tests/kernels/triton

test-processors: $(VENV)/.dev
	nice $(BIN)/python scripts/test_processors.py $(ARGS)

test-sanitizers: $(VENV)/.dev
	nice $(BIN)/python scripts/test_sanitizers.py $(ARGS)

test-campaign: $(VENV)/.dev
	RANDOM_GRAPHS=$${RANDOM_GRAPHS:-20000} nice $(BIN)/python -m pytest tests/score/test_random_graphs.py
	nice $(BIN)/python scripts/kill_campaign.py $(ARGS)
	nice $(BIN)/python scripts/kill_campaign.py --ranks 3 --times 20

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

bench-docs: $(VENV)/.dev
	rm -f benchmarks/results/cpu*.json
	cp .benchmarks/latest.json benchmarks/results/cpu.json
	$(BIN)/python benchmarks/report.py

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

clean:
	rm -rf build dist *.egg-info fastlangevin/_native $(VENV)/.demo $(VENV)/.dev $(VENV)/.peers $(NEWEST)/.dev $(NEWEST)/.cuda-build
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis
