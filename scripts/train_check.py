#!/usr/bin/env python3
"""Trains examples/torch in five ways on 2 and 4 ranks: the losses over Shoal must be those over Gloo and of one process.

    make train-check
    scripts/train_check.py --ranks 2 --mode moe

Shoal and Gloo run in turn in one run. "alone" is the communication without the model, for pipeline and MoE: the messages
of a step and nothing else.
"""

import argparse
import datetime
import json
import multiprocessing
import os
import pathlib
import statistics
import sys
import tempfile
import typing

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "examples/torch"))

import shoal.torch  # noqa: E402
import torch  # noqa: E402
import torch.distributed as dist  # noqa: E402
import train  # noqa: E402

BACKENDS = ["gloo", "shoal"]
# Sums in another order differ in the last bits, and twenty steps let that grow a little.
NEAR = 2e-3
LIMIT_S = 300

Outcome = tuple[list[float], list[float]]


def rank_main(rank: int, ranks: int, folder: str, job: tuple[str, str, int, bool], results: typing.Any) -> None:
    """One rank of one run."""
    mode, backend, steps, is_alone = job
    torch.set_num_threads(1)
    if ranks > 1:
        store = dist.FileStore(f"{folder}/store", ranks)
        dist.init_process_group(backend, store=store, rank=rank, world_size=ranks)
    make = train.MESSAGES[mode] if is_alone else train.WAYS[mode]
    if ranks == 1 and mode != "moe":
        make = train.plain
    outcome = train.train(make(), steps, workers=0 if is_alone else 1)
    if ranks > 1:
        dist.barrier()
        dist.destroy_process_group()
    if rank == 0:
        results.put(outcome)
        results.close()
        results.join_thread()
    os._exit(0)


def run(ranks: int, job: tuple[str, str, int, bool]) -> Outcome:
    """Losses and times of rank 0."""
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    with tempfile.TemporaryDirectory() as folder:
        members = [context.Process(target=rank_main, args=(rank, ranks, folder, job, results)) for rank in range(ranks)]
        for member in members:
            member.start()
        try:
            return results.get(timeout=LIMIT_S)
        finally:
            for member in members:
                member.join(20)
                member.kill()


def middle_ms(times: list[float]) -> float:
    """The first steps make connections."""
    return round(statistics.median(times[3:]) * 1e3, 3)


def compare(mode: str, ranks: int, steps: int) -> dict[str, typing.Any]:
    """One way on so many ranks, beside Gloo and one process."""
    alone, _ = run(1, (mode, "", steps, False))
    row: dict[str, typing.Any] = {"mode": mode, "ranks": ranks, "steps": steps}
    differences = []
    for backend in BACKENDS:
        losses, times = run(ranks, (mode, backend, steps, False))
        differences.append(max(abs(a - b) for a, b in zip(losses, alone, strict=True)))
        row[f"{backend}_step_ms"] = middle_ms(times)
        row[f"{backend}_loss"] = [round(losses[0], 5), round(losses[-1], 5)]
        if mode in train.MESSAGES:
            row[f"{backend}_alone_ms"] = middle_ms(run(ranks, (mode, backend, 10 * steps, True))[1])
    row["loss"] = [round(alone[0], 5), round(alone[-1], 5)]
    row["largest_difference"] = max(differences)
    row["is_equal"] = row["largest_difference"] < NEAR and alone[-1] < alone[0]
    return row


def shown(row: dict[str, typing.Any]) -> str:
    """One line for people."""
    alone = f", messages alone {row['shoal_alone_ms']} beside {row['gloo_alone_ms']} ms" if row["mode"] in train.MESSAGES else ""
    verdict = "equal" if row["is_equal"] else "DIFFERENT"
    return (
        f"{row['mode']:9} {row['ranks']} ranks: loss {row['loss'][0]} to {row['loss'][1]}, {verdict} "
        f"(by {row['largest_difference']:.1e}); step {row['shoal_step_ms']} ms beside Gloo's {row['gloo_step_ms']}{alone}"
    )


def main() -> None:
    """Everything, or what the options leave."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, nargs="*", default=[2, 4])
    parser.add_argument("--mode", nargs="*", choices=train.WAYS, default=list(train.WAYS))
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--record", type=pathlib.Path)
    parser.add_argument("--commit", default="unknown")
    options = parser.parse_args()
    shoal.torch._load()
    is_well = True
    for ranks in options.ranks:
        for mode in options.mode:
            row = compare(mode, ranks, options.steps)
            is_well &= row["is_equal"]
            print(shown(row), flush=True)
            if options.record:
                head = {"date": datetime.date.today().isoformat(), "commit": options.commit, "torch": torch.__version__}
                with open(options.record, "a", encoding="ascii") as record:
                    record.write(json.dumps(head | row) + "\n")
    sys.exit(0 if is_well else 1)


if __name__ == "__main__":
    main()
