# One command per task; `make` alone lists them.
CARGO ?= cargo

.DEFAULT_GOAL := help
.PHONY: help demo test test-long lint format bring

help: ## lists the tasks
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sort | awk -F ':.*## ' '{ printf "  make %-15s %s\n", $$1, $$2 }'

demo: ## builds, starts ranks by itself, and shows small messages with and without coalescing
	$(CARGO) build --release --locked
	scripts/demo.sh

bring: ## brings what the tests need (as root), or says what to install
	scripts/bring.sh

test: bring ## every test, with what it needs
	scripts/test.sh

test-long: bring ## every test with its full number of seeds, and the ones that are ignored otherwise
	SHOAL_TEST_CAMPAIGN=full scripts/test.sh --long

lint: ## format, clippy and documentation; any warning is an error
	$(CARGO) fmt --all -- --check
	$(CARGO) clippy --all-targets --locked -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --no-deps --locked

format: ## formats the sources
	$(CARGO) fmt --all

-include $(wildcard make/*.mk)
