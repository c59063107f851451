#!/usr/bin/env python3
"""Shoal's backend of torch.distributed beside Gloo and beside backends that do nothing, in turn, in one run.

    benches/torch/measure.py --rounds 9 --record benches/records/DATE-torch.jsonl --commit COMMIT

Two ranks. Every round measures each piece of work with each backend; what counts is the median of the rounds.
"""

import argparse
import datetime
import json
import multiprocessing
import os
import pathlib
import statistics
import tempfile
import time
import typing

import shoal.torch
import torch
import torch.distributed as dist
from shoal.torch import build

HERE = pathlib.Path(__file__).resolve().parent
RANKS = 2
# Of one piece of work with one backend in one round.
SLICE_S = 0.06


class PythonWork(dist.Work):
    """Done from the start."""

    def wait(self, timeout: typing.Any = None) -> bool:
        return True


class PythonNothing(dist.ProcessGroup):
    """A process group that does nothing, written in Python."""

    def __init__(self, rank: int, size: int) -> None:
        super().__init__(rank, size)

    def getBackendName(self) -> str:  # noqa: N802 - torch calls it so
        return "nothing-python"

    @property
    def group_name(self) -> str:
        return dist.distributed_c10d._world.pg_names[self]

    def allreduce(self, tensors: typing.Any, options: typing.Any = None) -> PythonWork:
        return PythonWork()

    def send(self, tensors: typing.Any, target: int, tag: int = 0) -> PythonWork:
        return PythonWork()

    def recv(self, tensors: typing.Any, source: int, tag: int = 0) -> PythonWork:
        return PythonWork()


def allreduce(size_bytes: int) -> typing.Callable[[int, typing.Any], typing.Callable[[], None]]:
    def make(rank: int, group: typing.Any) -> typing.Callable[[], None]:
        tensor = torch.zeros(size_bytes // 4)
        return lambda: dist.all_reduce(tensor, group=group)

    return make


def sendrecv(rank: int, group: typing.Any) -> typing.Callable[[], None]:
    tensor = torch.zeros(2)

    def ping() -> None:
        dist.send(tensor, 1, group=group)
        dist.recv(tensor, 1, group=group)

    def pong() -> None:
        dist.recv(tensor, 0, group=group)
        dist.send(tensor, 0, group=group)

    return pong if rank else ping


def batch(rank: int, group: typing.Any) -> typing.Callable[[], None]:
    out = [torch.zeros(64) for _ in range(64)]
    into = [torch.zeros(64) for _ in range(64)]

    def exchange() -> None:
        operations = [dist.P2POp(dist.isend, tensor, 1 - rank, group) for tensor in out]
        operations += [dist.P2POp(dist.irecv, tensor, 1 - rank, group) for tensor in into]
        for work in dist.batch_isend_irecv(operations):
            work.wait()

    return exchange


# A ping-pong is two messages.
WORK = {
    "all_reduce 8 B": (allreduce(8), 1),
    "all_reduce 64 KiB": (allreduce(64 << 10), 1),
    "all_reduce 32 MiB": (allreduce(32 << 20), 1),
    "send and receive 8 B": (sendrecv, 2),
    "batch_isend_irecv 64 x 256 B": (batch, 1),
}


def rate(body: typing.Callable[[], None], count: int) -> float:
    """Seconds of one call, when both ranks start together."""
    dist.barrier()
    start = time.perf_counter()
    for _ in range(count):
        body()
    return (time.perf_counter() - start) / count


def rank_main(rank: int, folder: str, rounds: int, names: list[str], results: typing.Any) -> None:
    torch.set_num_threads(1)
    store = dist.FileStore(f"{folder}/store", RANKS)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=RANKS)
    groups = {name: dist.new_group(backend=name) for name in names}
    bodies = {(work, name): make(rank, groups[name]) for work, (make, _) in WORK.items() for name in names}
    counts = {}
    for key, body in bodies.items():
        body()
        # As many as fit into the slice, and equally many on both ranks.
        count = torch.tensor([max(1, int(SLICE_S / max(rate(body, 3), 1e-6)))])
        dist.broadcast(count, 0)
        counts[key] = int(count.item())
    times: dict[tuple[str, str], list[float]] = {key: [] for key in bodies}
    for _ in range(rounds):
        for key, body in bodies.items():
            times[key].append(rate(body, counts[key]) * 1e6 / WORK[key[0]][1])
    if rank == 0:
        results.put(times)
        results.close()
        results.join_thread()
    dist.barrier()
    os._exit(0)


def measure(rounds: int) -> dict[tuple[str, str], list[float]]:
    nothing = build.load("nothing", HERE)
    create = lambda store, rank, size, timeout: nothing.create(rank, size)  # noqa: E731
    dist.Backend.register_backend("nothing", create, devices=["cpu"])
    in_python = lambda store, rank, size, timeout: PythonNothing(rank, size)  # noqa: E731
    dist.Backend.register_backend("nothing-python", in_python, devices=["cpu"])
    shoal.torch._load()
    names = ["nothing", "nothing-python", "shoal", "gloo"]
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    with tempfile.TemporaryDirectory() as folder:
        arguments = [(rank, folder, rounds, names, results) for rank in range(RANKS)]
        ranks = [context.Process(target=rank_main, args=each) for each in arguments]
        for each in ranks:
            each.start()
        times = results.get(timeout=300)
        for each in ranks:
            each.join(30)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--record", type=pathlib.Path)
    parser.add_argument("--commit", default="unknown")
    options = parser.parse_args()
    times = measure(options.rounds)
    head = {"date": datetime.date.today().isoformat(), "commit": options.commit, "torch": torch.__version__}
    lines = []
    for (work, backend), list_us in times.items():
        row = {"work": work, "backend": backend, "median_us": round(statistics.median(list_us), 3)}
        row |= {"low_us": round(min(list_us), 3), "high_us": round(max(list_us), 3)}
        lines.append(head | row | {"rounds": options.rounds, "ranks": RANKS})
        print(f"{work:30} {backend:15} {row['median_us']:12.3f} us  ({row['low_us']} to {row['high_us']})")
    if options.record:
        with open(options.record, "a", encoding="ascii") as record:
            record.writelines(json.dumps(line) + "\n" for line in lines)


if __name__ == "__main__":
    main()
