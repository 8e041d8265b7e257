# make train, make test: everything they need is installed into .venv first.
# make lint checks types in a project whose requirements-dev.txt names pyright.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: train test lint format docs clean

train: .venv/installed
	$(BIN)/python train.py -c config.json

test: .venv/installed-dev
	$(BIN)/python -m pytest

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@! grep -q '^pyright' requirements-dev.txt || { echo $(BIN)/pyright; $(BIN)/pyright; }

format: .venv/installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: .venv/installed
	$(BIN)/python -m utils.config.docs

ifneq ($(wildcard docs/readme_pictures.py),)  # in the template alone
.PHONY: pictures results test-spawn test-lowest
pictures: .venv/installed-dev
	$(BIN)/python docs/readme_pictures.py $(RUN)

results: .venv/installed
	$(BIN)/python docs/results.py $(ROW) $(SEEDS)

test-spawn: START_METHOD ?= spawn
test-spawn: .venv/installed-dev  # with spawned worker processes, as on macOS and Windows; forkserver: as Python 3.14
	START_METHOD=$(START_METHOD) PYTHONPATH=tests/start_method $(BIN)/python -m pytest $(TESTS)

test-lowest: .venv-lowest/installed  # with the lowest versions that the requirements allow, which warn of newer ones
	.venv-lowest/bin/python -m pytest -W default $(TESTS)

.venv-lowest/installed: requirements.txt requirements-dev.txt
	$(PYTHON) -m venv .venv-lowest
	sed -e '/^-r/d' -e 's/>=/==/' requirements.txt requirements-dev.txt > .venv-lowest/requirements.txt
	.venv-lowest/bin/python -m pip install -q -r .venv-lowest/requirements.txt
	@touch $@
endif

clean:
	rm -rf .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed: make PYTHON=python3.12" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv .venv

.venv/installed: requirements.txt constraints.txt | .venv/bin/python
	$(BIN)/python -m pip install -q -r requirements.txt -c constraints.txt
	@touch $@

.venv/installed-dev: requirements-dev.txt .venv/installed
	$(BIN)/python -m pip install -q -r requirements-dev.txt -c constraints.txt
	@touch $@
