"""The backend "shoal" of torch.distributed, for tensors in host memory.

    import shoal.torch
    torch.distributed.init_process_group("shoal")          # or "cpu:shoal,cuda:nccl"

The extension is compiled for the installed torch at first use, for which a C++ compiler is needed, and kept in
the user's cache. ``python -m shoal.torch`` compiles it ahead.
"""

import datetime
import typing

import torch.distributed as dist

import shoal
from shoal.torch import build

__all__ = ["monitored_barrier"]

_extension: typing.Any = None


def _load() -> typing.Any:
    """The extension, with the library loaded."""
    global _extension
    if _extension is None:
        extension = build.load()
        extension.open(str(shoal.library()))
        _extension = extension
    return _extension


def _create(store: dist.Store, rank: int, size: int, timeout: datetime.timedelta) -> typing.Any:
    """What torch calls for each process group."""
    return _load().create(store, rank, size, timeout)


def monitored_barrier(
    group: dist.ProcessGroup | None = None,
    timeout: datetime.timedelta | None = None,
    wait_all_ranks: bool = False,
) -> None:
    """torch.distributed.monitored_barrier, which torch itself keeps for Gloo."""
    group = group or dist.group.WORLD
    if timeout is None:
        group.monitored_barrier(wait_all_ranks=wait_all_ranks)
    else:
        group.monitored_barrier(timeout, wait_all_ranks)


# A second import of a reloaded module must not register twice.
if not hasattr(dist.Backend, "SHOAL"):
    dist.Backend.register_backend("shoal", _create, devices=["cpu"])
