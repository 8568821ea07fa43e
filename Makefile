# make repro: everything, from set-up to report · make export: what it found, to hand on · make row ID=...: one row's history
# make doctor: can a run start here, and what will it take? · make test · make test-all · make fuzz · make bench · make soak
# make lint · Each target first sets up what it needs; a second call installs nothing.

PYTHON ?= python3
export PATH := $(CURDIR)/.venv/bin:$(PATH)
LOCKED := requirements.lock requirements-torch.txt
CORES := $(shell env -u OMP_NUM_THREADS -u OMP_THREAD_LIMIT nproc 2>/dev/null || getconf _NPROCESSORS_ONLN)
GRANTED := $(shell awk '$$1 != "max" {n = int($$1 / $$2); print n < 1 ? 1 : n}' /sys/fs/cgroup/cpu.max 2>/dev/null)
LANES ?= $(shell printf '%s\n' $(CORES) $(GRANTED) | sort -n | head -n 1)
PAIR := $(if $(filter 1,$(LANES)),1,2)
READY := .venv/ready-$(shell cat $(LOCKED) | cksum | cut -d ' ' -f 1)

.PHONY: repro doctor export row side-by-side setup test test-all fuzz fuzz-guided calibrate bench soak lint audit lock
.DEFAULT_GOAL := repro

repro: setup
	@{ $(AT_WORK); } 2>/dev/null || { $(PUT_BACK); }
	@python -m stages check
	@if [ -e models ] && dvc status --quiet; then echo "Data and pipelines are up to date."; \
	else $(MAKE) --no-print-directory side-by-side && echo "[6 of 6] evaluation on the test split, and the report" && dvc repro; fi

# The packages, the machine, the source, disk and time before a run. Exit 2 or 3 becomes 2 here, as make answers every failure.
doctor: setup
	@python -m stages doctor ./ data/real/about requirements.lock .work/params.before.yaml

# The advised model and the synthetic rows of a finished run, in the folder export/: see docs/export.md.
export: setup
	@dvc status --quiet || { echo "the run is not finished or not up to date (dvc status says why): run make repro first$(if $(wildcard .work/params.quick.yaml),; for what the last make quick made, set in params.yaml what it set: diff params.yaml .work/params.quick.yaml)" >&2; exit 2; }
	@python -m stages export data/real/train data/real/val data/selected models results/search results/evaluation reports pyproject.toml export

# The history of one row, real or synthetic, and its picture made again: make row ID=<an id of a table, or a path of a manifest>
row: setup
	@python -m stages row '$(ID)' data/real/train data/selected/pool data/selected models/generators results/search .work/rows

# dvc runs one stage at a time. A generator is fitted on one core, so there are as many at once as cores, the last named
# (mostly the longest) first. Of arms there are two at once, each with half of the cores. A line is one call of dvc: stages
# that the plan asks for anything, and, all in one, those that have nothing to do. LANES=1: everything one by one. LANE, counted
# from 0, is the GPU that a stage takes where there are several. Of what draws and judges, each takes half of the cores too.
# Where a stage fails, dvc says 255, at which xargs would go and leave the others at work: they are let end before make fails.
REPRO := dvc --wait-for-lock repro --single-item
WITH = sed -n 's/^$(1)@//p' .work/stages | sed '1!G;h;$$!d' | while read -r name; do \
	grep -q '"wanted": $(2)' data/plan/$(1)/$$name.json && echo $(1)@$$name; done
ENDING := sh -c '"$$@" || exit 1' -
BY_LANE = awk 'NF {print "LANE=" n++, "$(REPRO)", $$0}' | xargs -r -P $(LANES) -L 1 $(ENDING) env
side-by-side:
	@mkdir -p .work && dvc stage list --name-only > .work/stages
	@echo "[1 of 6] data, baseline and teachers"
	@dvc --wait-for-lock repro label_pool
	@echo "[2 of 6] generators"
	@{ $(call WITH,fit_generator,true); echo train_encoder; $(call WITH,fit_generator,false) | xargs; } | $(BY_LANE)
	@echo "[3 of 6] search on validation for how their rows are best used"
	@$(REPRO) search
	@echo "[4 of 6] rows are drawn, labelled and selected"
	@{ $(call WITH,generate,true); $(call WITH,generate,false) | xargs; } | sed 's/generate@\([^ ]*\)/& pseudo_label@\1/g' | { export SIDE_BY_SIDE=$(PAIR); $(BY_LANE); }
	@echo "[5 of 6] arms, fidelity and copies"
	@{ $(call WITH,retrain,true) | xargs -n 2; $(call WITH,retrain,false) | xargs; echo measure_fidelity; echo audit_copies repeat; } | \
		SIDE_BY_SIDE=$(PAIR) xargs -r -P $(PAIR) -L 1 $(ENDING) $(REPRO)

setup: $(READY)
	@[ -e .git ] || [ -f .dvc/config.local ] || dvc config --local core.no_scm true

$(READY): $(LOCKED)
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 11) and "Python 3.11 or newer is needed, this is %d.%d; set PYTHON=python3.x" % v[:2])'
	@if [ -L .venv ] || { [ -e .venv ] && ! ls .venv/ready-* .venv/made-by-make 2>/dev/null | grep -q .; }; then \
	echo ".venv was not made here, and setting it up would empty it: rename or remove it, then run make again" >&2; exit 2; fi
	$(PYTHON) -m venv --clear .venv
	@touch .venv/made-by-make
	pip install --disable-pip-version-check --quiet --progress-bar off --no-deps --require-hashes -r requirements.lock
	pip install --disable-pip-version-check --quiet --progress-bar off -r requirements-torch.txt
	@touch $(READY)

