# Everything a developer types. Needs: git, make, Python 3.11 or newer with venv (Debian: python3-venv).

PYTHON ?= python3
PY := .venv/bin/python
FINGERPRINT = $(shell cat $(1) .python-version 2>/dev/null | sha256sum 2>/dev/null | cut -c1-16)
RUNTIME := .venv/.runtime-$(call FINGERPRINT,requirements.txt)
TOOLS := .venv/.tools-$(call FINGERPRINT,requirements.txt requirements-dev.txt)
# A developer's shell may hold the settings of a live system. They must not reach a test or the demo.
CLEAN = env -i PATH="$$PATH" HOME="$${HOME:-/}" LANG=C.UTF-8 TERM="$${TERM:-dumb}" $${TMPDIR:+TMPDIR="$$TMPDIR"}

.PHONY: help venv install demo run test lint unit postgres faults stories bench soak audit clean
.DEFAULT_GOAL := help

help:
	@echo "make demo    a campaign on a mock CRM, in this terminal; needs nothing else"
	@echo "make run     the site and the engine, for development (with REDIS_URL: also worker and beat)"
	@echo "make test    everything, with a PostgreSQL and a Redis of its own"
	@echo "make lint    form, types, imports, migrations, settings, security"
	@echo "make unit | faults | stories    one phase of the tests"
	@echo "make bench   measure    make soak   all tests at full length    make audit   known holes"

venv:
	@command -v $(PYTHON) >/dev/null 2>&1 || { echo "Python is missing: please install python3 (3.11 or newer)."; exit 1; }
	@$(PYTHON) -c '' || { echo "$(PYTHON) does not start: please install python3 (3.11 or newer), or name it with make PYTHON=python3.11."; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { echo "$(PYTHON) is older than Python 3.11: please install a newer one, or name it with make PYTHON=python3.11."; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "Python's venv is missing: please install python3-venv."; exit 1; }
	@$(PY) -c 'import pip' 2>/dev/null || { rm -rf .venv; $(PYTHON) -m venv .venv || { echo "The virtual environment could not be made in .venv (see above)."; exit 1; }; }

$(RUNTIME): requirements.txt
	@$(MAKE) --no-print-directory venv
	@echo "Installing what the product needs ..."
	@$(PY) -m pip install --quiet --disable-pip-version-check --requirement requirements.txt
	@rm -f .venv/.runtime-* && touch $@

$(TOOLS): requirements.txt requirements-dev.txt
	@command -v git >/dev/null 2>&1 || { echo "git is missing: please install git."; exit 1; }
	@$(MAKE) --no-print-directory venv
	@echo "Installing what the tests need ..."
	@$(PY) -m pip install --quiet --no-compile --disable-pip-version-check --requirement requirements-dev.txt
	@rm -f .venv/.tools-* && touch $@

install: $(TOOLS)

demo: $(RUNTIME)
	@$(CLEAN) DEBUG=1 $(PY) manage.py demo $(DEMO)

run: $(RUNTIME)
	@DEBUG=$${DEBUG:-1} $(PY) manage.py migrate --verbosity 0
	@DEBUG=$${DEBUG:-1} $(PY) manage.py serve

test: $(TOOLS)
	@$(CLEAN) $(PY) -m tests.phases lint unit postgres faults stories

lint unit postgres faults stories: $(TOOLS)
	@$(CLEAN) $(PY) -m tests.phases $@

soak: $(TOOLS)
	@$(CLEAN) SOAK=1 $(PY) -m tests.phases unit postgres faults stories

bench: $(TOOLS)
	@$(PY) -m pip install --quiet --disable-pip-version-check --requirement bench/requirements.txt
	@$(CLEAN) $(PY) -m bench.engine $(BENCH)
	@$(CLEAN) $(PY) -m bench.inbox $(if $(findstring --quick,$(BENCH)),--quick)
	@$(CLEAN) $(PY) -m bench.crm_client $(if $(findstring --quick,$(BENCH)),--quick)

audit: $(TOOLS)
	@$(PY) -m tests.audit

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis staticfiles
