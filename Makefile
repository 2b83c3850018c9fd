# Each target makes or reuses .venv and says what it does. Try: make demo
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DOCS_STAMP := $(VENV)/.installed-docs

.PHONY: help demo test check lint types reproduce docs clean
.DEFAULT_GOAL := help

help:
	@echo "make demo       render a clip, ask five questions about it, name the files to open"
	@echo "make test       run the tests, without network"
	@echo "make check      lint, types, tests, and the headline claims in miniature (quick)"
	@echo "make docs       build the pages of docs/ into site/"
	@echo "make clean      remove .venv and what was built"

$(STAMP): pyproject.toml constraints.txt
	@echo "==> installing diorama into $(VENV) (once; again only if pyproject.toml or constraints.txt change)"
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 11) else \
	  f"diorama needs Python 3.11 or newer; $(PYTHON) is {v[0]}.{v[1]}. Type: make PYTHON=python3.11 ...")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	@$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[agents,mcp]' --group dev
	@touch $@

$(DOCS_STAMP): $(STAMP)
	@echo "==> installing the tool that builds the pages into $(VENV)"
	@$(BIN)/python -m pip install --quiet -c constraints.txt --group docs
	@touch $@

demo: $(STAMP)
	@echo "==> the demo: a clip from the world, five questions about it, the answers beside the truth"
	@$(BIN)/diorama demo

test: $(STAMP)
	@echo "==> the tests, without network"
	@HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -W error

lint: $(STAMP)
	@echo "==> ruff"
	@$(BIN)/ruff check .

types: $(STAMP)
	@echo "==> mypy"
	@$(BIN)/mypy

reproduce: $(STAMP)
	@echo "==> the headline claims in miniature, quick"
	@HF_HUB_OFFLINE=1 $(BIN)/diorama reproduce --quick

check: lint types test reproduce

docs: $(DOCS_STAMP)
	@echo "==> the pages of docs/, into site/"
	@$(BIN)/zensical build --clean --strict
	@echo "open site/index.html"

clean:
	@echo "==> removing $(VENV) and what was built"
	@rm -rf $(VENV) site dist build .mypy_cache .ruff_cache .pytest_cache
