.PHONY: valgrind

valgrind: bring ## the C tests and examples under valgrind
	$(CARGO) build --locked
	scripts/valgrind.sh
