#!/usr/bin/env python3
"""PyTorch's own tests of its CPU backend, which its wheel carries, with Gloo and with Shoal in Gloo's place.

    make torch-own-tests
    scripts/torch_own_tests.py --list python/tests/torch-own-tests.txt

Where a test asks for "gloo" it gets the backend under test; nothing else is changed but that ranks are forked, which
spares each of them the import of torch. A test that Gloo passes and Shoal does not makes the exit code 1, unless the
list says why it cannot.
"""

import argparse
import multiprocessing
import os
import pathlib
import subprocess
import sys
import typing

LIMIT_S = 60
RANKS = 2
# What torch refuses every backend but Gloo by name, or what this backend does not have.
EXPECTED = {
    "monitored_barrier": "torch keeps monitored_barrier for Gloo by name; shoal.torch.monitored_barrier is the way",
    "any_source": "no receive from anybody; NCCL has none either",
    "anysource": "no receive from anybody; NCCL has none either",
}


def prepare(backend: str) -> typing.Any:
    """The class of torch's tests, with the backend under test in Gloo's place."""
    os.environ.update(BACKEND="gloo", WORLD_SIZE=str(RANKS), DISTRIBUTED_TESTS_DEFAULT_TIMEOUT=str(LIMIT_S))
    import torch.distributed as dist
    from torch.testing._internal.distributed import distributed_test

    if backend == "shoal":
        import shoal.torch

        shoal.torch._load()
        place(dist)
    distributed_test.DEFAULT_TIMEOUT = LIMIT_S

    class Own(distributed_test.TestDistBackend, distributed_test.DistributedTest._DistTestBase):
        """Every test of a backend."""

        def setUp(self) -> None:
            super().setUp()
            self._start_processes(multiprocessing.get_context("fork").Process)

    return Own


def place(dist: typing.Any) -> None:
    """Shoal for those who ask for Gloo."""

    def instead(call: typing.Callable[..., typing.Any]) -> typing.Callable[..., typing.Any]:
        def called(*arguments: typing.Any, **named: typing.Any) -> typing.Any:
            renamed = ["shoal" if argument == "gloo" else argument for argument in arguments[:1]]
            if named.get("backend") == "gloo":
                named["backend"] = "shoal"
            return call(*renamed, *arguments[1:], **named)

        return called

    dist.init_process_group = instead(dist.init_process_group)
    dist.new_group = instead(dist.new_group)


def run_all(backend: str, pattern: str) -> None:
    """Prints a line for each test: its name, and how it went."""
    import unittest

    own = prepare(backend)
    for name in unittest.TestLoader().getTestCaseNames(own):
        if pattern not in name:
            continue
        result = unittest.TestResult()
        unittest.TestSuite([own(name)]).run(result)
        problems = result.failures + result.errors
        word = "failed" if problems else "skipped" if result.skipped else "passed"
        print(f"OWN {name} {word}", flush=True)
        if problems:
            print(problems[0][1][-3000:], file=sys.stderr, flush=True)


def outcomes(backend: str, pattern: str, log: pathlib.Path) -> dict[str, str]:
    """How each test went, in a process of its own."""
    command = [sys.executable, __file__, "--backend", backend, "--only", pattern]
    with open(log, "w", encoding="utf-8") as errors:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=errors, text=True, check=False)
    words = [line.split() for line in done.stdout.splitlines() if line.startswith("OWN ")]
    return {name: word for _, name, word in words}


def main() -> None:
    """Both backends, compared."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", choices=["gloo", "shoal"], help="one backend, in this process")
    parser.add_argument("--only", default="", help="tests whose name holds this")
    parser.add_argument("--list", type=pathlib.Path, help="where the list is written")
    options = parser.parse_args()
    if options.backend:
        run_all(options.backend, options.only)
        return
    folder = pathlib.Path(__file__).resolve().parent.parent / "target/torch"
    folder.mkdir(parents=True, exist_ok=True)
    all_of = {backend: outcomes(backend, options.only, folder / f"own-{backend}.log") for backend in ("gloo", "shoal")}
    lines, is_well = [], True
    for name, gloo in all_of["gloo"].items():
        shoal = all_of["shoal"].get(name, "failed")
        if gloo != "passed":
            continue
        why = next((reason for part, reason in EXPECTED.items() if part in name), None)
        is_well &= shoal == "passed" or why is not None
        lines.append(f"{shoal} {name}" + (f": {why}" if shoal != "passed" and why else ""))
    import torch

    passed = sum(line.startswith("passed") for line in lines)
    head = f"# torch {torch.__version__}, {RANKS} ranks: of {len(lines)} tests that Gloo passes, Shoal passes {passed}."
    print("\n".join([head, *(line for line in lines if not line.startswith("passed"))]))
    if options.list:
        options.list.write_text("\n".join([head, *lines]) + "\n", encoding="ascii")
    sys.exit(0 if is_well else 1)


if __name__ == "__main__":
    main()
