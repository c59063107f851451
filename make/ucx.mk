.PHONY: ucx-check

ucx-check: bring ## the tests of the network with UCX 1.22, from PyPI (43 MB)
	scripts/ucx_check.sh
