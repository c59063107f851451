.PHONY: gpu-check

gpu-check: ## on a machine with a card: facts, symbols beside torch, memory between processes
	$(CARGO) build --release --locked
	python3 scripts/gpu_check.py
