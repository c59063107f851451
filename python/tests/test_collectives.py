"""Every collective beside Gloo, and beside sums made by hand where Gloo has none."""

import itertools
import unittest

import torch
import torch.distributed as dist
import world

FLOATS = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
INTEGERS = [torch.int8, torch.uint8, torch.int32, torch.int64]
# Numbers that Gloo does not combine.
OTHERS = [torch.int16, torch.bool]
COMPLEX = [torch.complex64, torch.complex128]
FLOAT8 = [torch.float8_e4m3fn, torch.float8_e5m2]
SHAPES = [(), (0,), (1,), (17,), (3, 5), (40_000,)]
OPERATORS = {
    dist.ReduceOp.SUM: lambda rows: sum(rows[1:], rows[0]),
    dist.ReduceOp.PRODUCT: lambda rows: torch.stack(rows).prod(0),
    dist.ReduceOp.MIN: lambda rows: torch.stack(rows).amin(0),
    dist.ReduceOp.MAX: lambda rows: torch.stack(rows).amax(0),
}


def numbers(shape, dtype, rank, case=0):
    """The same on every rank that asks for this rank's."""
    dice = torch.Generator().manual_seed(rank * 1000 + case)
    if dtype == torch.bool:
        return torch.randint(0, 2, shape, generator=dice).to(dtype)
    if dtype.is_complex:
        parts = [numbers(shape, torch.float64, rank, part) for part in (case, case + 1)]
        return torch.complex(*parts).to(dtype)
    if dtype.is_floating_point:
        return (torch.randint(1, 9, shape, generator=dice) / 4).to(dtype)
    return torch.randint(0, 5, shape, generator=dice).to(dtype)


def bits(tensor):
    """Comparable also where torch compares nothing."""
    return tensor.contiguous().reshape(-1).view(torch.uint8)


def same(first, second, what):
    assert first.dtype == second.dtype and first.shape == second.shape, what
    assert torch.equal(bits(first), bits(second)), f"{what}: {first} and {second}"


def near(first, second, what):
    torch.testing.assert_close(first, second, rtol=2e-2, atol=1e-2, msg=lambda text: f"{what}: {text}")


def reductions(rank, ranks):
    group = world.group()
    for dtype, shape, op in itertools.product(FLOATS + INTEGERS, SHAPES, OPERATORS):
        mine = numbers(shape, dtype, rank)
        theirs = mine.clone()
        dist.all_reduce(mine, op, group=group)
        dist.all_reduce(theirs, op)
        (near if dtype.is_floating_point else same)(mine, theirs, f"all_reduce {dtype} {shape} {op}")
        for root in range(ranks):
            mine = numbers(shape, dtype, rank)
            theirs = mine.clone()
            dist.reduce(mine, root, op, group=group)
            dist.reduce(theirs, root, op)
            if rank == root:
                (near if dtype.is_floating_point else same)(mine, theirs, f"reduce {dtype} {shape} {op}")
            else:
                same(mine, numbers(shape, dtype, rank), "a rank that is not the root keeps its tensor")


def odd_reductions(rank, ranks):
    group = world.group()
    for dtype, shape in itertools.product([torch.int16], SHAPES):
        for op, by_hand in OPERATORS.items():
            mine = numbers(shape, dtype, rank)
            dist.all_reduce(mine, op, group=group)
            same(mine, by_hand([numbers(shape, dtype, r) for r in range(ranks)]).to(dtype), f"{dtype} {shape} {op}")
    for op, by_hand in [(dist.ReduceOp.SUM, torch.any), (dist.ReduceOp.PRODUCT, torch.all)]:
        mine = numbers((17,), torch.bool, rank)
        dist.all_reduce(mine, op, group=group)
        same(mine, by_hand(torch.stack([numbers((17,), torch.bool, r) for r in range(ranks)]), 0), f"bool {op}")
    for dtype in COMPLEX:
        mine = numbers((3, 5), dtype, rank)
        dist.all_reduce(mine, group=group)
        near(mine, sum(numbers((3, 5), dtype, r) for r in range(ranks)), f"{dtype}")
    for dtype in FLOAT8:
        mine = numbers((16,), dtype, rank)
        dist.all_reduce(mine, group=group)
        # A type of two bits behind the point, rounded at each of two steps.
        by_hand = sum(numbers((16,), dtype, r).float() for r in range(ranks))
        torch.testing.assert_close(mine.float(), by_hand, rtol=0.25, atol=0)
    for dtype, op in itertools.product(INTEGERS, ["BAND", "BOR", "BXOR"]):
        op = getattr(dist.ReduceOp, op)
        mine = numbers((17,), dtype, rank)
        theirs = mine.clone()
        dist.all_reduce(mine, op, group=group)
        dist.all_reduce(theirs, op)
        same(mine, theirs, f"{dtype} {op}")
    mine = numbers((17,), torch.float32, rank)
    dist.all_reduce(mine, dist.ReduceOp.AVG, group=group)
    near(mine, sum(numbers((17,), torch.float32, r) for r in range(ranks)) / ranks, "average")
    mine = numbers((17,), torch.float32, rank)
    dist.all_reduce(mine, dist._make_nccl_premul_sum(0.5), group=group)
    near(mine, sum(numbers((17,), torch.float32, r) * 0.5 for r in range(ranks)), "premultiplied sum")


