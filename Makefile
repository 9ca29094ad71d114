# Two commands do everything on a fresh clone:
#   make book    set up once, run the notebooks, build the book
#   make test    set up once, run the tests and validate the notebooks
# Both are thin: without make, run the same lines by hand. PYTHON chooses the interpreter (3.11 or later).

PYTHON ?= python3
VENV ?= .venv
JOBS ?= 2
BIN := $(VENV)/bin
export HF_HUB_DISABLE_TELEMETRY = 1
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: help setup book course pdf test tests nbval nightly pages lint figures outdated clean

help:
	@sed -n '2,5s/^# //p' Makefile

# Installed anew only when the requirements change.
$(VENV)/.installed: pyproject.toml constraints.txt
	@echo "Setting up $(VENV), once: about three minutes."
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

setup: $(VENV)/.installed

# `make book BOOK=--stored` takes the outputs that the notebooks hold, and executes none: a minute.
book: setup
	$(BIN)/unlearn book $(BOOK)

# What a class gets: notebooks for students, notebooks with solutions, slides. In build/course.
course: setup
	$(BIN)/unlearn course --out build/course

# The built book as one file, build/book.pdf, printed by Chromium. After `make book`.
pdf: setup
	$(BIN)/unlearn book --pdf

# JOBS processes of one thread each are faster than one with them all. A notebook goes to one of them as a whole; tests are taken over
# from the other at the end.
test: tests nbval

tests: setup
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist worksteal tests --ignore tests/browser

nbval: setup
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile --nbval --nbval-current-env --nbval-cell-timeout=300 --nbval-sanitize-with tests/nbval_sanitize.cfg -W default notebooks

# Every model configuration, every adapter, four processes, thousands of generated files, kills at random moments, every page of the book
# as it is executed: an hour or more.
nightly: setup book
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) -m nightly tests --ignore tests/browser
	$(BIN)/python -m pytest -n $(JOBS) -m 'nightly or not nightly' tests/browser

# The built book in a headless browser, on a desktop and on a phone, light and dark; links, anchors, sizes. After `make book`.
pages: setup
	$(BIN)/python -m pytest -n $(JOBS) tests/browser

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

figures: setup
	$(BIN)/unlearn reproduce table03 table04 table05 table09 table07 fig01 fig02 fig03 fig04 fig05 fig06 fig07 damping blocks frontier roads cluster ch14 ch15 table08 table10 duplicates conflicts labelling -p out=figures

outdated: setup
	$(BIN)/python -m pip list --outdated

# All but the models of the gpu profile, which take a GPU up to an hour.
clean:
	[ ! -d build ] || find build -mindepth 1 -maxdepth 1 ! -name models -exec rm -rf {} +
