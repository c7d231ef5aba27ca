# Every target does its own set-up. VENV names the environment: make test VENV=/tmp/other
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
SAMPLE := --backbone packaged/efficientnet_lite0

.PHONY: setup demo test check format test-backbones test-kills test-ranks test-orphans test-resume test-faults test-splits test-damage
.PHONY: test-slow test-hostile test-writers test-shared-cache test-searches test-servers test-layouts fuzz measure-defaults house

setup: $(STAMP)

$(STAMP): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $(STAMP)

# A real transfer-learning run on the sample photographs, its figures, and predictions for pictures it never saw.
demo: setup
	model=$$($(BIN)/tlkit finetune sample_data/textures $(SAMPLE)) && \
	$(BIN)/tlkit evaluate "$$model" sample_data/textures && \
	$(BIN)/tlkit predict "$$model" sample_data/unlabelled && \
	echo "The model: $$model"

# What is run at every change.
test: setup
	$(BIN)/python -m pytest --quiet --numprocesses 2 --dist loadfile -m 'not slow'

# The rest: several real launches of ranks, two machines in network namespaces (about 3 minutes).
test-slow: setup
	$(BIN)/python -m pytest --quiet -m slow

# Format, lint, types and the architecture.
check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest --quiet tests/test_architecture.py tests/options/test_options.py

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# A new head on every model that torchvision and timm list (about an hour).
test-backbones: setup
	$(BIN)/python tests/every_backbone.py

# Runs killed, or asked to stop, at random instants and resumed until they are done (about 8 minutes).
test-kills: setup
	$(BIN)/python tests/kills.py --runs 100
	for signal in TERM INT HUP; do $(BIN)/python tests/kills.py --runs 25 --signal $$signal || exit 1; done

# A rank killed at 20 random instants, of two and of three (about 10 minutes).
test-ranks: setup
	$(BIN)/python tests/ranks.py --kills 20
	$(BIN)/python tests/ranks.py --kills 6 --ranks 3 --seed 1

# The launcher of two and of three ranks killed at 100 random instants: no process is left (about 15 minutes).
test-orphans: setup
	$(BIN)/python tests/orphans.py --kills 100

# Runs stopped at every kind of instant under every way to train (about 3 minutes).
test-resume: setup
	$(BIN)/python tests/matrix.py

# A fault at every system call of a commit (about 2 minutes).
test-faults: setup
	$(BIN)/python tests/faults.py

# Run folders from somebody else: every file in every wrong kind, opened by every command (about 30 minutes).
test-hostile: setup
	$(BIN)/python tests/hostile.py --table
	$(BIN)/python tests/hostile.py --search --table

# Pairs of writers of one file that have the same process id (about 1 minute).
test-writers: setup
	$(BIN)/python tests/writers.py --pairs 50

# Networks of many kinds divided over several devices (about 10 minutes).
test-splits: setup
	$(BIN)/python tests/every_split.py

# Every kind of file cut at 64 places and with 300 single bits flipped: none may be accepted.
test-damage: setup
	$(BIN)/python tests/damage.py --cuts 64 --flips 300

# Links, pipes, folders, files of others and huge files in place of each file of the cache (about 10 minutes).
test-shared-cache: setup
	$(BIN)/python tests/shared_cache.py

# Searches killed and resumed, passes of backbones counted, and a search on two nodes (about 10 minutes).
test-searches: setup
	$(BIN)/python tests/searches.py

# Ray's servers, and trials, killed 20 times each during searches, which are resumed (about 40 minutes).
test-servers: setup
	$(BIN)/python tests/searches.py --only servers --kills 20

# Ten thousand mutated files of each kind, opened as commands open them, and ten thousand damaged images.
fuzz: setup
	$(BIN)/python tests/fuzz.py --cases 10000
	$(BIN)/python tests/data/fuzz_images.py

# Layouts of TIFF and PNG with known pixels: right or refused. Folders of unusual images: tests/data/corpus.py FOLDER...
test-layouts: setup
	$(BIN)/python tests/data/layouts.py --count 10000

# The default options against scikit-learn's tuned logistic regression on the same vectors.
measure-defaults: setup
	$(BIN)/python benchmarks/defaults.py

# Files and lines of each folder, and the structure's figures against their bounds.
house: setup
	$(BIN)/python benchmarks/house.py
