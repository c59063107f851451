.PHONY: instructions

instructions: ## counts the instructions of the hot paths anew, for benches/records/instructions.jsonl
	SHOAL_TEST_RECORD_INSTRUCTIONS=1 $(CARGO) test --locked --test instructions -- --nocapture
