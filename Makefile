# make demo: train on the handwritten digits, pictures in runs/demo.   make test: the tests.
# Both make .venv and install what they need.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install -qq -c constraints.txt
CPP_FILES := $(shell find csrc tests -name '*.h' -o -name '*.cpp' -o -name '*.cuh' -o -name '*.cu')
SOURCES := setup.py pyproject.toml constraints.txt fastlangevin/kernels/build.py $(shell find csrc -type f)

# Threads that wait sleep: where another program has a core too, spinning ones slow a training down tenfold.
export OMP_WAIT_POLICY ?= PASSIVE

.PHONY: demo test test-processors lint format bench bench-docs bench-quick clean

demo: $(VENV)/.demo
	$(BIN)/fastlangevin train digits --out runs/demo --resume

test: $(VENV)/.dev
	$(BIN)/python -m pytest -n auto --dist loadfile

test-processors: $(VENV)/.dev
	nice $(BIN)/python scripts/test_processors.py $(ARGS)

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
	@echo "setting up $(VENV): torch and what it needs (a minute or two)"
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

# One by one: a peer that cannot be installed is a row that says so.
$(VENV)/.peers: $(VENV)/.dev
	@for peer in $$($(BIN)/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["peers"])'); do \
	  $(PIP) $$peer || echo "$$peer could not be installed: the benchmarks will say so"; done
	@touch $@

clean:
	rm -rf build dist *.egg-info fastlangevin/_native $(VENV)/.demo $(VENV)/.dev $(VENV)/.peers
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis
