# What is simulated: the pictures of docs/regions, and the fit of docs/simulate.md to what was measured.
REGIONS_OPERATIONS ?= allreduce reduce broadcast allgather reducescatter alltoall gather scatter
REGIONS_MACHINES ?= cluster six flat host
REGIONS_RANKS ?= 256
SIMULATE_RECORD ?= $(lastword $(sort $(wildcard benches/records/*-simulate.jsonl)))

.PHONY: regions simulate-fit
regions: ## draws which algorithm is fastest where, simulated, into docs/regions/
	@test -x target/release/shoal || $(CARGO) build --release --locked
	for machine in $(REGIONS_MACHINES); do \
	    for op in $(REGIONS_OPERATIONS); do \
	        target/release/shoal simulate --regions --op $$op --ranks $(REGIONS_RANKS) \
	            --topology docs/regions/$$machine.txt --output docs/regions/$$machine-$$op.svg \
	            --format json > docs/regions/$$machine-$$op.jsonl || exit 1; \
	    done; \
	done

simulate-fit: ## fits the simulated host to the newest benches/records/*-simulate.jsonl
	@test -x target/release/shoal || $(CARGO) build --release --locked
	target/release/shoal simulate --fit $(SIMULATE_RECORD) --output docs/regions/measured.txt
