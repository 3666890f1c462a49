# Each target makes .venv first. TORCH passes pip arguments for another build of torch, for example
# make repro TORCH="torch==2.13.0 --index-url <the index that has it>".
PYTHON ?= python3
TORCH ?= torch==2.13.0
BIN := .venv/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: repro test test-fast test-slow resolve lint stress prefect clean
repro: .venv/installed  ## data to model: everything that is not up to date
	dvc repro

test: .venv/installed  ## everything but what test-slow adds
	@echo "make test: about 2,700 fast tests, then 330 slow ones (real servers and pipelines): 23 minutes on 2 cores"
	python setup.py -q build_ext --inplace
	pytest -q -n 2
	pytest -q -m "slow and not long" -n 2 --dist loadfile

test-fast: .venv/installed  ## what to run while changing code
	@echo "make test-fast: about 2,700 tests, 4 minutes on 2 cores"
	python setup.py -q build_ext --inplace
	pytest -q -n 2

test-slow: .venv/s3  ## the rest: every combination of what a slow test shows for one
	@echo "make test-slow: about 75 tests, not timed as a whole"
	python setup.py -q build_ext --inplace
	pytest -q -m long -n 2 --dist loadfile

resolve: .venv/installed  ## are there wheels of all dependencies for each Python? downloads gigabytes
	python -m tests.python_versions

lint: .venv/installed
	ruff check .
	ruff format --check .
	mypy

# beside a folder of that name: a target that is not phony would always be up to date
.PHONY: docs
docs: .venv/installed  ## the pages of docs/ as a site in site/; a broken link is an error
	NO_MKDOCS_2_WARNING=1 mkdocs build --quiet --strict

stress: .venv/installed  ## kill trainings, packs and runs of Prefect at random moments, and continue them; about two hours
	python setup.py -q build_ext --inplace
	python -m tests.train.disturb
	python -m tests.data.disturb_pack
	python -m tests.pipeline.stop_matrix

PORT := 4200
prefect: .venv/installed  ## Prefect's server, deployments and a worker, until Ctrl-C; another port: make prefect PORT=4201
	python -m flows.service $(PORT)

clean:  ## everything that can be made again, except the virtual environment and DVC's cache
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache dvc_plots .npu-sim m2det/ops/*.so
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +

.venv/installed: pyproject.toml constraints.txt setup.py
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q --upgrade pip
	$(BIN)/pip install -q -c constraints.txt $(TORCH)
	$(BIN)/pip install -q -c constraints.txt -e '.[pipeline,export,turbojpeg,video,dev,docs]'
	$(BIN)/python -m flows.plots
	touch $@

.venv/s3: .venv/installed  # a server of S3's protocol, for one of test-slow
	$(BIN)/pip install -q -c constraints.txt -e '.[s3,s3-test]'
	touch $@
