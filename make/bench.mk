# Measuring. `make bench-peers` compares this library with the machine's MPI libraries, side by side, and adds
# the figures to benches/records/. It needs Open MPI, MPICH and libclang:
#     apt install openmpi-bin libopenmpi-dev mpich libmpich-dev libclang-dev

CARGO ?= cargo
BENCH_SUITE ?= full
BENCH_ROUNDS ?= 5
BENCH_SECONDS ?= 0.1
BENCH_OPTIONS ?=
BENCH_RECORD ?= benches/records/$(shell date -u +%F)-peers.jsonl
BENCH_COMMIT ?= $(shell git describe --always --dirty 2>/dev/null || echo unknown)

.PHONY: bench-peers bench-peers-build
bench-peers: bench-peers-build
	target/release/shoal peers --suite $(BENCH_SUITE) --rounds $(BENCH_ROUNDS) --seconds $(BENCH_SECONDS) \
	    --record $(BENCH_RECORD) --commit $(BENCH_COMMIT) $(BENCH_OPTIONS)

# One program cannot link two MPIs, so there is one for each. `make release` links the library once more and
# better; where it was run, that library is the one beside the program.
bench-peers-build:
	@test -e target/release/libshoal.so -a -x target/release/shoal || $(CARGO) build --release
	MPICC=mpicc.openmpi $(CARGO) build --release --bin shoal --features mpi --target-dir target-openmpi
	MPICC=mpicc.mpich $(CARGO) build --release --bin shoal --features mpi --target-dir target-mpich
