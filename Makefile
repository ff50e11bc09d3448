# make demo   install, search, train, draw: the whole job on the embedded digits (under 10 minutes on 2 cores)
# make test   install and run the tests
# make test-nni  the plugin's tests, with NNI installed beside
# make check  lint, types
PYTHON ?= python3
VENV ?= .venv
OUT ?= runs/demo-$(shell date +%Y%m%d-%H%M%S)
PIP = $(VENV)/bin/python -m pip install --quiet --constraint constraints.txt

.PHONY: demo test test-nni check study

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

demo: $(VENV)/bin/python
	$(PIP) --editable '.[draw,report]'
	$(VENV)/bin/python tools/search.py --base pcdarts --grouping dalbg --out $(OUT)/search
	$(VENV)/bin/python tools/evaluate.py --genotype $(OUT)/search/genotype.json --out $(OUT)/evaluate
	$(VENV)/bin/python tools/visualize.py --genotype $(OUT)/search/genotype.json --out $(OUT)/drawings
	@echo
	@cat $(OUT)/evaluate/results.md
	@echo "genotype  $(OUT)/search/genotype.json"
	@echo "results   $(OUT)/evaluate/results.json"
	@echo "drawings  $(OUT)/drawings"
	@echo "curves    $(VENV)/bin/tensorboard --logdir $(OUT)"

test: $(VENV)/bin/python
	$(PIP) --editable '.[test]'
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n 2 --dist worksteal

# One process: NNI writes into its own package when it is first imported.
test-nni: $(VENV)/bin/python
	$(PIP) --editable '.[test,nni]'
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest tests/nni

check: $(VENV)/bin/python
	$(PIP) --editable '.[dev]'
	$(VENV)/bin/ruff check lbgnas tools tests benchmarks
	$(VENV)/bin/ruff format --check lbgnas tools tests benchmarks
	$(VENV)/bin/mypy lbgnas

study: $(VENV)/bin/python
	$(PIP) --editable '.[draw,report]'
	$(VENV)/bin/python benchmarks/quick_results.py
