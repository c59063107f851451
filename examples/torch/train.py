#!/usr/bin/env python3
"""Trains the model of gpt.py on several ranks, in one of five ways, over Shoal or Gloo.

    torchrun --nproc-per-node 2 examples/torch/train.py --mode fsdp --backend shoal

Every way sees the same text in the same order and starts from the same weights, so that all losses agree with
those of one process up to rounding.
"""

import argparse
import dataclasses
import time
import typing

import gpt
import torch
import torch.distributed as dist
from torch import nn
from torch.utils.data import DataLoader

BATCH = 16
PIECES = 4


@dataclasses.dataclass
class Way:
    """How a step is done: the loss over the whole batch."""

    step: typing.Callable[[torch.Tensor, torch.Tensor], float]


def plain() -> Way:
    """One process."""
    model = nn.Sequential(*gpt.layers())
    best = torch.optim.SGD(model.parameters(), lr=0.1)
    return Way(lambda x, y: _step(model, best, x, y))


def _step(model: nn.Module, best: torch.optim.Optimizer, x: torch.Tensor, y: torch.Tensor) -> float:
    loss = gpt.loss_of(model(x), y)
    loss.backward()
    best.step()
    best.zero_grad()
    return loss.item()


def _mean(loss: float) -> float:
    total = torch.tensor([loss])
    dist.all_reduce(total)
    return total.item() / dist.get_world_size()


