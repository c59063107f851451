"""The same library from Python, with nothing but ctypes.

    python3 examples/03_python.py target/release/libshoal.so

Three processes gather each other's squares. Any buffer that ctypes can point to will do.
"""

import ctypes
import multiprocessing
import sys

RANKS = 3
INT32 = 2


class UniqueId(ctypes.Structure):
    """128 bytes that the ranks of a communicator share; passed by value."""

    _fields_ = [("internal", ctypes.c_char * 128)]


class Nccl:
    """The functions that this example calls."""

    def __init__(self, path):
        self.library = ctypes.CDLL(path)
        self.library.ncclGetErrorString.restype = ctypes.c_char_p
        self.library.ncclGetLastError.restype = ctypes.c_char_p
        self.library.ncclCommInitRank.argtypes = [
            ctypes.POINTER(ctypes.c_void_p),
            ctypes.c_int,
            UniqueId,
            ctypes.c_int,
        ]
        self.library.ncclAllGather.argtypes = [
            ctypes.c_void_p,
            ctypes.c_void_p,
            ctypes.c_size_t,
            ctypes.c_int,
            ctypes.c_void_p,
            ctypes.c_void_p,
        ]
        self.library.ncclCommDestroy.argtypes = [ctypes.c_void_p]

    def call(self, name, *arguments):
        """Calls a function, and turns a result that is no success into an exception."""
        result = getattr(self.library, name)(*arguments)
        if result != 0:
            text = self.library.ncclGetErrorString(result).decode()
            raise RuntimeError(f"{name}: {text}: {self.library.ncclGetLastError(None).decode()}")


def run(path, rank, identity):
    """One rank: sends two numbers, receives everybody's."""
    nccl = Nccl(path)
    comm = ctypes.c_void_p()
    nccl.call("ncclCommInitRank", ctypes.byref(comm), RANKS, UniqueId.from_buffer_copy(identity), rank)
    mine = (ctypes.c_int32 * 2)(rank, rank * rank)
    everybody = (ctypes.c_int32 * (2 * RANKS))()
    nccl.call("ncclAllGather", mine, everybody, len(mine), INT32, comm, None)
    nccl.call("ncclCommDestroy", comm)
    # One write, so that lines of threads do not run into each other.
    sys.stdout.write(f"rank {rank} of {RANKS}: {list(everybody)}\n")
    sys.stdout.flush()


def main():
    """Makes the id, starts the other ranks, and is rank 0 itself."""
    if len(sys.argv) != 2:
        sys.exit("usage: 03_python.py LIBRARY")
    path = sys.argv[1]
    identity = UniqueId()
    Nccl(path).call("ncclGetUniqueId", ctypes.byref(identity))
    start = multiprocessing.get_context("spawn").Process
    others = [start(target=run, args=(path, rank, bytes(identity))) for rank in range(1, RANKS)]
    for other in others:
        other.start()
    run(path, 0, bytes(identity))
    for other in others:
        other.join()
    sys.exit(max(other.exitcode for other in others))


if __name__ == "__main__":
    main()
