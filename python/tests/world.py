"""Ranks for tests: processes forked from this one, which has imported torch already."""

import datetime
import multiprocessing
import os
import pathlib
import tempfile
import time
import traceback
import typing
import unittest

import torch
import torch.distributed as dist

import shoal.torch

Body = typing.Callable[[int, int], None]

LIMIT_S = 120


def _rank(body: Body, rank: int, ranks: int, folder: str, timeout_s: float, outcomes: typing.Any) -> None:
    """One rank: Gloo as the default group, since it is what Shoal is compared with."""
    torch.set_num_threads(1)
    torch.manual_seed(rank)
    try:
        store = dist.FileStore(f"{folder}/store", ranks)
        timeout = datetime.timedelta(seconds=timeout_s)
        dist.init_process_group("gloo", store=store, rank=rank, world_size=ranks, timeout=timeout)
        body(rank, ranks)
        outcomes.put((rank, None))
    except BaseException:  # noqa: BLE001 - whatever it is, the parent tells it
        outcomes.put((rank, traceback.format_exc()))
    # The queue's thread has to send it; nothing else is left to do.
    outcomes.close()
    outcomes.join_thread()
    os._exit(0)


def run(body: Body, ranks: int = 2, timeout_s: float = 60, dying: typing.Collection[int] = ()) -> None:
    """Runs `body` on every rank; fails with the first rank's trace. Those of `dying` end as they like."""
    context = multiprocessing.get_context("fork")
    outcomes = context.Queue()
    with tempfile.TemporaryDirectory() as folder:
        arguments = lambda rank: (body, rank, ranks, folder, timeout_s, outcomes)  # noqa: E731
        members = [context.Process(target=_rank, args=arguments(rank)) for rank in range(ranks)]
        for member in members:
            member.start()
        problems = _collect(outcomes, members, ranks - len(dying))
        for member in members:
            member.join(5)
            if member.is_alive():
                member.kill()
    if problems:
        raise AssertionError("\n".join(problems))


def _collect(outcomes: typing.Any, members: list[typing.Any], expected: int) -> list[str]:
    """What went wrong, from as many ranks as are expected to say."""
    problems: list[str] = []
    end = time.monotonic() + LIMIT_S
    for _ in range(expected):
        try:
            rank, problem = outcomes.get(timeout=max(0.1, end - time.monotonic()))
        except Exception:  # noqa: BLE001 - the queue is empty
            codes = [member.exitcode for member in members]
            problems.append(f"a rank said nothing within {LIMIT_S} s; exit codes {codes}")
            break
        if problem:
            problems.append(f"rank {rank}: {problem}")
    if problems:
        for member in members:
            member.kill()
    return problems


def group(**options: typing.Any) -> dist.ProcessGroup:
    """All ranks, over Shoal."""
    return dist.new_group(backend="shoal", **options)


def ready() -> None:
    """Compiles and loads the extension once, before ranks are forked."""
    shoal.torch._load()


HERE = pathlib.Path(__file__).resolve().parent


class Case(unittest.TestCase):
    """Tests whose body every rank runs, with two ranks and with three."""

    @classmethod
    def setUpClass(cls) -> None:
        ready()

    def each(self, body: Body) -> None:
        for ranks in (2, 3):
            with self.subTest(ranks=ranks):
                run(body, ranks)
