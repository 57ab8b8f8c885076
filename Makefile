# make tour: the whole story on the shipped sample.  make test: every check.  make lab: JupyterLab on the notebooks.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
NOTEBOOKS := $(wildcard notebooks/[0-9]*.ipynb)

.PHONY: install tour test lab notebooks bench proof clean

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "cryonb needs Python 3.11 or newer; name one with: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	if command -v uv >/dev/null 2>&1; then \
	  uv pip install --python $(BIN)/python -c constraints.txt -e '.[lab,test,cluster,atoms]'; \
	else \
	  $(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt -e '.[lab,test,cluster,atoms]'; \
	fi
	touch $(STAMP)

tour: install
	$(BIN)/python -m cryonb tour --out out/tour

# two processes, a file at a time
test: install
	$(BIN)/python -m pytest -n 2 --dist loadfile --doctest-modules --nbval-lax --nbval-current-env --nbval-cell-timeout=600 \
	  cryonb tests $(NOTEBOOKS)

lab: install
	$(BIN)/jupyter lab --notebook-dir=notebooks

# every notebook run top to bottom, its pictures reduced to a palette: what is committed
notebooks: install
	$(BIN)/python notebooks/execute.py $(NOTEBOOKS)

bench: install
	for script in benchmarks/[a-z]*.py; do echo "== $$script"; $(BIN)/python $$script --quick || exit 1; done

proof: install
	for script in benchmarks/[a-z]*.py; do echo "== $$script"; $(BIN)/python $$script || exit 1; done

clean:
	rm -rf out build *.egg-info .pytest_cache
