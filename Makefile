# Each of these does all its own set-up on a machine that has Python 3.10 or newer and make:
#   make dream   open the live page, on which a network samples images, until Ctrl-C
#   make test    run the default tests
#   make docs    build the documentation in build/docs
#   make labs    generate the labs' exercise files and solved notebooks
#   make dist    build the sdist, the wheel and a bill of materials in dist/
# `make dream TORCH=cpu` installs the small build of PyTorch, without CUDA, and so do the other commands. Other values are
# those of uv's --torch-backend, such as auto, cu130 or rocm7.2. The environment keeps to the build it was made with.
# The documentation has a demo that runs in the browser, if the tarball of onnxruntime-web is there. `make docs-runtime`
# fetches it with npm into build/; without npm, set SHAPEDREAMER_ONNXRUNTIME to its path. Nothing else needs a network.
PYTHON ?= python3
TORCH ?= $(patsubst .venv/torch-%,%,$(wildcard .venv/torch-*))
BIN := .venv/bin
NVIDIA_DRIVER := $(wildcard /proc/driver/nvidia/version /dev/nvidiactl /dev/dxg)

.PHONY: dream test docs docs-runtime labs dist peers setup clean

dream: setup
	@$(BIN)/shapedreamer live --open

test: setup
	$(BIN)/python -m pytest -n 2 --dist loadfile

docs: .venv/installed-docs
	@$(BIN)/python -m sphinx --builder html --doctree-dir build/doctrees --nitpicky --fail-on-warning --keep-going --quiet docs build/docs
	@$(BIN)/python docs/check_links.py build/docs
	@echo 'The site is in build/docs. To read it, run `$(BIN)/python -m http.server -d build/docs` and open http://localhost:8000'

# the libraries whose samplers tests/conformance/test_peers.py checks, without what they need for anything else
peers: setup
	$(BIN)/python -m pip install --quiet --no-deps -c constraints.txt azula denoising-diffusion-pytorch einops k-diffusion scipy smalldiffusion

# the exercise files and the solved notebooks, from the labs with the solutions; takes some minutes
labs: setup
	@$(BIN)/python -m shapedreamer.labs.build

dist: setup
	rm -rf dist
	$(BIN)/python -m build --outdir dist
	$(BIN)/python .ci/sbom.py > dist/sbom.cdx.json

docs-runtime: setup
	@mkdir -p build
	@cd build && npm pack --silent --prefer-offline "$$(../$(BIN)/python -c 'from shapedreamer.live.site import RUNTIME; print(RUNTIME)')"

setup: .venv/installed

define make_venv
@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed; this is " + sys.version)'
$(PYTHON) -m venv .venv
endef

# installed again when its requirements have changed
.venv/installed: pyproject.toml constraints.txt $(if $(TORCH),.venv/torch-$(TORCH))
ifeq ($(TORCH)$(NVIDIA_DRIVER)$(shell uname),Linux)
	@[ -x $(BIN)/shapedreamer ] || echo 'No NVIDIA driver found, but the default build of PyTorch brings gigabytes of CUDA: `make $(or $(MAKECMDGOALS),dream) TORCH=cpu` avoids the download.'
endif
	$(make_venv)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[track,diffusers,data,export,web,cloud,labs,dev]'
	@touch $@

.venv/torch-$(TORCH): constraints.txt
	$(make_venv)
	$(BIN)/python -m pip install --quiet -c constraints.txt uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python -c constraints.txt --no-deps --reinstall --torch-backend=$(TORCH) torch
	@rm -f .venv/torch-*
	@touch $@

.venv/installed-docs: .venv/installed
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[docs]'
	@touch $@

clean:
	rm -rf .venv build dist runs