def movers(rank, ranks):
    group = world.group()
    types = FLOATS + INTEGERS + OTHERS + COMPLEX + FLOAT8
    for dtype, shape in itertools.product(types, [(1,), (4, 3), (20_000,)]):
        what = f"{dtype} {shape}"
        for root in range(ranks):
            mine = numbers(shape, dtype, rank)
            dist.broadcast(mine, root, group=group)
            same(mine, numbers(shape, dtype, root), f"broadcast {what}")
            got = [torch.empty(shape, dtype=dtype) for _ in range(ranks)] if rank == root else None
            dist.gather(numbers(shape, dtype, rank), got, root, group=group)
            for r, tensor in enumerate(got or []):
                same(tensor, numbers(shape, dtype, r), f"gather {what}")
            one = torch.empty(shape, dtype=dtype)
            parts = [numbers(shape, dtype, r, 7) for r in range(ranks)] if rank == root else None
            dist.scatter(one, parts, root, group=group)
            same(one, numbers(shape, dtype, rank, 7), f"scatter {what}")
        got = [torch.empty(shape, dtype=dtype) for _ in range(ranks)]
        dist.all_gather(got, numbers(shape, dtype, rank), group=group)
        whole = torch.empty((ranks, *shape), dtype=dtype)
        dist.all_gather_into_tensor(whole, numbers(shape, dtype, rank), group=group)
        for r in range(ranks):
            same(got[r], numbers(shape, dtype, r), f"all_gather {what}")
            same(whole[r], numbers(shape, dtype, r), f"all_gather_into_tensor {what}")
        dist.all_to_all(got, [numbers(shape, dtype, rank, 10 + r) for r in range(ranks)], group=group)
        for r in range(ranks):
            same(got[r], numbers(shape, dtype, r, 10 + rank), f"all_to_all {what}")


def splits(rank, ranks):
    group = world.group()
    dtype = torch.float32
    # Rank r sends r + s rows to rank s.
    rows = [rank + r for r in range(ranks)]
    inputs = torch.cat([numbers((rank + r, 3), dtype, rank, 10 + r) for r in range(ranks)])
    outputs = torch.empty((sum(rows), 3))
    dist.all_to_all_single(outputs, inputs, rows, rows, group=group)
    same(outputs, torch.cat([numbers((r + rank, 3), dtype, r, 10 + rank) for r in range(ranks)]), "all_to_all_single")
    equal = torch.empty((ranks, 5))
    dist.all_to_all_single(equal, torch.stack([numbers((5,), dtype, rank, 20 + r) for r in range(ranks)]), group=group)
    same(equal, torch.stack([numbers((5,), dtype, r, 20 + rank) for r in range(ranks)]), "all_to_all_single")
    uneven = [torch.empty(r + 1) for r in range(ranks)]
    dist.all_gather(uneven, numbers((rank + 1,), dtype, rank), group=group)
    for r in range(ranks):
        same(uneven[r], numbers((r + 1,), dtype, r), "all_gather of different sizes")


def scattered(rank, ranks):
    group = world.group()
    for dtype, op in itertools.product([torch.float32, torch.int64, torch.int16], OPERATORS):
        inputs = [numbers((7,), dtype, rank, r) for r in range(ranks)]
        by_hand = OPERATORS[op]([numbers((7,), dtype, r, rank) for r in range(ranks)]).to(dtype)
        one = torch.empty(7, dtype=dtype)
        dist.reduce_scatter(one, inputs, op, group=group)
        near(one, by_hand, f"reduce_scatter {dtype} {op}")
        one = torch.empty(7, dtype=dtype)
        dist.reduce_scatter_tensor(one, torch.stack(inputs), op, group=group)
        near(one, by_hand, f"reduce_scatter_tensor {dtype} {op}")
    one = torch.empty(rank + 1)
    dist.reduce_scatter(one, [numbers((r + 1,), torch.float32, rank, r) for r in range(ranks)], group=group)
    near(one, sum(numbers((rank + 1,), torch.float32, r, rank) for r in range(ranks)), "uneven reduce_scatter")


def pieces(rank, ranks):
    """Tensors that do not lie in one piece."""
    group = world.group()
    mine = numbers((6, 4), torch.float32, rank).t()
    dist.all_reduce(mine, group=group)
    near(mine, sum(numbers((6, 4), torch.float32, r).t() for r in range(ranks)), "transposed")
    mine = numbers((6, 4), torch.float32, rank)[:, 1]
    dist.broadcast(mine, 0, group=group)
    same(mine, numbers((6, 4), torch.float32, 0)[:, 1], "a column")
    whole = torch.zeros(4, ranks * 6).t()
    dist.all_gather_into_tensor(whole, numbers((6, 4), torch.float32, rank).t().contiguous().t(), group=group)
    same(whole, torch.cat([numbers((6, 4), torch.float32, r) for r in range(ranks)]), "gathered into columns")


