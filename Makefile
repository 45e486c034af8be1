# make demo | test | lint | report | clean. Each first makes .venv and installs, if needed.
PYTHON ?= python3
RUN := .venv/bin/python
INSTALLED := .venv/.installed

.PHONY: demo test lint report clean

demo: $(INSTALLED)
	$(RUN) -m experiments.mnist_mislabel --preset smoke
	$(RUN) -m analysis --preset smoke --experiment mnist_mislabel
	@echo
	@echo "smoke uses other data than the papers: its verdicts only show that the pipeline runs"
	@echo "open results/report/index.html in a browser: the most suspicious digits, and all numbers"

test: $(INSTALLED)
	$(RUN) -m pytest -n auto --maxprocesses 4 --dist loadfile

lint: $(INSTALLED)
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

report: $(INSTALLED)
	$(RUN) -m analysis

# Keeps the environment, and the runs, which may have taken hours.
clean:
	rm -rf build *.egg-info .pytest_cache .mypy_cache .ruff_cache results/report
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +

$(INSTALLED): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "error: Retrace needs Python 3.11 or newer, but $(PYTHON) is" \
	       "'$$($(PYTHON) --version 2>&1)': choose another one, as in make PYTHON=python3.12" >&2; \
	  exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "error: $(PYTHON) cannot make environments: install its venv package" \
	       "(apt-get install python3-venv), or choose another one by make PYTHON=..." >&2; \
	  exit 1; }
	$(PYTHON) -m venv .venv
	@echo "installing into .venv; the first time takes minutes (PyTorch is large)"
	$(RUN) -m pip install -q -e '.[dev]'
	@touch $@
