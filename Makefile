# Every target sets up what it needs in .venv; a second run reuses it. These are the CI jobs.
#
#   make demo       the main job on the reference pair: artifact and report in runs/demo
#   make test       all tests, and all notebooks
#   make check      ruff, formatting, pyright, import arrows, dependencies, spelling
#   make bench      benchmarks, written to docs/benchmarks.md
#   make reference  the reference pair, made ready and checked
#   make mutate     how many small changes of the mathematics the tests notice (hours; not in CI)
#
# torch comes first and pinned by constraints.txt. Without a CUDA device the CPU build is wanted: where
# pip would pick a CUDA build, point TORCH_ARGS at PyTorch's CPU wheels, for example
#   make demo TORCH_ARGS="--index-url <PyTorch's CPU index>"

PYTHON ?= python3
TORCH_ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
STAMPS := $(VENV)/.stamps
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet
TORCH := $(shell sed -n 's/^\(torch==.*\)$$/\1/p' constraints.txt)
HAS_CUDA := $(shell command -v nvidia-smi >/dev/null 2>&1 && nvidia-smi -L 2>/dev/null | head -1)
PINS := pyproject.toml constraints.txt requirements-reference.txt requirements-judges.txt

.PHONY: demo test check bench reference mutate clean

demo: $(STAMPS)/run
	$(BIN)/python -m benchmarks.demo

# A process a core, one thread each: faster than one process on all cores. A file stays in one process.
# nbmake runs each notebook in a kernel of its own; they come first, since the longest should not end it.
test: $(STAMPS)/dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile \
		--no-loadscope-reorder --nbmake --nbmake-timeout 300 $(ARGS)

check: $(STAMPS)/dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright
	$(BIN)/lint-imports
	$(BIN)/deptry .
	$(BIN)/codespell

bench: $(STAMPS)/dev
	$(BIN)/python -m benchmarks.run

reference: $(STAMPS)/run
	$(BIN)/python -m training.reference

mutate: $(STAMPS)/dev
	$(PIP) --constraint constraints.txt --editable ".[mutate]"
	OMP_NUM_THREADS=1 $(BIN)/mutmut run --max-children 2 $(ARGS)
	$(BIN)/mutmut export-cicd-stats

clean:
	rm -rf $(VENV) build dist *.egg-info

$(STAMPS)/run: $(PINS)
	$(PYTHON) -m venv $(VENV)
	$(if $(HAS_CUDA),@echo "CUDA device found: torch with CUDA is welcome",@echo "no CUDA device: torch for the CPU")
	$(PIP) $(if $(HAS_CUDA),,$(TORCH_ARGS)) "$(TORCH)"
	$(PIP) --constraint constraints.txt --editable .
	$(PIP) --no-deps --require-hashes --requirement requirements-reference.txt
	$(PIP) --no-deps --require-hashes --requirement requirements-judges.txt
	@mkdir -p $(STAMPS) && touch $@

$(STAMPS)/dev: $(STAMPS)/run
	$(PIP) --constraint constraints.txt --editable ".[dev]"
	@touch $@
