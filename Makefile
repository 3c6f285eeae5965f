# Everything runs in .venv, which is made once: it needs Python >= 3.11, git and make, and nothing else installed.
VENV := .venv
PY := $(VENV)/bin/python
INSTALLED := $(VENV)/installed
PYTHONS := $(PYTHON) python3.13 python3.12 python3.11 python3 python
USABLE := import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))

.PHONY: help demo examples test lint clean

help:
	@echo "make demo       train tiny models, calibrate, evolve a merge and confirm it (2 to 4 minutes; less the next time)"
	@echo "make examples   search like each published system, on the demo's models (about 8 minutes)"
	@echo "make test       run the tests"
	@echo "make lint       check style and types"
	@echo "make clean      remove .venv and what the demo and the tests left"

demo: $(INSTALLED)
	@$(PY) examples/quickstart/demo.py

examples: $(INSTALLED)
	@$(PY) examples/systems/run.py

test: $(INSTALLED)
	@$(PY) -m pytest --numprocesses logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder

lint: $(INSTALLED)
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m mypy

clean:
	rm -rf $(VENV) demo-out build dist .pytest_cache .ruff_cache .mypy_cache

# Interrupted, it starts again where it was; a change of what is depended on installs again.
$(INSTALLED): pyproject.toml constraints.txt merge3_autoload.py merge3_autoload.pth
	@if ! $(PY) -m pip --version >/dev/null 2>&1; then \
	  for python in $(PYTHONS); do \
	    if $$python -c '$(USABLE)' 2>/dev/null; then found=$$python; break; fi; \
	  done; \
	  if [ -z "$$found" ]; then \
	    echo "make: expected Python >= 3.11 with its venv module, looked for: $(strip $(PYTHONS));" \
	      "install one (Debian: apt install python3-venv) or say make PYTHON=/path/to/python" >&2; \
	    exit 2; \
	  fi; \
	  echo "make: $(VENV) with $$($$found --version) ($$found)"; \
	  $$found -m venv $(VENV); \
	fi
	@echo "make: installing the package and the tested set of its dependencies (once; 2 to 10 minutes, 3 GB on the disk)"
	@$(PY) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@
