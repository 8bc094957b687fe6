# make demo: a complete example.  make test: the tests.  Both create .venv if needed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
OUT ?= results/demo-report

.DEFAULT_GOAL := help
.PHONY: help install demo test test-random test-elsewhere test-browser test-distributed test-slurm lint types evidence soak benchmark gpu-check devcluster \
	devcluster-down clean

help:  ## List the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

# A virtual environment works only in the folder and with the Python that it was created with.
ifneq ($(shell $(BIN)/python -c '' 2>/dev/null && cat $(INSTALLED) 2>/dev/null),$(CURDIR))
.PHONY: $(INSTALLED)
endif

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed; '$(PYTHON)' is older. Use make PYTHON=/path/to/python3.11"; exit 2; }
	@[ ! -s $@ ] || [ "$$(cat $@)" = "$(CURDIR)" ] || rm -rf $(VENV)
	@$(BIN)/python -c '' 2>/dev/null || { rm -rf $(VENV); $(PYTHON) -m venv $(VENV); }
	@echo "Installing into $(VENV) (a few minutes the first time) ..."
	@# Install torch first, to fix its exact version before other packages request a range.
	@$(BIN)/python -m pip install -q --disable-pip-version-check "$$(grep -E '^torch==' constraints.txt)"
	@$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@$(BIN)/python -m tensloradist.fit_torchvision
	@echo "$(CURDIR)" > $@

install: $(INSTALLED)  ## Create the virtual environment .venv

demo: $(INSTALLED)  ## Train the demo sweep, print its tables and write its report
	$(BIN)/tensloradist launch demo
	$(BIN)/tensloradist report demo --out $(OUT)

SUITE := -q -n auto --dist loadfile --ignore tests/slurm --ignore tests/browser --ignore tests/distributed \
	-m "not evidence and not slurm and not browser and not distributed"
ANY_ORDER := --random-order --random-order-bucket global --hypothesis-profile random

test: $(INSTALLED)  ## Run all tests except those of the other test targets and of evidence
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(SUITE)

test-random: $(INSTALLED)  ## Run the tests of `make test` in a random order on random examples
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(SUITE) $(ANY_ORDER)

test-elsewhere: $(INSTALLED)  ## Run the tests of `make test` as a user without a home, in another locale and time zone (root)
	tests/elsewhere.sh $(SUITE) $(ANY_ORDER)

test-browser: $(INSTALLED)  ## Test the report's page in a headless Chromium (Debian's package chromium)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m "browser and not evidence" tests/browser

test-distributed: $(INSTALLED)  ## Test two and four processes that train together with DDP and ZeRO on the CPU
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile -m "distributed and not evidence" \
		tests/distributed tests/launch/test_launch.py tests/launch/test_worker.py tests/training/test_resume.py \
		tests/training/test_train.py tests/test_throughput.py tests/docs/test_blocks.py

test-slurm: $(INSTALLED)  ## Inject faults into a real Slurm cluster on this machine (root, slurm/devcluster/README.md)
	$(BIN)/python -m pytest -q -n 3 --dist loadgroup -m "slurm and not evidence" tests/slurm

devcluster: $(INSTALLED)  ## Start the one-machine Slurm cluster in ./.devcluster
	slurm/devcluster/up.sh

devcluster-down:  ## Stop the one-machine Slurm cluster
	slurm/devcluster/down.sh

lint: $(INSTALLED)  ## Run ruff
	$(BIN)/ruff check .

types: $(INSTALLED)  ## Run mypy
	$(BIN)/mypy

benchmark: $(INSTALLED)  ## Compare step time and memory with PEFT's LoRA (about 15 minutes on 2 cores)
	$(BIN)/python tests/benchmarks/adapter_step.py --members tucker --bound 1.05

# Works without an installation: a machine with a GPU may have no network, and another build of torch.
gpu-check:  ## Check this machine's GPU part by part in ten minutes (on the CPU: tiny models, in four)
	$(if $(shell $(BIN)/python -c 'print(1)' 2>/dev/null),$(BIN)/python,$(PYTHON)) tests/benchmarks/gpu_check $(if $(PARTS),--parts $(PARTS)) $(if $(LIMIT),--limit $(LIMIT))

UNLIMITED := --timeout 0 -o faulthandler_timeout=0

evidence: test-random test-elsewhere  ## Run scale tests, benchmarks and long repeats
	$(BIN)/python -m pytest -q -s $(UNLIMITED) -m evidence
	$(BIN)/python tests/benchmarks/adapter_step.py --members tucker --bound 1.05
	$(BIN)/python tests/benchmarks/adapter_step.py --steps 12 --batch 4
	$(BIN)/python tests/benchmarks/scaling.py --only memory --updates 2 --batch 4 --processes 1 2 4 --hidden 1280 \
		--layers 12 --strategies single ddp zero3

soak: $(INSTALLED)  ## Train 200 runs on the development cluster, with a random fault every few seconds for ten minutes
	$(BIN)/python -m pytest -q -s $(UNLIMITED) -m evidence tests/slurm/test_soak.py

clean:  ## Remove the virtual environment and caches, but never results
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache *.egg-info build dist
