# make repro: everything, from set-up to report · make test · make test-all · make lint · make lock
# Each target first sets up what it needs; a second call installs nothing.

PYTHON ?= python3
export PATH := $(CURDIR)/.venv/bin:$(PATH)
LOCKED := requirements.lock requirements-torch.txt
LANES ?= $(shell getconf _NPROCESSORS_ONLN)
READY := .venv/ready-$(shell cat $(LOCKED) | cksum | cut -d ' ' -f 1)

.PHONY: repro generators setup test test-all lint lock
.DEFAULT_GOAL := repro

repro: setup
	@python -m stages check
	@dvc status --quiet || $(MAKE) --no-print-directory generators
	@dvc repro

# dvc runs one stage at a time, and a generator is fitted on one core: fit several side by side, LANES=1 for one by one.
generators:
	@dvc repro train_baseline
	@dvc stage list --name-only | sed -n 's/^fit_generator@//p' | xargs -P $(LANES) -I{} \
		dvc --wait-for-lock repro --single-item fit_generator@{} generate@{} pseudo_label@{}

setup: $(READY)
	@[ -e .git ] || [ -f .dvc/config.local ] || dvc config --local core.no_scm true

$(READY): $(LOCKED)
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 11) and "Python 3.11 or newer is needed, this is %d.%d; set PYTHON=python3.x" % v[:2])'
	$(PYTHON) -m venv --clear .venv
	pip install --disable-pip-version-check --quiet --progress-bar off --no-deps --require-hashes -r requirements.lock
	pip install --disable-pip-version-check --quiet --progress-bar off -r requirements-torch.txt
	@touch $(READY)

test: setup
	python -m pytest -m "not slow"

test-all: setup
	python -m pytest

lint: setup
	ruff check .

# Needs uv on the PATH (pip install uv). torch itself stays out of the lock, see pyproject.toml.
lock:
	uv pip compile requirements.in --universal --python-version 3.11 --generate-hashes --no-emit-package torch --upgrade -o requirements.lock
