# Every target sets up what it needs in .venv; Python 3.11+ and make are all a fresh machine must have. Modules are
# compiled as they are imported, and kept, and not all at once, which took more than half of the installation.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PYTHONDONTWRITEBYTECODE :=

.PHONY: demo test test-all fuzz lint pages site bench clean

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --no-compile "torch==2.13.0"
	$(BIN)/python -m pip install --quiet --no-compile --editable ".[dev]"
	touch $@

# Distils the digits base that ships with the repository into a one-step LoRA and scores it.
demo: $(VENV)/.installed
	$(BIN)/python examples/digits/demo.py --output_dir outputs/demo

# The tests to run before every commit.
test: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal -m "not slow"

# Also the tests marked as slow, and twice the examples of the property tests.
test-all: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal --hypothesis-profile thorough

# The property tests alone, long and at random. `make test` draws the same examples every time; what this finds is
# printed with a line that repeats it, and becomes a fixed example of its test.
fuzz: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto -m hypothesis --hypothesis-profile random

lint: $(VENV)/.installed
	$(BIN)/ruff check --no-cache .
	$(BIN)/ruff format --no-cache --check .
	$(BIN)/mypy
	$(BIN)/proselint check README.md CONTRIBUTING.md CHANGELOG.md docs/*.md
	$(BIN)/zizmor --offline --quiet .github

# Updates the generated parts of README.md and docs/.
pages: $(VENV)/.installed
	$(BIN)/python docs/result_tables.py
	$(BIN)/python docs/options_reference.py
	$(BIN)/python docs/simpletuner_reference.py
	$(BIN)/python -m tests.models.matrix
	$(BIN)/python -m tests.families.family_matrix
	$(BIN)/python -m tests.modular.list_on_page
	$(BIN)/python -m tests.schedulers.pipeline_matrix

# The documentation as a web site, in outputs/site; a warning or a broken link is an error. Set REPOSITORY_URL to link to the
# files of the repository.
site: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --editable ".[docs]"
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	$(BIN)/python docs/check_site.py outputs/site

bench: $(VENV)/.installed
	for script in benchmarks/*.py; do $(BIN)/python $$script || exit 1; done

clean:
	rm -rf $(VENV) outputs build dist .mypy_cache .pytest_cache .ruff_cache
