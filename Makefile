# Each target does all that it needs, on a fresh clone too.
PYTHON ?= python3.11
BIN := .venv/bin

INSTALL = command -v $(PYTHON) >/dev/null || { echo "stackserve: $(PYTHON) is not installed; it needs Python 3.11" >&2; exit 1; }; $(PYTHON) requirements/install.py

.PHONY: demo zoo test lint adapters clean

demo: ## serve the demo, ask its five models, keep serving (ONCE=1: exit after the answers)
	@$(INSTALL)
	@$(BIN)/stackserve demo $(if $(ONCE),--once)

zoo: ## make small models of five frameworks and 500 tenants, and serve them beside the demo
	@$(INSTALL) --runtimes
	@file=$$($(BIN)/python -m stackserve.demo.zoo) && exec $(BIN)/stackserve serve "$$file"

test: ## every test, real engines included
	@$(INSTALL) --dev
	@$(BIN)/python -m pytest

lint: ## ruff, mypy, import-linter
	@$(INSTALL) --dev
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy && $(BIN)/lint-imports

adapters: ## train the demo's four adapters again
	@$(INSTALL)
	@$(BIN)/python -m stackserve.demo.train

clean: ## remove the virtual environment
	rm -rf .venv
