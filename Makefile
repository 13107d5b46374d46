# Two commands: `make demo` tracks a clip on a fresh machine, `make test` runs everything that CI runs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo test lint types layers unit test-long test-ray mutants frontend frontend-check locks bench clean

$(BIN)/pip:
	$(PYTHON) -m venv $(VENV)

# What a user gets: no extras, no torch.
$(VENV)/.core: $(BIN)/pip pyproject.toml constraints.txt
	$(INSTALL) --editable .
	touch $@

# What a developer gets. torch first and pinned: an open range would pull gigabytes of CUDA.
$(VENV)/.dev: $(VENV)/.core
	$(INSTALL) "$$(grep '^torch==' constraints.txt)"
	$(INSTALL) --editable '.[analyse,aws,features,label,openvino,postgresql,serve,store,train,dev]'
	touch $@

demo: $(VENV)/.core
	$(BIN)/rallytrace synth demo/rally.mp4 --seconds 6 --seed 6 --overwrite
	$(BIN)/rallytrace track demo/rally.mp4 --out demo --overwrite

test: lint types layers unit

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev
	$(BIN)/mypy

layers: $(VENV)/.dev
	$(BIN)/lint-imports

# One thread for torch and onnxruntime: on shared machines two threads wait for each other more than they work. Three
# processes for two cores, as many tests wait for servers and browsers; the slow files come first by their names.
unit: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 3 --dist loadfile --no-loadscope-reorder --durations=25

# The same and what takes long: many examples of each property, fifty kills, several hosts that train together, Ray.
test-long: $(VENV)/.dev test-ray
	RALLYTRACE_LONG=1 OMP_NUM_THREADS=1 $(BIN)/pytest -n 3 --dist loadfile --no-loadscope-reorder -o timeout=3600

# Half a gigabyte and minutes of starting nodes: a job of its own. Kills workers of every kind.
test-ray: $(VENV)/.dev
	$(INSTALL) --editable '.[ray]'
	OMP_NUM_THREADS=1 $(BIN)/pytest tests/scale/test_ray.py

# Deliberate mistakes in the core, one by one, in a copy: prints those that the tests do not see. Takes half an hour of
# one core; `make mutants MUTATE="window.py --most 20"` is one module and fewer of them.
mutants: $(VENV)/.dev
	$(INSTALL) cosmic-ray
	$(BIN)/python tests/mutants.py $(MUTATE)

# The labelling workspace's pages: built by node 20 or newer, committed, so that users need no node.
frontend:
	cd frontend && npm ci --no-audit --no-fund && npm run lint && npm run typecheck && npm test && npm run build

frontend-check:
	cd frontend && npm ci --no-audit --no-fund && npm run lint && npm run typecheck && npm test
	out=$$(mktemp -d)/static && (cd frontend && RALLYTRACE_STATIC=$$out npm run build) && diff -r $$out src/rallytrace/label/static

# The packages of the images, each with the hashes of its files. With uv: pip install uv.
LOCK := uv pip compile --quiet --generate-hashes --python-version 3.11 --python-platform linux --no-annotate --no-header
IMAGE := pyproject.toml -c constraints.txt --extra serve --extra aws --extra store
CUDA := docker/locks/cuda.in --override docker/locks/cuda.override
locks:
	$(LOCK) docker/locks/build.in -o docker/locks/build.txt
	$(LOCK) $(IMAGE) -o docker/locks/cpu.txt
	$(LOCK) $(IMAGE) --extra train -o docker/locks/cpu-train.txt
	$(LOCK) $(IMAGE) $(CUDA) -o docker/locks/cuda.txt
	$(LOCK) $(IMAGE) $(CUDA) --extra train -o docker/locks/cuda-train.txt

bench: $(VENV)/.dev
	$(BIN)/python benchmarks/track.py
	$(BIN)/python benchmarks/memory.py
	$(BIN)/python benchmarks/loader.py
	$(BIN)/python benchmarks/label.py
	$(BIN)/python benchmarks/serve.py

clean:
	rm -rf $(VENV) frontend/node_modules demo build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
