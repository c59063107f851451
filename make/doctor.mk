CARGO ?= cargo

.PHONY: doctor
doctor: ## what this machine offers, what is wrong with it, and what to do
	$(CARGO) build --release --locked --bin shoal
	target/release/shoal doctor
