# make demo | test | lint | bench | accuracy | fixtures | man | lock | clean; everything happens in .venv and build/

PYTHON ?= python3
FIXTURE ?= fixtures/seed_documents-0001
# its application never calls accept()
DEMO_FLAGS ?=
BENCH_FLAGS ?=
BIN := .venv/bin
# Python compiles what it imports; compiling all of it first takes as long as everything else.
PIP_FLAGS := --quiet --disable-pip-version-check --no-compile

.PHONY: demo test lint bench accuracy fixtures man lock clean

demo: .venv/stamp
	$(BIN)/backlogtrace analyze $(DEMO_FLAGS) --host $(FIXTURE)/host.json $(wildcard $(FIXTURE)/capture.*)

test: .venv/stamp
	@tools/ensure tshark='command -v tshark' wireshark-common='command -v editcap' \
	    zstd='command -v zstd' lz4='command -v lz4'
	$(BIN)/pytest -n auto

lint: .venv/stamp
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

bench: .venv/stamp
	$(BIN)/python bench/run.py $(BENCH_FLAGS)

# RECORDINGS: a directory of recordings in the ground-truth layout, or of their archives
accuracy: .venv/stamp
	$(BIN)/python bench/accuracy.py $(RECORDINGS)

fixtures: .venv/stamp
	$(BIN)/python fixtures/make.py
	$(BIN)/backlogtrace check --update

# The manual page, from the texts of --help
man: .venv/stamp
	$(BIN)/python tools/manpage.py man/backlogtrace.1

# Needs uv. The lock names versions and hashes, no place to download from: that is for pip's settings.
lock:
	uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 --upgrade --generate-hashes \
	    --no-emit-index-url --no-emit-find-links --custom-compile-command 'make lock' --output-file requirements.lock

.venv/stamp: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	    || { echo 'Python 3.11 or later is needed; name it: make PYTHON=/path/to/python3' >&2; exit 1; }
	@tools/ensure python3-venv='$(PYTHON) -c "import ensurepip, venv"'
	$(PYTHON) -m venv --clear .venv
	$(BIN)/pip install $(PIP_FLAGS) --require-hashes --requirement requirements.lock
	$(BIN)/pip install $(PIP_FLAGS) --no-deps --no-build-isolation --editable .
	@touch $@

clean:
	rm -rf .venv build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
