# Measuring. `make bench-peers` compares this library with the machine's MPI libraries, with UCX and with Gloo, side
# by side, and adds the figures to benches/records/. Who is not there is named and left out:
#     apt install openmpi-bin libopenmpi-dev mpich libmpich-dev libclang-dev libucx0 libgloo-dev

CARGO ?= cargo
BENCH_SUITE ?= full
BENCH_ROUNDS ?= 5
BENCH_SECONDS ?= 0.1
BENCH_OPTIONS ?=
BENCH_RECORD ?= benches/records/$(shell date -u +%F)-peers.jsonl
BENCH_COMMIT ?= $(shell git describe --always --dirty 2>/dev/null || echo unknown)

.PHONY: bench-peers bench-hosts bench-peers-build bench-gloo bench-coalescing bench-criterion plots
bench-peers: bench-peers-build ## measures this library side by side with MPI, UCX and Gloo (BENCH_SUITE=small, ...)
	target/release/shoal peers --suite $(BENCH_SUITE) --rounds $(BENCH_ROUNDS) --seconds $(BENCH_SECONDS) \
	    --record $(BENCH_RECORD) --commit $(BENCH_COMMIT) $(BENCH_OPTIONS)

# Two hosts are two namespaces of networks that a bridge joins. BENCH_BLOCKS=0,1 measures a part, a minute each.
HOSTS_RECORD ?= benches/records/$(shell date -u +%F)-hosts.jsonl
bench-hosts: bench-peers-build ## the same between two hosts, over TCP, beside ucx_perftest as well (BENCH_BLOCKS=0,1, ...)
	scripts/hosts.sh make 2 target/release/shoal peers --suite hosts --hosts 2 --rounds $(BENCH_ROUNDS) \
	    --seconds $(BENCH_SECONDS) --record $(HOSTS_RECORD) --commit $(BENCH_COMMIT) \
	    $(if $(BENCH_BLOCKS),--blocks $(BENCH_BLOCKS)) $(BENCH_OPTIONS)

# One program cannot link two MPIs, so there is one for each. `make release` links the library once more and
# better; where it was run, that library is the one beside the program.
bench-peers-build:
	@test -e target/release/libshoal.so -a -x target/release/shoal || $(CARGO) build --release
	MPICC=mpicc.openmpi $(CARGO) build --release --bin shoal --features mpi --target-dir target-openmpi
	MPICC=mpicc.mpich $(CARGO) build --release --bin shoal --features mpi --target-dir target-mpich
	@$(MAKE) bench-gloo || echo "Gloo is left out"

# Gloo has a C++ interface only, so what the command needs of it is wrapped in C.
bench-gloo:
	mkdir -p target/gloo
	$(CXX) -std=c++17 -O2 -shared -fPIC -o target/gloo/libgloo_wrapper.so benches/gloo/wrapper.cc -lgloo

# Coalescing on against off, in turn: nowhere may it be slower beyond the band.
COALESCING_MESSAGES ?= 1 4 16 64 256 1024
bench-coalescing: ## coalescing on against off, 1 B to 64 KiB, 1 to 1,024 messages
	@test -e target/release/libshoal.so -a -x target/release/shoal || $(CARGO) build --release
	for messages in $(COALESCING_MESSAGES); do \
	    target/release/shoal bench --op exchange -m $$messages -b 1 -e 64K -f 4 -d uint8 \
	        --seconds $(BENCH_SECONDS) --against SHOAL_COALESCE=0 || exit 1; \
	done

bench-criterion: ## runs the micro-benchmarks and adds their figures to benches/records/
	$(CARGO) bench --benches
	scripts/criterion_record.py $(BENCH_COMMIT) >> benches/records/$(shell date -u +%F)-criterion.jsonl

# The pictures of a record of the curve suite: make bench-peers BENCH_SUITE=curve BENCH_RECORD=...
PLOT_RECORD ?= $(lastword $(sort $(wildcard benches/records/*-curve.jsonl)))
plots: ## draws the pictures of the newest record of the curve suite (PLOT_RECORD=...)
	@test -n "$(PLOT_RECORD)" || { echo "plots: no benches/records/*-curve.jsonl; make bench-peers BENCH_SUITE=curve" \
	    "BENCH_RECORD=benches/records/DATE-curve.jsonl writes one" >&2; exit 1; }
	target/release/shoal plot $(PLOT_RECORD) --op exchange --messages 64 --output $(PLOT_RECORD:.jsonl=-exchange.svg)
	target/release/shoal plot $(PLOT_RECORD) --op sendrecv --messages 1 --output $(PLOT_RECORD:.jsonl=-sendrecv.svg)
