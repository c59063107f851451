"""Shoal: collective communication with NCCL's C interface.

``library()`` is the file to preload in place of NCCL, ``command()`` the program. ``import shoal.torch`` makes the
backend "shoal" known to torch.distributed.
"""

import os
import pathlib

__all__ = ["command", "include", "library"]

HERE = pathlib.Path(__file__).resolve().parent


def _find(names: list[str]) -> pathlib.Path:
    """A file of this package, or of the installation or build that SHOAL_HOME names."""
    home = os.environ.get("SHOAL_HOME")
    base = pathlib.Path(home) if home else HERE
    # As installed, and as built.
    tried = [base / name for name in names]
    for path in tried:
        if path.exists():
            return path
    listed = ", ".join(str(path) for path in tried)
    advice = "" if home else "; SHOAL_HOME may name an installation (make install PREFIX=...) or a checkout"
    raise FileNotFoundError(f"shoal: there is none of {listed}{advice}")


def library() -> pathlib.Path:
    """The library, whose SONAME is libnccl.so.2."""
    return _find(["lib/libnccl.so.2", "target/release/libshoal.so"])


def command() -> pathlib.Path:
    """The `shoal` program."""
    return _find(["bin/shoal", "target/release/shoal"])


def include() -> pathlib.Path:
    """Where nccl.h and shoal.h lie."""
    return _find(["include/nccl.h"]).parent