# Files of tests side by side, the tests of a file one after the other.
test: setup
	python -m pytest -n $(LANES) --dist loadfile -m "not slow"

test-all: setup
	python -m pytest -n $(LANES) --dist loadfile

# Hostile pictures, archives, tables and params, FUZZ times as many as make test tries, and other ones each time; a seed that
# was printed tries the same ones again: make fuzz SEED=... Ten minutes on two cores.
FUZZ ?= 60
fuzz: SEED := $(or $(SEED),$(shell od -An -N4 -tu4 /dev/urandom | tr -d ' '))
fuzz: setup
	FUZZ=$(FUZZ) python -m pytest tests/fuzz -n $(LANES) --dist loadfile --hypothesis-seed=$(SEED)

# Bytes led by the code they reach (Atheris, in a folder of its own): EACH seconds for each of four readers. .work/fuzz keeps the
# inputs that reached something new, from which the next call goes on. Linux and macOS.
EACH ?= 120
fuzz-guided: setup
	@[ -d .work/atheris ] || python -m pip install --disable-pip-version-check --quiet --progress-bar off --no-deps --require-hashes \
		--target .work/atheris -r requirements-fuzz.lock
	@for target in pictures archive table params; do \
		PYTHONPATH=.work/atheris python -m tests.fuzz.guided $$target -max_total_time=$(EACH) || exit 1; done

# Known effects, simulated and trained, and how often the verdict names them: docs/calibration.md. About half an hour.
calibrate: setup
	python -m benchmarks.calibrate

# A small copy of the project, killed at 30 random moments: its scores must be those of one that was not. Ten minutes.
soak: setup
	python -m benchmarks.soak

# Speed beside a peer, which goes into a folder of its own under .work/bench, and beside limits: docs/performance.md. Half an hour.
bench: setup
	python -m benchmarks.speed

lint: setup
	ruff check .
	ruff format --check .
	mypy
	check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	zizmor --offline --no-progress --strict-collection .github/workflows

# Known vulnerabilities of what is locked, asked of the package index; --strict: a package it knows nothing of is an error.
AUDIT := .work/audit/bin
audit:
	$(PYTHON) -m venv --clear $(dir $(AUDIT))
	$(AUDIT)/pip install --disable-pip-version-check --quiet --progress-bar off --no-deps --require-hashes -r requirements-audit.lock
	$(AUDIT)/pip-audit --strict --progress-spinner off --disable-pip --require-hashes -r requirements.lock
	$(AUDIT)/pip-audit --strict --progress-spinner off --disable-pip --no-deps -r requirements-torch.txt

# Needs uv on the PATH (pip install uv). torch itself stays out of the lock, see pyproject.toml.
lock:
	uv pip compile requirements.in --universal --python-version 3.11 --generate-hashes --no-emit-package torch --upgrade -o requirements.lock
	uv pip compile requirements-audit.in --universal --python-version 3.11 --generate-hashes --upgrade -o requirements-audit.lock
	uv pip compile requirements-fuzz.in --universal --python-version 3.11 --generate-hashes --upgrade -o requirements-fuzz.lock

# For CI, see docs/ci.md. quick is repro with the keys in QUICK set. params.yaml is put back at the end, or by the next
# `make quick` or `make repro` if this one was killed; an edit made to it meanwhile is kept.
.PHONY: quick gate
quick: export QUICK := $(or $(strip $(QUICK)),profile=quick)
quick: setup
	@mkdir -p .work; $(PUT_BACK)
	@cp params.yaml .work/params.quick.yaml; python -c "$$OVERRIDE" .work/params.quick.yaml
	@echo "params.yaml with $$QUICK"
	@trap '$(PUT_BACK); rm -f .work/quick.pid' EXIT; echo $$$$ > .work/quick.pid; \
		trap 'trap "" INT TERM; exit 130' INT; trap 'trap "" INT TERM; exit 143' TERM; \
		cp params.yaml .work/params.before.yaml && cp .work/params.quick.yaml params.yaml && \
		$(MAKE) --no-print-directory repro

# Exit 1 of the gate becomes 2 here, as make answers every failure.
gate: setup
	@python -m stages gate reports/verdict.json

PUT_BACK = if [ ! -e .work/params.before.yaml ]; then :; \
	elif cmp -s params.yaml .work/params.quick.yaml; then mv -f .work/params.before.yaml params.yaml; \
	else echo "params.yaml was edited in the meantime and stays so; before: .work/params.replaced.yaml" >&2; \
	mv -f .work/params.before.yaml .work/params.replaced.yaml; fi

# Whether a `make quick` is: the process that it noted is there, another than this one, and does what that one does.
AT_WORK = p=$$(cat .work/quick.pid) && [ "$$p" != $$$$ ] && { grep -q params.before /proc/$$p/cmdline || ps -o args= -p "$$p" | grep -q params.before; }

define OVERRIDE
import os, pathlib, shlex, sys
from dvc.exceptions import DvcException
from dvc.utils.hydra import apply_overrides
from pipeline.params.fields import read
try:
    read(pathlib.Path("params.yaml"))
except ValueError as error:
    sys.exit(str(error))
try:
    apply_overrides(sys.argv[1], shlex.split(os.environ["QUICK"]))
except (DvcException, ValueError) as error:
    sys.exit("QUICK: " + str(error.__cause__ or error).splitlines()[0])
endef
export OVERRIDE