def coalesced(rank, ranks):
    group = world.group()
    with dist._coalescing_manager(group=group):
        tensors = [numbers((n,), torch.float32, rank) for n in range(1, 9)]
        for tensor in tensors:
            dist.all_reduce(tensor, group=group)
    for n, tensor in enumerate(tensors, 1):
        near(tensor, sum(numbers((n,), torch.float32, r) for r in range(ranks)), "coalesced all_reduce")
    outputs = [torch.empty(ranks * n) for n in range(1, 5)]
    with dist._coalescing_manager(group=group, async_ops=True) as manager:
        for n, output in enumerate(outputs, 1):
            dist.all_gather_into_tensor(output, numbers((n,), torch.float32, rank), group=group)
    manager.wait()
    for n, output in enumerate(outputs, 1):
        same(output, torch.cat([numbers((n,), torch.float32, r) for r in range(ranks)]), "coalesced all_gather")
    sums = [torch.empty(n) for n in range(1, 5)]
    with dist._coalescing_manager(group=group):
        for n, output in enumerate(sums, 1):
            dist.reduce_scatter_tensor(output, numbers((ranks * n,), torch.float32, rank), group=group)
    for n, output in enumerate(sums, 1):
        by_hand = sum(numbers((ranks * n,), torch.float32, r) for r in range(ranks))
        near(output, by_hand[rank * n : (rank + 1) * n], "coalesced reduce_scatter")
    with dist._coalescing_manager(group=group, device=torch.device("cpu"), async_ops=True) as manager:
        first, second = torch.full((3,), float(rank)), torch.full((5,), float(rank))
        dist.all_reduce(first, group=group)
        dist.broadcast(second, 1, group=group)
    manager.wait()
    assert first.tolist() == [sum(range(ranks))] * 3 and second.tolist() == [1.0] * 5
    many = [numbers((n,), torch.float32, rank) for n in range(1, 5)]
    dist.all_reduce_coalesced(many, group=group)
    near(many[3], sum(numbers((4,), torch.float32, r) for r in range(ranks)), "all_reduce_coalesced")


def objects(rank, ranks):
    group = world.group()
    got = [None] * ranks
    dist.all_gather_object(got, {"rank": rank, "text": "x" * rank}, group=group)
    assert got == [{"rank": r, "text": "x" * r} for r in range(ranks)], got
    one = [rank, "text"]
    dist.broadcast_object_list(one, 1, group=group)
    assert one == [1, "text"]
    out = [None]
    dist.scatter_object_list(out, [f"for {r}" for r in range(ranks)] if rank == 0 else None, 0, group=group)
    assert out == [f"for {rank}"]
    got = [None] * ranks if rank == 0 else None
    dist.gather_object((rank,), got, 0, group=group)
    assert rank != 0 or got == [(r,) for r in range(ranks)]


def sparse(rank, ranks):
    group = world.group()
    places = torch.tensor([[rank, rank + 1, 5], [0, rank, 2]])
    mine = torch.sparse_coo_tensor(places, numbers((3,), torch.float32, rank), (8, 4))
    theirs = mine.clone()
    dist.all_reduce(mine, group=group)
    dist.all_reduce(theirs)
    near(mine.to_dense(), theirs.to_dense(), "sparse")


def asynchronous(rank, ranks):
    group = world.group()
    tensors = [torch.full((n * 1000 + 1,), float(rank)) for n in range(20)]
    works = [dist.all_reduce(tensor, group=group, async_op=True) for tensor in tensors]
    for work in reversed(works):
        work.wait()
        assert work.is_completed() and work.is_success()
    assert all(tensor[-1] == sum(range(ranks)) for tensor in tensors)
    future = dist.all_reduce(torch.ones(5), group=group, async_op=True).get_future()
    assert future.then(lambda done: done.value()[0] * 2).wait().tolist() == [2.0 * ranks] * 5
    # Nobody waits for it.
    alone = torch.ones(3)
    work = dist.all_reduce(alone, group=group, async_op=True)
    while not work.is_completed():
        pass
    assert alone.tolist() == [ranks] * 3
    dist.barrier(group=group)


class Collectives(world.Case):
    """One test per family, with two ranks and with three."""

    def test_reductions(self):
        self.each(reductions)

    def test_odd_reductions(self):
        self.each(odd_reductions)

    def test_movers(self):
        self.each(movers)

    def test_splits(self):
        self.each(splits)

    def test_scattered(self):
        self.each(scattered)

    def test_pieces(self):
        self.each(pieces)

    def test_coalesced(self):
        self.each(coalesced)

    def test_objects(self):
        self.each(objects)

    def test_sparse(self):
        self.each(sparse)

    def test_asynchronous(self):
        self.each(asynchronous)


if __name__ == "__main__":
    unittest.main()
