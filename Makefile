# Each of these does all its own set-up on a machine that has Python 3.10 or newer and make:
#   make dream   train on this machine, from nothing, and look at what the network dreams
#   make test    the default test suite
PYTHON ?= python3
BIN := .venv/bin
RUN ?= runs/dream

.PHONY: dream test setup clean

dream: setup
	@if [ -f $(RUN)/checkpoints/latest.safetensors ]; then \
	    $(BIN)/shapedreamer train shapes --resume --out $(RUN); \
	else \
	    $(BIN)/shapedreamer train shapes --out $(RUN); \
	fi
	@$(BIN)/shapedreamer sample $(RUN) --out dream.png
	@$(BIN)/shapedreamer sample $(RUN) --num 16 --out dream.gif
	@echo "dreamt by the network in $(RUN): $(CURDIR)/dream.png and, from noise to shapes, $(CURDIR)/dream.gif"
	@case "$$(uname)" in \
	    Darwin) open dream.gif dream.png ;; \
	    Linux) if [ -n "$$DISPLAY$$WAYLAND_DISPLAY" ] && command -v xdg-open >/dev/null; then \
	        xdg-open dream.png; xdg-open dream.gif; fi ;; \
	esac

test: setup
	$(BIN)/python -m pytest

setup: .venv/installed

# made again when what it installs has changed
.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed; this is " + sys.version)'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[track,diffusers,data,export,dev]'
	@touch $@

clean:
	rm -rf .venv runs dream.png dream.gif
