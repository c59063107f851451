"""Compiles the extension against the installed torch.

By the compiler itself: what torch brings for this needs ninja and setuptools, which a job may not have.
"""

import fcntl
import hashlib
import importlib.util
import os
import pathlib
import shutil
import subprocess
import sysconfig
import types

import torch

import shoal

HERE = pathlib.Path(__file__).resolve().parent
NAME = "_shoal_torch"
LIMIT_S = 600


def _flags(name: str) -> list[str]:
    """What the sources are compiled with."""
    headers = pathlib.Path(torch.__file__).parent / "include"
    return [
        *("-std=c++20", "-O2", "-fPIC", "-shared", "-fvisibility=hidden", "-Wno-attributes"),
        f"-DTORCH_EXTENSION_NAME={name}",
        f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}",
        *("-isystem", str(headers), "-isystem", str(headers / "torch/csrc/api/include")),
        *("-isystem", sysconfig.get_path("include"), "-I", str(shoal.include())),
    ]


def _binding() -> list[str]:
    """How torch's own binding was compiled; both halves have to agree."""
    values = {name: getattr(torch._C, f"_PYBIND11_{name}", None) for name in ("COMPILER_TYPE", "STDLIB", "BUILD_ABI")}
    return [f'-DPYBIND11_{name}="{value}"' for name, value in values.items() if value]


def _libraries() -> list[str]:
    folder = pathlib.Path(torch.__file__).parent / "lib"
    return [f"-L{folder}", "-lc10", "-ltorch_cpu", "-ltorch", "-ltorch_python", f"-Wl,-rpath,{folder}"]


def _compiler() -> str:
    name = os.environ.get("CXX") or next((name for name in ("c++", "g++", "clang++") if shutil.which(name)), None)
    if name is None:
        raise RuntimeError("shoal.torch: there is no C++ compiler; install g++, or name one in CXX")
    return name


def _place(name: str, folder: pathlib.Path) -> pathlib.Path:
    """Where the compiled extension lies: by everything that it depends on."""
    digest = hashlib.sha256(torch.__version__.encode())
    digest.update(sysconfig.get_config_var("SOABI").encode())
    for source in sorted([*folder.glob("*.?pp"), *shoal.include().glob("*.h")]):
        digest.update(source.read_bytes())
    digest.update(pathlib.Path(__file__).read_bytes())
    cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    return cache / "shoal" / f"torch-{digest.hexdigest()[:16]}" / f"{name}.so"


def compile_extension(name: str = NAME, folder: pathlib.Path = HERE) -> pathlib.Path:
    """The compiled extension of a folder. The first of several processes makes it, the others wait."""
    place = _place(name, folder)
    if place.exists():
        return place
    place.parent.mkdir(parents=True, exist_ok=True)
    with open(place.parent / "lock", "w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if place.exists():
            return place
        sources = [str(source) for source in sorted(folder.glob("*.cpp"))]
        made = place.with_suffix(".new")
        command = [_compiler(), *_flags(name), *_binding(), *sources, "-o", str(made), *_libraries()]
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)
        if done.returncode != 0:
            raise RuntimeError(
                f"shoal.torch: the extension does not compile for torch {torch.__version__}:\n"
                f"{' '.join(command)}\n{done.stderr[-4000:]}"
            )
        made.rename(place)
    return place


def load(name: str = NAME, folder: pathlib.Path = HERE) -> types.ModuleType:
    """The extension as a module."""
    path = compile_extension(name, folder)
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
