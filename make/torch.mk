# Python and PyTorch. `make torch-check` brings torch from PyPI (about 3 GB with what it needs) into target/torch;
# SHOAL_TORCH_PYTHON=/path/to/python takes the torch of that Python instead.
PYTHON ?= python3
TORCH ?= 2.11.0
TORCH_PYTHON := $(if $(SHOAL_TORCH_PYTHON),$(SHOAL_TORCH_PYTHON),target/torch/$(TORCH)/bin/python)
TORCH_RECORD ?= benches/records/$(shell date -u +%F)-torch.jsonl
TRAIN_RECORD ?= benches/records/$(shell date -u +%F)-train.jsonl

.PHONY: wheel torch torch-check torch-own-tests torch-bench train-check
wheel: ## the Python package, for Python 3.10 and glibc 2.28 or newer, into target/wheel
	@test -e $(RELEASE)/libshoal.so -a -x $(RELEASE)/shoal || $(MAKE) release
	$(PYTHON) -m pip wheel --quiet --no-deps --wheel-dir target/wheel ./python

torch:
	@test -e $(TORCH_PYTHON) || scripts/bring_torch.sh $(TORCH)
	@test -e $(RELEASE)/libshoal.so -a -x $(RELEASE)/shoal || $(MAKE) release

torch-check: torch ## the torch backend beside Gloo, and torch's symbols bound to ours (TORCH=2.15.0; a large download)
	scripts/torch_check.sh $(TORCH_PYTHON)

torch-own-tests: torch ## PyTorch's own tests of its backends, with Gloo and with Shoal
	SHOAL_HOME=$(CURDIR) PYTHONPATH=$(CURDIR)/python $(TORCH_PYTHON) scripts/torch_own_tests.py

torch-bench: torch ## the torch backend beside Gloo and beside a backend that does nothing
	SHOAL_HOME=$(CURDIR) PYTHONPATH=$(CURDIR)/python $(TORCH_PYTHON) benches/torch/measure.py \
	    --record $(TORCH_RECORD) --commit $(BENCH_COMMIT)

train-check: torch ## trains a small model in five ways on 2 and 4 ranks; the losses must be Gloo's
	SHOAL_HOME=$(CURDIR) PYTHONPATH=$(CURDIR)/python $(TORCH_PYTHON) scripts/train_check.py \
	    --record $(TRAIN_RECORD) --commit $(BENCH_COMMIT)
