# make demo       a virtual environment, the package, and a tour of three seconds
# make test       the checks below and all tests
# make check      ruff, ruff format, mypy
# make test-all   the same under every Python that we promise
# make chaos      programs at work while processes are killed; ASYNCRAY_CHAOS_SECONDS (60), ASYNCRAY_CHAOS_SEED
# make soak       the same work for minutes, and nothing may grow; ASYNCRAY_SOAK_SECONDS (120)
# make netns      a cluster whose nodes have networks of their own; needs root and the command ip
# make sim        the simulation of a cluster from many seeds; SEEDS (20000), FIRST_SEED (0)
# make model      the model of references between nodes, in all states; NODES (3), TASKS (3), MODEL_ARGS ("--losses 1")
# make bench      asyncray's microbenchmark
# make clean      take away what the others made
#
# PYTHON=/path/to/python3.12 names the interpreter, VENV=dir the environment, PYTEST_ARGS="-x -k wait" the arguments of
# pytest, JOBS=4 how many tests run at a time (2; 0: all of them in pytest's own process, for --pdb).

SHELL := bash
VENV ?= .venv
PYTHON ?=
PYTEST_ARGS ?=
JOBS ?= 2
SEEDS ?= 20000
NODES ?= 3
TASKS ?= 3
MODEL_ARGS ?=
FIRST_SEED ?= 0
VERSIONS := 3.11 3.12 3.13
SOURCES := asyncray tests examples
BIN := $(VENV)/bin
# -qq drops what pip only wants to mention and keeps what failed.
PIP := $(BIN)/python -m pip -qq --no-input --disable-pip-version-check

.PHONY: demo test check pytest test-all chaos soak netns sim model bench clean

demo: $(VENV)/.installed
	@$(BIN)/python examples/quickstart.py </dev/null

test: check pytest

check: $(VENV)/.installed-test
	@$(BIN)/ruff check $(SOURCES)
	@$(BIN)/ruff format --check $(SOURCES)
	@$(BIN)/mypy --python-version $$($(BIN)/python -c 'import sys; print("%d.%d" % sys.version_info[:2])')

pytest: $(VENV)/.installed-test
	@$(BIN)/python -m pytest -n $(JOBS) --dist worksteal $(PYTEST_ARGS) </dev/null

test-all:
	@failed=; \
	for version in $(VERSIONS); do \
		wanted=$$version; $(find_python); \
		if [ -z "$$python" ]; then \
			echo "== Python $$version: NOT FOUND, NOT TESTED" >&2; failed="$$failed $$version (missing)"; \
		else \
			echo "== Python $$version: $$python"; \
			$(MAKE) --no-print-directory test VENV=.venv-$$version PYTHON="$$python" || failed="$$failed $$version"; \
		fi; \
	done; \
	if [ -n "$$failed" ]; then echo "test-all failed for Python$$failed" >&2; exit 1; fi

chaos soak: $(VENV)/.installed-test
	@$(BIN)/python -m pytest -s -m $@ tests/system/test_$@.py $(PYTEST_ARGS) </dev/null

netns: $(VENV)/.installed-test
	@$(BIN)/python -m pytest -m netns tests/netns $(PYTEST_ARGS) </dev/null

sim: $(VENV)/.installed-test
	@ASYNCRAY_SIM_SEEDS=$(SEEDS) ASYNCRAY_SIM_FIRST=$(FIRST_SEED) \
		$(BIN)/python -m pytest -n $(JOBS) --dist worksteal tests/sim $(PYTEST_ARGS) </dev/null

model: $(VENV)/.installed-test
	@$(BIN)/python -m tests.sim.model --nodes $(NODES) --tasks $(TASKS) $(MODEL_ARGS)

bench: $(VENV)/.installed
	@$(BIN)/asyncray microbenchmark </dev/null

clean:
	rm -rf .venv $(VERSIONS:%=.venv-%) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find $(SOURCES) -name __pycache__ -prune -exec rm -rf {} +

# The stamps: a second `make` finds them newer than pyproject.toml and installs nothing. The package is installed in
# place, so that a change of its code asks for no new installation.

$(VENV)/.installed: pyproject.toml $(VENV)/.made
	@echo "installing asyncray into $(VENV)"
	@$(PIP) install --editable .
	@touch $@

$(VENV)/.installed-test: pyproject.toml $(VENV)/.made
	@echo "installing asyncray and its test tools into $(VENV)"
	@$(PIP) install --editable '.[test]'
	@touch $(VENV)/.installed $@

# An environment that works is kept; one that was left half made is made anew.
$(VENV)/.made:
	@$(usable); \
	if ! usable $(BIN)/python || ! $(BIN)/python -m pip --version >/dev/null 2>&1; then \
		wanted=; $(find_python); \
		if [ -z "$$python" ]; then $(say_what_is_missing); exit 1; fi; \
		echo "making $(VENV) with $$python"; \
		"$$python" -m venv --clear $(VENV); \
	fi
	@touch $@

# Shell pieces. `usable PATH`: is that an interpreter of 3.11 or newer that can make a virtual environment?
usable = usable() { "$$1" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }

# Sets `python` to the path of PYTHON if that was given, else of a `python$wanted` (any, if that is empty) on the PATH or
# among pyenv's versions; to nothing if there is none. A name on the PATH may be a shim that starts nothing: each is tried.
define find_python
$(usable); python=; \
pyenv="$${PYENV_ROOT:-$${HOME-}/.pyenv}/versions"; \
if [ -n "$$wanted" ]; then candidates="python$$wanted $$(echo "$$pyenv"/$$wanted.*/bin/python)"; \
elif [ -n '$(PYTHON)' ]; then candidates='$(PYTHON)'; \
else candidates="python3 $(VERSIONS:%=python%) $$(echo "$$pyenv"/3.1[1-9].*/bin/python)"; fi; \
for candidate in $$candidates; do \
	if usable "$$candidate"; then python=$$("$$candidate" -c 'import sys; print(sys.executable)'); break; fi; \
done
endef

define say_what_is_missing
{ echo "asyncray needs Python 3.11 or newer, with the venv module."; \
for candidate in $(or $(PYTHON),python3); do \
	echo "$$candidate here is: $$("$$candidate" --version 2>&1 || true)"; \
done; \
echo "Name another one: make $(or $(MAKECMDGOALS),demo) PYTHON=/path/to/python3.12"; } >&2
endef
