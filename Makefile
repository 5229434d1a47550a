# Each target creates .venv if it is missing. Set DALI=cuda12 for drivers older than 580.
PYTHON ?= python3
DALI ?= cuda13
VENV := .venv/installed-$(DALI)
TIN := .venv/bin/tin

.PHONY: demo test lint faults fuzz bench nvcc test-cluster soak
demo: $(VENV)
	.venv/bin/python examples/demo.py demo

test: $(VENV)
	.venv/bin/python -m pytest

lint: $(VENV)
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy

# Injects thousands of faults and prints a table, which fails if a result is lost or silently wrong.
# `make test` has a short form. SEED=1 injects others; ONLY=killed selects kinds by their names.
faults: $(VENV)
	PYTHONPATH=.:tests/helpers:tests/faults .venv/bin/python tests/faults/run.py \
	    --seed $(or $(SEED),0) --only '$(ONLY)'

# Mutates the files that are read, ten minutes of CPU time for each reader, and prints a table.
# `make test` has a short form. ONLY=checkpoints selects readers by their names.
fuzz: $(VENV)
	PYTHONPATH=.:tests/helpers:tests/faults .venv/bin/python tests/faults/fuzz.py \
	    --seconds $(or $(SECONDS),600) --seed $(or $(SEED),0) --only '$(ONLY)'

bench: $(VENV)
	$(TIN) op build
	$(TIN) bench op
	$(TIN) bench model

# The CUDA compiler and disassembler, for the tests of the machine code. They have an environment of
# their own, because a torch for GPUs may need other versions of some of these packages.
nvcc: .venv/nvcc/installed
.venv/nvcc/installed: Makefile
	$(PYTHON) -m venv .venv/nvcc
	.venv/nvcc/bin/pip install --quiet --disable-pip-version-check \
	    nvidia-cuda-nvcc==13.0.88 nvidia-cuda-crt==13.0.88 nvidia-nvvm==13.0.88 \
	    nvidia-cuda-runtime==13.0.96 nvidia-cuda-cccl==13.0.85 nvidia-cuda-nvdisasm==13.2.86
	.venv/nvcc/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))" \
	    | sed 's|$$|/nvidia/cu13/bin|' >$@

# SLURM=24.11 runs them in a folder of its own (tests/helpers/slurm_folder.py).
SLURM ?= 22.05
CLUSTER := TIN_REQUIRE_SLURM=1 .venv/bin/python tests/helpers/slurm_folder.py $(SLURM) \
	.venv/bin/python -m pytest

test-cluster: $(VENV)
	$(TIN) op build
	$(CLUSTER) $(or $(TESTS),tests/cluster)

soak: $(VENV)
	$(TIN) op build
	$(CLUSTER) -m soak tests/cluster

$(VENV): setup.cfg constraints.txt
	$(PYTHON) -m venv .venv
	.venv/bin/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[$(DALI),dev,export,flow,parquet,nvml]'
	touch $@
