# Models the shared-memory ring under every interleaving of two threads.
.PHONY: loom
loom:
	RUSTFLAGS="--cfg loom" LOOM_MAX_PREEMPTIONS=3 cargo test --target-dir target-loom --lib transport::shm::model
