# make demo | test | lint | report | clean. Each makes .venv and installs first, if it must.
PYTHON ?= python3
RUN := .venv/bin/python
INSTALLED := .venv/.installed

.PHONY: demo test lint report clean

demo: $(INSTALLED)
	$(RUN) -m experiments.mnist_mislabel --preset smoke
	$(RUN) -m analysis --preset smoke --experiment mnist_mislabel
	@echo
	@echo "smoke verdicts are of other data than the papers': they tell that all runs, no more"
	@echo "open results/report/index.html in a browser: the most suspicious digits, and all numbers"

test: $(INSTALLED)
	$(RUN) -m pytest -n auto --maxprocesses 4 --dist loadfile

lint: $(INSTALLED)
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

report: $(INSTALLED)
	$(RUN) -m analysis

# Runs, which may have taken hours, and the environment are kept.
clean:
	rm -rf build *.egg-info .pytest_cache .mypy_cache .ruff_cache results/report
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +

$(INSTALLED): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "error: Retrace needs Python 3.11 or newer, but $(PYTHON) is" \
	       "'$$($(PYTHON) --version 2>&1)': name another one, as in make PYTHON=python3.12" >&2; \
	  exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "error: $(PYTHON) cannot make environments: install its venv package" \
	       "(apt-get install python3-venv), or name another one by make PYTHON=..." >&2; \
	  exit 1; }
	$(PYTHON) -m venv .venv
	@echo "installing into .venv; the first time takes minutes (PyTorch is large)"
	$(RUN) -m pip install -q -e '.[dev]'
	@touch $@
