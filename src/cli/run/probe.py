"""What the job's Python has: `stock` prints the path of its NCCL; a framework's name loads that and says whose it got."""

import glob
import importlib
import importlib.metadata
import importlib.util
import json
import os
import sys


def stock():
    """NVIDIA's wheel, which torch and JAX bring."""
    try:
        places = importlib.util.find_spec("nvidia.nccl").submodule_search_locations
    except (ImportError, AttributeError):
        places = []
    for place in places or []:
        for path in sorted(glob.glob(os.path.join(place, "lib", "libnccl.so.2"))):
            return path
    return ""


def loaded():
    """The NCCLs in this process."""
    with open("/proc/self/maps", encoding="utf-8") as maps:
        paths = {line.split(maxsplit=5)[5].strip() for line in maps if line.count("/") > 0}
    names = ("libnccl.so", "libshoal.so")
    return sorted(path for path in paths if os.path.basename(path).startswith(names))


def torch():
    """Its own library wants libnccl.so.2 by name; the extension of c10d is in it."""
    module = importlib.import_module("torch")
    if not module.distributed.is_available() or not module.distributed.is_nccl_available():
        return None, "has no NCCL; for tensors in host memory: import shoal.torch, init_process_group(\"shoal\")"
    return True, "takes it, also where there is no GPU to run it on"


def cupy():
    """A module of its own, linked with libnccl.so.2."""
    importlib.import_module("cupy_backends.cuda.libs.nccl")
    return True, "takes it"


def jax():
    """Its plugin opens libnccl.so.2 by name, when it first communicates."""
    if not any(importlib.util.find_spec(f"jax_cuda{major}_plugin") for major in (12, 13)):
        return None, "has no CUDA plugin, so it asks for no NCCL"
    import ctypes

    ctypes.CDLL("libnccl.so.2")
    return True, "opens libnccl.so.2 by name, which is this one"


def vllm():
    """It opens VLLM_NCCL_SO_PATH, else libnccl.so.2 by name."""
    import ctypes

    ctypes.CDLL(os.environ.get("VLLM_NCCL_SO_PATH") or "libnccl.so.2")
    return True, "opens this one (`shoal run` sets VLLM_NCCL_SO_PATH where it is set)"


def main():
    """Answers the question in the first argument."""
    question = sys.argv[1]
    if question == "stock":
        print(stock())
        return
    if importlib.util.find_spec(question) is None:
        takes, text = None, "is not installed"
    else:
        takes, text = globals()[question]()
        version = "" if question == "cupy" else importlib.metadata.version(question)
        text = f"{version}: {text}".removeprefix(": ")
        ours = os.path.realpath(sys.argv[2])
        others = [path for path in loaded() if os.path.realpath(path) != ours]
        if takes and others:
            takes, text = False, f"{version} loads {', '.join(others)} past it; tell us with this line"
    print(json.dumps({"takes": takes, "text": text}))


main()
