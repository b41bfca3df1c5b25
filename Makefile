# Everything a newcomer types. `make run` and `make test` need Python 3.11 to 3.13, make and git, nothing else.
PYTHON ?= python3
ENV := .venv
BIN := $(ENV)/bin
GPU := .venv-gpu
# uv, which is one of the locked packages, installs the others four times as fast; where it finds no registry, pip may know one.
LOCKED := $(BIN)/pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r
export PATH := $(CURDIR)/$(BIN):$(PATH)

# What you need beyond the lock, a requirement a line, as dvc[s3]; it is yours, and may be missing.
MORE := $(wildcard requirements-more.txt)

.PHONY: help env run test check kernels lint audit deps lock docs server clean
help:            ## this list
	@grep -hE '^[a-z]+: .*##|^[a-z]+:  *##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 12

env: $(ENV)/ready  ## the locked environment, in .venv

# The stamp is written last: an interrupted install is done again, never half used. Of the ways to install a folder, `compat` puts
# the folder itself on the path; that setuptools means to drop it one day is of no use to whoever makes an environment.
$(ENV)/ready: requirements.lock pyproject.toml $(MORE)
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(None if (3, 11) <= v < (3, 14) else f"Python {v[0]}.{v[1]} found; Epoxy Flow needs 3.11 to 3.13. Name one: make PYTHON=python3.12 ...")'
	@echo "environment 1 of 3: $(ENV), with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv --clear $(ENV)
	@echo "environment 2 of 3: $$(grep -c == requirements.lock) packages of requirements.lock, a minute where they are downloaded"
	@sed -n '/^uv==/,/[^\\]$$/p' requirements.lock >$(ENV)/uv.txt && $(LOCKED) $(ENV)/uv.txt
	@$(BIN)/uv pip install --quiet --compile-bytecode --no-deps --require-hashes --python $(BIN)/python -r requirements.lock || { echo "uv could not install them, pip tries: some minutes"; $(LOCKED) requirements.lock; }
	@echo "environment 3 of 3: Epoxy Flow$(if $(MORE), and requirements-more.txt)"
	@PYTHONWARNINGS=ignore $(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --config-settings editable_mode=compat --editable .
	$(if $(MORE),@$(BIN)/pip install --quiet --disable-pip-version-check --requirement $(MORE))
	$(if $(MORE),@$(BIN)/pip check --disable-pip-version-check)
	@touch $@

run: env         ## the whole pipeline on the demo; a second run recomputes nothing
	@$(BIN)/epoxy run

# Folder by folder, not the files with the most tests first: short tests come last, and all processes end together. Three of them on
# two cores: tests of servers mostly wait.
test: env        ## all tests
	$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder

check: lint      ## lint, and the tests that take seconds: for every edit
	$(BIN)/python -m pytest -n 2 --dist loadfile tests/unit tests/property tests/contract

# PyTorch with what it brings of CUDA is 5 GB, which no other test needs: an environment of its own, which sees the locked one.
kernels: $(GPU)/ready  ## tests of search on graphics cards, on a processor
	TRITON_INTERPRET=1 $(GPU)/bin/python -m pytest tests/property/test_card_search.py

$(GPU)/ready: | $(ENV)/ready
	@echo "environment: $(GPU), with PyTorch, 5 GB and some minutes"
	@$(BIN)/python -m venv --clear --without-pip $(GPU)
	@$(BIN)/python -c 'import sys, sysconfig; from pathlib import Path; here = sysconfig.get_path("purelib"); (Path("$(GPU)") / Path(here).relative_to(sys.prefix) / "locked.pth").write_text(here)'
	@$(BIN)/uv pip install --quiet --python $(GPU)/bin/python "$$(grep -o 'torch>=[0-9.]*' pyproject.toml)"
	@touch $@

deps: env        ## write into dvc.yaml which code each stage imports
	$(BIN)/python -m flows.runner.code_deps

# Names, versions and hashes alone: no address of a registry, for any Python that pyproject.toml allows. If it fails, the lock
# stays as it is. The next target that needs the environment makes it anew.
lock: env        ## write requirements.lock with the newest versions that work together
	$(BIN)/uv pip compile pyproject.toml --group dev --universal --python-version 3.11 --upgrade --generate-hashes \
		--no-annotate --no-header --no-emit-index-url --quiet --output-file requirements.lock

lint: env        ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy flows tasks lfs epoxy_flow benchmarks

# Apart from lint, which needs no network.
audit: env       ## known vulnerabilities of what the lock holds; asks an advisory service
	$(BIN)/pip-audit --require-hashes --disable-pip --requirement requirements.lock

docs: env        ## the documentation as a site, in site/; fails on a broken link
	$(BIN)/zensical build --strict --clean

server: env      ## Prefect server, worker and deployments, until Ctrl-C
	@$(BIN)/epoxy server

clean:           ## remove the environments (never data)
	rm -rf $(ENV) $(GPU)
