.PHONY: nccl-check

nccl-check: bring ## our header and symbols beside NVIDIA's, from PyPI (300 MB)
	scripts/nccl_check.sh
