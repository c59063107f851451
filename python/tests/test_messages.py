"""Messages between two ranks: blocking, behind the program's back, in batches, with tags."""

import unittest

import torch
import torch.distributed as dist
import world

SIZES = [0, 1, 64, 5000, 300_000]


def back_and_forth(rank, ranks):
    group = world.group()
    for size in SIZES:
        tensor = torch.full((size,), float(rank))
        if rank == 0:
            dist.send(tensor, 1, group=group)
            dist.recv(tensor, 1, group=group)
        elif rank == 1:
            got = torch.empty(size)
            assert dist.recv(got, 0, group=group) == 0
            assert torch.equal(got, torch.zeros(size))
            dist.send(tensor, 0, group=group)
        if rank == 0:
            assert torch.equal(tensor, torch.ones(size))


def receives_first(rank, ranks):
    """Every rank asks for everything before it sends anything."""
    group = world.group()
    for size in SIZES:
        others = [other for other in range(ranks) if other != rank]
        got = {other: torch.empty(size) for other in others}
        works = [dist.irecv(got[other], other, group=group) for other in others]
        works += [dist.isend(torch.full((size,), float(rank)), other, group=group) for other in others]
        for work in works:
            work.wait()
        assert all(torch.equal(got[other], torch.full((size,), float(other))) for other in others)


def in_a_ring(rank, ranks):
    group = world.group()
    for size in SIZES:
        got = torch.empty(size)
        sent = dist.isend(torch.full((size,), float(rank)), (rank + 1) % ranks, group=group)
        dist.recv(got, (rank - 1) % ranks, group=group)
        sent.wait()
        assert torch.equal(got, torch.full((size,), float((rank - 1) % ranks)))


def batches(rank, ranks):
    group = world.group()
    for size, count in [(1, 1), (64, 64), (1000, 200), (300_000, 3)]:
        others = [other for other in range(ranks) if other != rank]
        got = {(other, i): torch.empty(size) for other in others for i in range(count)}
        operations = [
            dist.P2POp(dist.isend, torch.full((size,), float(rank * 1000 + i)), other, group)
            for other in others
            for i in range(count)
        ]
        operations += [dist.P2POp(dist.irecv, tensor, other, group) for (other, _), tensor in got.items()]
        for work in dist.batch_isend_irecv(operations):
            work.wait()
        for (other, i), tensor in got.items():
            assert torch.equal(tensor, torch.full((size,), float(other * 1000 + i)))


def tags(rank, ranks):
    group = world.group()
    if rank == 0:
        works = [dist.isend(torch.full((4,), float(tag)), 1, group=group, tag=tag) for tag in (1, 2, 3)]
        for work in works:
            work.wait()
    elif rank == 1:
        for tag in (3, 1, 2):
            got = torch.empty(4)
            dist.recv(got, 0, group=group, tag=tag)
            assert got.tolist() == [float(tag)] * 4


def columns(rank, ranks):
    group = world.group()
    if rank == 0:
        dist.send(torch.arange(12.0).view(3, 4)[:, 1], 1, group=group)
    elif rank == 1:
        got = torch.zeros(3, 4)
        dist.recv(got[:, 2], 0, group=group)
        assert got[:, 2].tolist() == [1, 5, 9] and got.sum() == 15


def anybody(rank, ranks):
    """torch's usual answer for what a backend does not have."""
    group = world.group()
    try:
        dist.recv(torch.empty(1), group=group)
    except RuntimeError as error:
        assert "does not support recvAnysource" in str(error), error
    else:
        raise AssertionError("a receive from anybody went through")


class Messages(world.Case):
    """Each with two ranks and with three."""

    def test_back_and_forth(self):
        self.each(back_and_forth)

    def test_receives_first(self):
        self.each(receives_first)

    def test_in_a_ring(self):
        self.each(in_a_ring)

    def test_batches(self):
        self.each(batches)

    def test_tags(self):
        self.each(tags)

    def test_columns(self):
        self.each(columns)

    def test_anybody(self):
        self.each(anybody)


if __name__ == "__main__":
    unittest.main()
