"""What the job's Python has: `stock` prints the path of its NCCL; a framework's name loads that and says whose it got."""

import ctypes
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


def address(library, name):
    """Where a function of a library lies."""
    return ctypes.cast(getattr(library, name), ctypes.c_void_p).value


def is_first():
    """Whether who is linked with NCCL is bound to ours, even if another one is loaded behind it."""
    ours = ctypes.CDLL(sys.argv[2])
    return address(ctypes.CDLL(None), "ncclGetVersion") == address(ours, "ncclGetVersion")


def is_opened(name):
    """Whether who opens NCCL by this name gets ours."""
    return hasattr(ctypes.CDLL(name), "shoalStreamCreate")


def torch():
    """Its library is linked with libnccl.so.2; the wheels also load NVIDIA's by its path, which then lies idle."""
    module = importlib.import_module("torch")
    if not module.distributed.is_available() or not module.distributed.is_nccl_available():
        return None, "has no NCCL; for tensors in host memory: import shoal.torch, init_process_group(\"shoal\")"
    return is_first(), "linked with NCCL"


def cupy():
    """A module of its own, linked with libnccl.so.2."""
    importlib.import_module("cupy_backends.cuda.libs.nccl")
    return is_first(), "linked with NCCL"


def jax():
    """Its plugin opens libnccl.so.2 by name, when it first communicates."""
    if not any(importlib.util.find_spec(f"jax_cuda{major}_plugin") for major in (12, 13)):
        return None, "has no CUDA plugin, so it asks for no NCCL"
    return is_opened("libnccl.so.2"), "opens NCCL by name"


def vllm():
    """It opens VLLM_NCCL_SO_PATH, else libnccl.so.2 by name."""
    name = os.environ.get("VLLM_NCCL_SO_PATH") or "libnccl.so.2"
    if is_opened(name):
        return True, f"opens {name}"
    # `shoal run` sets the variable anew.
    return True, f"opens {name}, in place of which `shoal run` names this library"


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
        if question != "cupy":
            text = f"{importlib.metadata.version(question)}, {text}"
        if takes is not None:
            text += ": takes this library" if takes else ": gets another NCCL; is something else preloaded before it?"
    print(json.dumps({"takes": takes, "text": text}))


main()
