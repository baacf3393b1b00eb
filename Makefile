# Set up with plain venv and pip, then train, compare and test. `make demo` and `make test` are all one needs.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
export HF_HUB_OFFLINE ?= 1

.PHONY: setup demo test test-slow lint types floors docs seeds puzzles reproduce clean

setup: $(VENV)/.ready

# torch first and exactly as pinned: any other choice may pull gigabytes of CUDA packages.
$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,docs,plot]'
	touch $@

demo: setup
	$(BIN)/unmask quickstart

# As many at once as there are cores.
test: setup
	$(BIN)/python -m pytest -n auto --dist worksteal

test-slow: setup
	$(BIN)/python -m pytest -m slow

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/mypy

floors: setup
	$(BIN)/lint-imports

# The site, into site/. Without --quiet, which would hide that it is strict.
docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# Everything that is claimed, from scratch, in ten hours on two cores; `benchmarks/everything.py --times` says what they
# were. Can be stopped and started again. Writes docs/reproduction.md and docs/leaderboard.md, and tables into
# runs/everything.
reproduce: setup
	$(BIN)/python benchmarks/everything.py

# Of it: one policy for every speed with three seeds, against every rule.
seeds: setup
	$(BIN)/python benchmarks/everything.py --parts seeds

# Of it: the dLLMs of the puzzles, policies for them with three seeds, rules, bounds, the mixture, claims.
puzzles: setup
	$(BIN)/python benchmarks/everything.py --parts puzzles

clean:
	rm -rf $(VENV) runs site build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
