#!/usr/bin/env python3
"""Which library the NCCL symbols of torch are bound to when ours is preloaded, asked of the system's linker.

    scripts/torch_bindings.py          with the Python whose torch is meant; needs no GPU

Every symbol is bound at once (LD_BIND_NOW), and the linker says to what (LD_DEBUG=bindings).
"""

import importlib.util
import os
import pathlib
import re
import subprocess
import sys
import tempfile

import shoal

BOUND = re.compile(r"binding file (\S+) \[\d+\] to (\S+) \[\d+\]: normal symbol `(p?nccl\w+)'")
LIMIT_S = 200


def bindings(code: str, library: pathlib.Path) -> set[tuple[str, str, str]]:
    """Who is bound to whom, for each NCCL symbol, in a Python that runs the code."""
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {
            "LD_PRELOAD": str(library),
            "LD_BIND_NOW": "1",
            "LD_DEBUG": "bindings",
            "LD_DEBUG_OUTPUT": f"{folder}/log",
        }
        subprocess.run([sys.executable, "-c", code], env=environment, check=True, timeout=LIMIT_S)
        found = set()
        for log in pathlib.Path(folder).glob("log.*"):
            with open(log, encoding="utf-8", errors="replace") as lines:
                found |= {match.groups() for line in lines if (match := BOUND.search(line))}
    return found


def main() -> None:
    """Asks of torch, and of cupy where it is."""
    library = shoal.library().resolve()
    is_well = True
    for name, code in [("torch", "import torch"), ("cupy", "import cupy_backends.cuda.libs.nccl")]:
        if importlib.util.find_spec(name) is None:
            print(f"{name}: NOT RUN, it is not installed")
            continue
        foreign = {row for row in bindings(code, library) if pathlib.Path(row[0]).resolve() != library}
        elsewhere = sorted(symbol for _, target, symbol in foreign if pathlib.Path(target).resolve() != library)
        symbols = {symbol for _, _, symbol in foreign}
        clients = sorted({pathlib.Path(client).name for client, _, _ in foreign})
        print(f"{name}: {len(symbols)} symbols of {', '.join(clients) or 'nobody'}, {len(elsewhere)} not bound to ours")
        for symbol in elsewhere:
            print(f"  {symbol}")
        is_well &= bool(symbols) and not elsewhere
    sys.exit(0 if is_well else 1)


if __name__ == "__main__":
    main()
