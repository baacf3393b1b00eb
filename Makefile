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

# The paper's claims from scratch: hours; can be stopped and started again. Writes docs/reproduction.md.
reproduce: setup
	$(BIN)/python benchmarks/reproduce.py

# One policy for every speed with three seeds, against every rule, and the tables of docs/tuning.md: an hour or more.
seeds: setup
	$(BIN)/python benchmarks/tuning.py train --jobs 2
	$(BIN)/python benchmarks/tuning.py rules
	$(BIN)/python benchmarks/tuning.py show

# The dLLMs of the puzzles, policies for them with three seeds, rules, bounds, the mixture, and docs/leaderboard.md: about
# three hours. Can be stopped and started again.
puzzles: setup
	$(BIN)/python benchmarks/puzzles.py dllms --places lists nae-sat addition
	$(BIN)/python benchmarks/tuning.py train --studies lists nae-sat addition --jobs 2
	$(BIN)/python benchmarks/tuning.py rules --studies lists nae-sat addition
	$(BIN)/python benchmarks/puzzles.py mixture
	for table in bounds ceilings elsewhere; do $(BIN)/python benchmarks/puzzles.py $$table --places lists nae-sat addition; done
	$(BIN)/python benchmarks/overlap.py
	$(BIN)/python benchmarks/leaderboard.py

clean:
	rm -rf $(VENV) runs site build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
