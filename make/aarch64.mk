.PHONY: check-aarch64

check-aarch64: ## type-checks for aarch64, where that target's standard library is installed
	scripts/check_aarch64.sh