def _part(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.chunk(dist.get_world_size())[dist.get_rank()]


def ddp() -> Way:
    """Every rank a part of the batch, gradients summed."""
    model = nn.parallel.DistributedDataParallel(nn.Sequential(*gpt.layers()), bucket_cap_mb=0.1)
    best = torch.optim.SGD(model.parameters(), lr=0.1)
    return Way(lambda x, y: _mean(_step(model, best, _part(x), _part(y))))


def fsdp() -> Way:
    """The same, and every rank holds a part of the weights."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    model = nn.Sequential(*gpt.layers())
    for layer in model:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    best = torch.optim.SGD(model.parameters(), lr=0.1)
    return Way(lambda x, y: _mean(_step(model, best, _part(x), _part(y))))


def tensor() -> Way:
    """Every rank some of the heads and of the inner columns of every layer."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    model = nn.Sequential(*gpt.layers())
    plan = {f"attention.{name}": ColwiseParallel() for name in "qkv"} | {"attention.out": RowwiseParallel()}
    plan |= {"feed.up": ColwiseParallel(), "feed.down": RowwiseParallel()}
    for block in model[1:-1]:
        parallelize_module(block, mesh, plan)
    best = torch.optim.SGD(model.parameters(), lr=0.1, foreach=False)
    return Way(lambda x, y: _step(model, best, x, y))


def pipeline() -> Way:
    """Every rank some of the layers, in pieces of the batch, one forward and one backward in turn."""
    from torch.distributed.pipelining import PipelineStage, Schedule1F1B

    rank, ranks = dist.get_rank(), dist.get_world_size()
    layers = gpt.layers()
    start, end = (len(layers) * place // ranks for place in (rank, rank + 1))
    own: nn.Module = nn.Sequential(*layers[start:end])
    piece = BATCH // PIECES
    inner = torch.zeros(piece, gpt.LENGTH, gpt.WIDTH)
    first = torch.zeros(piece, gpt.LENGTH, dtype=torch.long)
    last = torch.zeros(piece, gpt.LENGTH, gpt.CHARACTERS)
    is_first, is_last = rank == 0, rank == ranks - 1
    stage = PipelineStage(
        own,
        rank,
        ranks,
        torch.device("cpu"),
        input_args=(first if is_first else inner,),
        output_args=(last if is_last else inner,),
    )
    schedule = Schedule1F1B(stage, n_microbatches=PIECES, loss_fn=gpt.loss_of)
    best = torch.optim.SGD(own.parameters(), lr=0.1)

    def step(x: torch.Tensor, y: torch.Tensor) -> float:
        losses: list[torch.Tensor] = []
        schedule.step(*((x,) if is_first else ()), **({"target": y, "losses": losses} if is_last else {}))
        best.step()
        best.zero_grad()
        return _from_last(sum(loss.item() for loss in losses) / PIECES if is_last else 0.0)

    return Way(step)


def _from_last(loss: float) -> float:
    total = torch.tensor([loss])
    dist.broadcast(total, dist.get_world_size() - 1)
    return total.item()


class Swap(torch.autograd.Function):
    """Rows to the ranks that are to have them, and their gradients back."""

    @staticmethod
    def forward(context: typing.Any, rows: torch.Tensor, out: list[int], into: list[int]) -> torch.Tensor:
        context.splits = out, into
        got = rows.new_empty(sum(into), rows.shape[1])
        dist.all_to_all_single(got, rows.contiguous(), into, out)
        return got

    @staticmethod
    def backward(context: typing.Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        out, into = context.splits
        back = gradient.new_empty(sum(out), gradient.shape[1])
        dist.all_to_all_single(back, gradient.contiguous(), out, into)
        return back, None, None


EXPERTS = 4


class Experts(nn.Module):
    """Every character goes to one of four experts, which the ranks share among themselves."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.choose = nn.Linear(width, EXPERTS, bias=False)
        self.all = nn.ModuleList(gpt.Feed(width) for _ in range(EXPERTS))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = x.flatten(0, 1)
        weights = self.choose(rows).softmax(-1)
        weight, choice = weights.max(-1)
        order = choice.argsort(stable=True)
        counts = torch.bincount(choice, minlength=EXPERTS)
        done = self._elsewhere(rows[order], counts) if dist.is_initialized() else self._here(rows[order], counts)
        return (torch.empty_like(rows).index_copy(0, order, done) * weight[:, None]).view_as(x)

    def _here(self, rows: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
        return torch.cat([expert(part) for expert, part in zip(self.all, rows.split(counts.tolist()))])

    def _elsewhere(self, rows: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
        rank, ranks = dist.get_rank(), dist.get_world_size()
        own = EXPERTS // ranks
        theirs = torch.empty_like(counts)
        dist.all_to_all_single(theirs, counts)
        out = counts.view(ranks, own).sum(1).tolist()
        table = theirs.view(ranks, own)
        into = table.sum(1).tolist()
        got = Swap.apply(rows, out, into)
        # By rank and expert; each expert takes its pieces together.
        pieces = list(got.split(table.flatten().tolist()))
        for expert in range(own):
            mine = pieces[expert::own]
            answers = self.all[rank * own + expert](torch.cat(mine)).split([len(piece) for piece in mine])
            pieces[expert::own] = answers
        got = torch.cat(pieces)
        return Swap.apply(got, into, out)


def moe() -> Way:
    """Experts in place of the layers behind the attention; the batch is divided as with DDP."""
    layers = gpt.layers()
    torch.manual_seed(2)
    for block in layers[1:-1]:
        block.feed = Experts(gpt.WIDTH)
    model = nn.Sequential(*layers)
    best = torch.optim.SGD(model.parameters(), lr=0.1)

    def step(x: torch.Tensor, y: torch.Tensor) -> float:
        if not dist.is_initialized():
            return _step(model, best, x, y)
        loss = gpt.loss_of(model(_part(x)), _part(y))
        loss.backward()
        # An expert's gradient is whole on its rank and missing elsewhere: the same sum serves both.
        gradients = [torch.zeros_like(each) if each.grad is None else each.grad for each in model.parameters()]
        _sum_all(gradients)
        for parameter, gradient in zip(model.parameters(), gradients):
            parameter.grad = gradient / dist.get_world_size()
        best.step()
        best.zero_grad()
        return _mean(loss.item())

    return Way(step)


def _sum_all(tensors: list[torch.Tensor]) -> None:
    with dist._coalescing_manager(group=dist.group.WORLD):
        for tensor in tensors:
            dist.all_reduce(tensor)


def moe_messages() -> Way:
    """What moe() sends in a step, evenly spread, and nothing else."""
    ranks = dist.get_world_size()
    rows = torch.zeros(BATCH // ranks * gpt.LENGTH, gpt.WIDTH)
    counts = torch.zeros(EXPERTS, dtype=torch.long)
    split = [len(rows) // ranks] * ranks
    into, counted = torch.empty_like(rows), torch.empty_like(counts)
    layers = gpt.layers()[1:-1]

    def step(x: torch.Tensor, y: torch.Tensor) -> float:
        for _ in layers:
            dist.all_to_all_single(counted, counts)
            # There and back, and so the gradients.
            for _ in range(4):
                dist.all_to_all_single(into, rows, split, split)
        return 0.0

    return Way(step)


def pipeline_messages() -> Way:
    """What pipeline() sends in a step, piece by piece, and nothing else."""
    rank, ranks = dist.get_rank(), dist.get_world_size()
    out, into = (torch.zeros(BATCH // PIECES, gpt.LENGTH, gpt.WIDTH) for _ in range(2))

    def move(source: int, target: int) -> None:
        operations = [dist.P2POp(dist.irecv, into, source)] if 0 <= source < ranks else []
        for work in dist.batch_isend_irecv(operations) if operations else []:
            work.wait()
        operations = [dist.P2POp(dist.isend, out, target)] if 0 <= target < ranks else []
        for work in dist.batch_isend_irecv(operations) if operations else []:
            work.wait()

    def step(x: torch.Tensor, y: torch.Tensor) -> float:
        for _ in range(PIECES):
            move(rank - 1, rank + 1)
            move(rank + 1, rank - 1)
        return 0.0

    return Way(step)


MESSAGES: dict[str, typing.Callable[[], Way]] = {"pipeline": pipeline_messages, "moe": moe_messages}
WAYS: dict[str, typing.Callable[[], Way]] = {
    "ddp": ddp,
    "fsdp": fsdp,
    "tensor": tensor,
    "pipeline": pipeline,
    "moe": moe,
}


def train(way: Way, steps: int, workers: int) -> tuple[list[float], list[float]]:
    """The losses, and the seconds of each step. The data come from processes of their own, forked beside us."""
    loader = DataLoader(gpt.Text(BATCH * steps), BATCH, num_workers=workers)
    losses, times = [], []
    for x, y in loader:
        start = time.perf_counter()
        losses.append(way.step(x, y))
        times.append(time.perf_counter() - start)
    return losses, times


def main() -> None:
    """Under torchrun, which says who we are."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mode", choices=WAYS, default="ddp")
    parser.add_argument("--backend", default="shoal")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()
    if options.backend == "shoal":
        import shoal.torch  # noqa: F401 - makes the backend known
    torch.set_num_threads(1)
    dist.init_process_group(options.backend)
    losses, times = train(WAYS[options.mode](), options.steps, options.workers)
    if dist.get_rank() == 0:
        middle = sorted(times)[len(times) // 2]
        print(f"{options.mode} over {options.backend}: loss {losses[0]:.4f} to {losses[-1]:.4f}, step {middle * 1e3:.2f} ms")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
