"""Groups, and what happens when ranks fail, are late or go."""

import datetime
import os
import signal
import time
import unittest

import shoal.torch
import torch
import torch.distributed as dist
import world


def seconds(number):
    return datetime.timedelta(seconds=number)


def fails(call, *words):
    """Runs a call that has to fail, with these words in its error."""
    try:
        call()
    except RuntimeError as error:
        assert all(word in str(error) for word in words), error
        return str(error)
    raise AssertionError(f"no error with {words}")


def overlapping(rank, ranks):
    """Groups of some ranks, used in turn."""
    pairs = [(i, j) for i in range(ranks) for j in range(i + 1, ranks)]
    groups = {pair: dist.new_group(pair, backend="shoal") for pair in pairs}
    for _ in range(3):
        for pair, group in groups.items():
            if rank in pair:
                tensor = torch.tensor([float(rank)])
                dist.all_reduce(tensor, group=group)
                assert tensor.item() == sum(pair)
    for pair, group in groups.items():
        if rank in pair:
            dist.destroy_process_group(group)


def split(rank, ranks):
    """What torch's split_group calls; split_group itself wants a CUDA device."""
    backend = world.group()._get_backend(torch.device("cpu"))
    assert backend.supports_splitting and backend.supports_coalescing


def as_default(rank, ranks):
    dist.destroy_process_group()
    port = int(os.environ["SHOAL_TEST_PORT"])
    dist.init_process_group("shoal", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=ranks)
    assert dist.get_backend() == "shoal"
    tensor = torch.tensor([1.0])
    dist.all_reduce(tensor)
    assert tensor.item() == ranks
    dist.barrier()
    dist.destroy_process_group()


def monitored(rank, ranks):
    group = world.group()
    shoal.torch.monitored_barrier(group, seconds(30))
    if rank == 0:
        fails(lambda: shoal.torch.monitored_barrier(group, seconds(1)), "Rank 1 failed to pass monitoredBarrier in 1000 ms")
    # The group can be used on.
    dist.barrier(group=group)


def late(rank, ranks):
    """A rank that does not come: the wait ends, by the group's timeout, and says for what it waited."""
    group = world.group(timeout=seconds(1))
    dist.barrier(group=group)
    start = time.monotonic()
    if rank == 0:
        fails(lambda: dist.all_reduce(torch.ones(2), group=group), "Timed out waiting 1000ms", "all_reduce", "rank 0 of 2")
        assert 0.9 < time.monotonic() - start < 5
        fails(lambda: dist.all_reduce(torch.ones(2), group=group), "cannot be used")
    dist.barrier()


def never_there(rank, ranks):
    """The same before the ranks have met."""
    group = world.group(timeout=seconds(1))
    if rank == 0:
        fails(lambda: dist.recv(torch.ones(2), 1, group=group), "Timed out waiting 1000ms", "recv", "only 1 of 2 ranks")
    dist.barrier()


def late_wait(rank, ranks):
    """A bound on one wait."""
    group = world.group()
    dist.barrier(group=group)
    if rank == 0:
        work = dist.all_reduce(torch.ones(2), group=group, async_op=True)
        fails(lambda: work.wait(seconds(1)), "Timed out waiting 1000ms")
    dist.barrier()


def aborted(rank, ranks):
    group = world.group()
    dist.barrier(group=group)
    if rank == 0:
        work = dist.all_reduce(torch.ones(2), group=group, async_op=True)
        group.abort()
        fails(work.wait, "all_reduce")
        fails(lambda: dist.barrier(group=group), "aborted")
    dist.barrier()


def killed(rank, ranks):
    group = world.group()
    dist.barrier(group=group)
    if rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    start = time.monotonic()
    fails(lambda: dist.all_reduce(torch.ones(2), group=group), "rank 1")
    assert time.monotonic() - start < 5


def mismatched(rank, ranks):
    group = world.group()
    fails(lambda: dist.all_reduce(torch.ones(2 + rank), group=group), "all_reduce")
    dist.barrier()


def wrong(rank, ranks):
    """Errors that need no other rank."""
    group = world.group()
    fails(lambda: dist.all_reduce(torch.ones(2), dist.ReduceOp.BAND, group=group), "BAND")
    fails(lambda: dist.all_gather_into_tensor(torch.ones(3), torch.ones(2), group=group), "world_size times")
    dist.barrier(group=group)


class Groups(unittest.TestCase):
    """Each in processes of its own."""

    @classmethod
    def setUpClass(cls):
        world.ready()

    def test_overlapping(self):
        world.run(overlapping, 3)

    def test_split(self):
        world.run(split, 2)

    def test_as_default(self):
        with __import__("socket").socket() as listener:
            listener.bind(("127.0.0.1", 0))
            os.environ["SHOAL_TEST_PORT"] = str(listener.getsockname()[1])
        world.run(as_default, 2)

    def test_monitored(self):
        world.run(monitored, 2)

    def test_late(self):
        world.run(late, 2)

    def test_never_there(self):
        world.run(never_there, 2)

    def test_late_wait(self):
        world.run(late_wait, 2)

    def test_aborted(self):
        world.run(aborted, 2)

    def test_killed(self):
        world.run(killed, 2, dying=[1])

    def test_mismatched(self):
        world.run(mismatched, 2)

    def test_wrong(self):
        world.run(wrong, 2)


if __name__ == "__main__":
    unittest.main()
