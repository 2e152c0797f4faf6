# make demo   trains and evaluates on the embedded digits in a few minutes on a laptop
# make test   the fast tests; with SLOW=1 all of them
# make lint   style, format, types, and which room may import which
# make docs   the documentation as a site, build/docs/index.html
#
# Each makes .venv when there is none. PYTHON names the interpreter for it, 3.11 to 3.13.

PYTHON ?= python3
DEMO_DIR ?= runs/demo
DEMO_FLAGS ?=
TEST_FLAGS ?=
SLOW ?=

.PHONY: demo test lint docs
.NOTPARALLEL:
.DELETE_ON_ERROR:

demo: .venv/.installed
	.venv/bin/python train.py --config=configs/digits.py:order_free --workdir=$(DEMO_DIR) $(DEMO_FLAGS)
	.venv/bin/python eval.py --workdir=$(DEMO_DIR) --split=validation --tune
	.venv/bin/python eval.py --workdir=$(DEMO_DIR) --split=test

test: .venv/.installed-test
	.venv/bin/python -m pytest $(if $(SLOW),,-m "not slow") $(TEST_FLAGS)

lint: .venv/.installed-test
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports

docs: .venv/.installed
	.venv/bin/python -m pip install --quiet --editable '.[docs]'
	.venv/bin/python -m sphinx -W --keep-going -q docs build/docs

# The stamps are written last, so an interrupted installation is taken up again; a .venv that was
# left without a working pip is made anew.
.venv/.installed: pyproject.toml
	$(venv)
	.venv/bin/python -m pip install --quiet --editable .
	touch $@

.venv/.installed-test: pyproject.toml
	$(venv)
	.venv/bin/python -m pip install --quiet --editable '.[test]'
	touch .venv/.installed $@

define venv
@.venv/bin/python -m pip --version >/dev/null 2>&1 || { \
	$(PYTHON) -c 'import sys; (3, 11) <= sys.version_info < (3, 14) or sys.exit("Python 3.11 to 3.13 is needed, this is %d.%d; name another with PYTHON=..." % sys.version_info[:2])' \
	&& echo 'making .venv' && $(PYTHON) -m venv --clear .venv; }
endef
