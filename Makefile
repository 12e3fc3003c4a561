# Each of these does all its own set-up on a machine that has Python 3.10 or newer and make:
#   make dream   open a page on which a network dreams, until Ctrl-C
#   make test    the default test suite
PYTHON ?= python3
BIN := .venv/bin

.PHONY: dream test setup clean

dream: setup
	@$(BIN)/shapedreamer live --open

test: setup
	$(BIN)/python -m pytest

setup: .venv/installed

# made again when what it installs has changed
.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed; this is " + sys.version)'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[track,diffusers,data,export,web,dev]'
	@touch $@

clean:
	rm -rf .venv runs
