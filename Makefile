# Everything runs in .venv, which these targets make.
PYTHON ?= python3
BIN := .venv/bin
# The older of the SDKs of RunPod that the tests run: beside the newer one, with whose dependencies it does.
OLD_RUNPOD := 1.7.13

.PHONY: demo test fuzz lint format bench scaling wrk clean

demo: .venv/.dev
	@$(BIN)/runlane demo

test: .venv/.test
	$(BIN)/pytest -n 2 --dist loadfile

fuzz: .venv/.test
	$(BIN)/python -m tests.fuzz --requests 100000 --seconds 600

lint: .venv/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: .venv/.test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: .venv/.test .venv/.rivals wrk
	@command -v redis-benchmark >/dev/null || command -v valkey-benchmark >/dev/null || { \
		echo "bench needs redis-benchmark: apt-get install redis-tools"; exit 1; }
	$(BIN)/python -m loadtest.bench $(if $(BASE),--base $(BASE))

scaling: .venv/.test wrk
	$(BIN)/python -m loadtest.bench.scaling

wrk:
	@command -v wrk >/dev/null || { echo "this needs wrk: apt-get install wrk"; exit 1; }

clean:
	rm -rf .venv .runlane build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

.venv/bin/python:
	@echo "making .venv"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "runlane needs Python 3.11 or newer; set PYTHON="; exit 1; }
	@$(PYTHON) -m venv .venv || { rm -rf .venv; echo "cannot make a virtual environment: apt-get install python3-venv"; exit 1; }

.venv/.dev: .venv/bin/python pyproject.toml
	@echo "installing runlane and what it needs"
	@$(BIN)/pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@

.venv/.test: .venv/bin/python pyproject.toml
	@echo "installing runlane, what it needs and the tools for its tests (a minute or two)"
	@$(BIN)/pip install --quiet --disable-pip-version-check -e '.[test]'
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --upgrade \
		--target .venv/runpod-$(OLD_RUNPOD) runpod==$(OLD_RUNPOD)
	@touch $@ .venv/.dev

.venv/.rivals: .venv/bin/python loadtest/bench/rivals/table.py
	@echo "installing the libraries that runlane is measured against (a minute or two)"
	@$(BIN)/python -m loadtest.bench.rivals.install
	@touch $@
