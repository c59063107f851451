#!/usr/bin/env python3
"""What this repository has to say about a GPU, asked of a real card.

    make gpu-check                      every part that has no result yet for this commit, library and card
    scripts/gpu_check.py --part ipc     one part again
    scripts/gpu_check.py --fresh        all of them again

Each part runs in a process of its own, for less than three minutes, most valuable first; its result is written down
before the next one starts, so a check that is cut short goes on where it stopped. The table comes last, and the
record goes to benches/records/. A part fails where Shoal breaks a promise; what a card or machine merely cannot do
is a fact, and recorded as one. Needs a card and its driver, torch where the name of the part says so, and the built
library. Memory is taken by plain cuMemAlloc, and the card's settings are left alone.
"""

import argparse
import ctypes
import datetime
import hashlib
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
LIBRARY = ROOT / "target/release/libshoal.so"
STATE = ROOT / "target/gpu-check/state.json"
RECORDS = ROOT / "benches/records"
PART_LIMIT_S = 170

# Facts of a device, by the driver's number.
ATTRIBUTES = {
    "multiprocessors": 16,
    "compute_mode": 20,
    "concurrent_kernels": 31,
    "copy_engines": 40,
    "unified_addressing": 41,
    "capability_major": 75,
    "capability_minor": 76,
    "stream_mem_ops_v1": 92,
    "stream_mem_ops_64_bit_v1": 93,
    "stream_wait_value_nor_v1": 94,
    "cooperative_launch": 95,
    "gpu_direct_rdma": 116,
    "stream_mem_ops_64_bit": 122,
    "stream_wait_value_nor": 123,
    "ipc_events": 125,
    "multicast": 132,
    "mps_enabled": 133,
}
COMPUTE_MODES = {0: "default", 2: "prohibited", 3: "exclusive process"}


class Failed(Exception):
    """A promise that did not hold, or a call that failed."""


class Cuda:
    """The driver's functions, each return code checked."""

    def __init__(self):
        try:
            self.library = ctypes.CDLL("libcuda.so.1")
        except OSError as cause:
            raise Failed(f"there is no NVIDIA driver library on this machine ({cause})") from cause
        self.call("cuInit", 0)

    def call(self, name, *arguments):
        """Calls a function; a result that is no success becomes an exception with its name."""
        try:
            function = getattr(self.library, name)
        except AttributeError as cause:
            raise Failed(f"the driver has no {name}") from cause
        result = function(*arguments)
        if result != 0:
            text = ctypes.c_char_p()
            self.library.cuGetErrorName(result, ctypes.byref(text))
            raise Failed(f"{name} answered {result} ({(text.value or b'unknown').decode()})")

    def number(self, name, *arguments):
        """What a function writes to its first argument, an int."""
        value = ctypes.c_int()
        self.call(name, ctypes.byref(value), *arguments)
        return value.value

    def first_device(self):
        """The device that everything here uses."""
        if self.number("cuDeviceGetCount") == 0:
            raise Failed("the driver knows no device")
        return self.number("cuDeviceGet", 0)

    def name(self, device):
        """The name of a device."""
        text = ctypes.create_string_buffer(256)
        self.call("cuDeviceGetName", text, len(text), device)
        return text.value.decode()

    def use(self, device):
        """Makes the device's primary context current, the one that torch uses too."""
        context = ctypes.c_void_p()
        self.call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
        self.call("cuCtxSetCurrent", context)

    def allocate(self, size_bytes):
        """Plain memory of the device."""
        address = ctypes.c_uint64()
        self.call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(size_bytes))
        return address


class IpcHandle(ctypes.Structure):
    """Names memory of a device for another process; passed by value."""

    _fields_ = [("reserved", ctypes.c_ubyte * 64)]


def driver_version():
    """The driver's version, from the one place that needs no tool."""
    try:
        text = pathlib.Path("/proc/driver/nvidia/version").read_text()
    except OSError:
        return "unknown"
    words = text.split()
    return next((word for word in words if word[0].isdigit() and word.count(".") >= 1), "unknown")


def part_facts():
    """Name, versions and abilities of the card."""
    cuda = Cuda()
    device = cuda.first_device()
    total = ctypes.c_size_t()
    cuda.call("cuDeviceTotalMem_v2", ctypes.byref(total), device)
    version = cuda.number("cuDriverGetVersion")
    facts = {"card": cuda.name(device), "driver": driver_version(), "memory_bytes": total.value}
    facts["cuda"] = f"{version // 1000}.{version % 1000 // 10}"
    for name, number in ATTRIBUTES.items():
        try:
            facts[name] = cuda.number("cuDeviceGetAttribute", number, device)
        except Failed:
            facts[name] = None  # older than the attribute
    facts["compute_mode"] = COMPUTE_MODES.get(facts["compute_mode"], facts["compute_mode"])
    pipes = pathlib.Path(os.environ.get("CUDA_MPS_PIPE_DIRECTORY", "/tmp/nvidia-mps"))
    facts["mps_daemon_pipe"] = (pipes / "control").exists()
    return facts


def symbols():
    """Every name that the library shows."""
    listing = ROOT / "link/symbols.txt"
    lines = (line.strip() for line in listing.read_text().splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def part_symbols():
    """The library loads where a card is, and has every symbol."""
    library = ctypes.CDLL(str(LIBRARY), mode=os.RTLD_NOW | os.RTLD_LOCAL)
    missing = [name for name in symbols() if not hasattr(library, name)]
    if missing:
        raise Failed(f"missing: {' '.join(missing)}")
    version = ctypes.c_int()
    if library.ncclGetVersion(ctypes.byref(version)) != 0:
        raise Failed("ncclGetVersion did not succeed")
    return {"symbols": len(symbols()), "reported_version": version.value}


class SymbolInfo(ctypes.Structure):
    """What dladdr says of an address."""

    _fields_ = [
        ("file", ctypes.c_char_p),
        ("base", ctypes.c_void_p),
        ("name", ctypes.c_char_p),
        ("address", ctypes.c_void_p),
    ]


def part_torch_binds():
    """With the library preloaded, torch imports and what it calls is ours."""
    program = (
        "import ctypes, sys; sys.path.insert(0, sys.argv[1]); import torch, gpu_check, json;"
        "print(json.dumps(gpu_check.who_answers(torch)))"
    )
    environment = {**os.environ, "LD_PRELOAD": str(LIBRARY)}
    arguments = [sys.executable, "-c", program, str(ROOT / "scripts")]
    output = subprocess.run(arguments, env=environment, capture_output=True, text=True, timeout=160, check=False)
    if output.returncode != 0:
        raise Failed(f"torch does not import beside the library: {output.stderr.strip()[-600:]}")
    facts = json.loads(output.stdout.splitlines()[-1])
    if os.path.realpath(facts["library"]) != os.path.realpath(LIBRARY):
        raise Failed(f"ncclAllReduce is answered by {facts['library']}")
    return facts


def who_answers(torch):
    """Which file a call of ncclAllReduce from this process reaches, and what torch does meanwhile."""
    everything = ctypes.CDLL(None)
    info = SymbolInfo()
    everything.dladdr.argtypes = [ctypes.c_void_p, ctypes.POINTER(SymbolInfo)]
    address = ctypes.cast(everything.ncclAllReduce, ctypes.c_void_p)
    if everything.dladdr(address, ctypes.byref(info)) == 0:
        raise Failed("dladdr knows no library for ncclAllReduce")
    total = float(torch.ones(1000, device="cuda").sum()) if torch.cuda.is_available() else None
    return {"library": info.file.decode(), "torch": torch.__version__, "torch_sum_of_1000_ones": total}


def part_ipc():
    """Memory of one process, read and written by another on the same card."""
    cuda = Cuda()
    cuda.use(cuda.first_device())
    size_bytes = 1 << 20
    address = cuda.allocate(size_bytes)
    cuda.call("cuMemsetD8_v2", address, ctypes.c_ubyte(0x5A), ctypes.c_size_t(size_bytes))
    cuda.call("cuCtxSynchronize")
    handle = IpcHandle()
    cuda.call("cuIpcGetMemHandle", ctypes.byref(handle), address)
    arguments = [sys.executable, __file__, "--ipc-peer", bytes(handle).hex()]
    output = subprocess.run(arguments, capture_output=True, text=True, timeout=120, check=False)
    if output.returncode != 0:
        return {"works": False, "because": output.stderr.strip()[-400:]}
    answer = ctypes.create_string_buffer(16)
    cuda.call("cuMemcpyDtoH_v2", answer, address, ctypes.c_size_t(len(answer)))
    cuda.call("cuMemFree_v2", address)
    if answer.raw != b"\xa5" * 16:
        raise Failed(f"the peer's write is not seen: {answer.raw.hex()}")
    return {"works": True, **json.loads(output.stdout)}


def ipc_peer(text):
    """The other process of part_ipc: checks the pattern, leaves its own."""
    cuda = Cuda()
    cuda.use(cuda.first_device())
    handle = IpcHandle.from_buffer_copy(bytes.fromhex(text))
    address = ctypes.c_uint64()
    start = time.monotonic()
    cuda.call("cuIpcOpenMemHandle_v2", ctypes.byref(address), handle, ctypes.c_uint(1))
    opened_us = round((time.monotonic() - start) * 1e6)
    seen = ctypes.create_string_buffer(16)
    cuda.call("cuMemcpyDtoH_v2", seen, address, ctypes.c_size_t(len(seen)))
    if seen.raw != b"\x5a" * 16:
        raise Failed(f"the owner's pattern is not seen: {seen.raw.hex()}")
    cuda.call("cuMemsetD8_v2", address, ctypes.c_ubyte(0xA5), ctypes.c_size_t(16))
    cuda.call("cuCtxSynchronize")
    cuda.call("cuIpcCloseMemHandle", address)
    print(json.dumps({"open_us": opened_us}))


SLEEPER = """
import sys, time, torch
cycles = int(sys.argv[1])
torch.cuda._sleep(1000); torch.cuda.synchronize()
print("ready", flush=True); sys.stdin.readline()
start = time.monotonic(); torch.cuda._sleep(cycles); torch.cuda.synchronize()
print(time.monotonic() - start, flush=True)
"""


def sleepers(count, cycles):
    """How long `count` processes take, started together, each with one kernel that only waits; in seconds."""
    command = [sys.executable, "-c", SLEEPER, str(cycles)]
    started = []
    try:
        for _ in range(count):
            started.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        for process in started:
            if process.stdout.readline().strip() != "ready":
                raise Failed("a process with torch did not start")
        for process in started:
            process.stdin.write("\n")
            process.stdin.flush()
        return [float(process.stdout.readline()) for process in started]
    finally:
        for process in started:
            process.kill()
            process.wait()


def part_torch_two_processes():
    """Whether kernels of two processes run side by side, or take turns."""
    cycles = 1 << 29
    alone = sleepers(1, cycles)[0]
    together = max(sleepers(2, cycles))
    return {"alone_s": round(alone, 3), "together_s": round(together, 3), "side_by_side": together < 1.5 * alone}


def part_auto_device():
    """What the library says today where there is a card: an error that names the remedy, or a working device."""
    library = ctypes.CDLL(str(LIBRARY))
    for name in ("ncclGetErrorString", "ncclGetLastError"):
        getattr(library, name).restype = ctypes.c_char_p
    comm = ctypes.c_void_p()
    result = library.ncclCommInitAll(ctypes.byref(comm), 1, None)
    if result == 0:
        library.ncclCommDestroy(comm)
    text = library.ncclGetLastError(None).decode()
    if result != 0 and not text:
        raise Failed(f"ncclCommInitAll answered {result} and ncclGetLastError says nothing")
    return {"result": library.ncclGetErrorString(result).decode(), "last_error": text}


PARTS = {
    "facts": part_facts,
    "symbols": part_symbols,
    "torch-binds": part_torch_binds,
    "ipc": part_ipc,
    "auto-device": part_auto_device,
    "torch-two-processes": part_torch_two_processes,
}


def git(*arguments):
    """What git says, or nothing."""
    output = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=False)
    return output.stdout.strip() if output.returncode == 0 else ""


def identity(card):
    """What a result belongs to: the commit, the library's bytes, the card and its driver."""
    commit = git("rev-parse", "--short=12", "HEAD") or "unknown"
    if git("status", "--porcelain", "--untracked-files=no"):
        commit += " with changes"
    digest = hashlib.sha256(LIBRARY.read_bytes()).hexdigest()[:16]
    return {"commit": commit, "library_sha256": digest, "card": card, "driver": driver_version()}


def save(path, value):
    """Writes a file as a whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as file:
        json.dump(value, file, indent=2)
        file.write("\n")
    os.chmod(file.name, 0o644)
    os.replace(file.name, path)


def run_part(name):
    """One part in a process of its own, as a result to keep."""
    start = time.monotonic()
    arguments = [sys.executable, __file__, "--inner", name]
    try:
        output = subprocess.run(arguments, capture_output=True, text=True, timeout=PART_LIMIT_S, check=False)
        if output.returncode == 0:
            result = {"outcome": "passed", "facts": json.loads(output.stdout.splitlines()[-1])}
        else:
            reason = (output.stderr.strip().splitlines() or [f"ended with {output.returncode}"])[-1]
            result = {"outcome": "FAILED", "because": reason}
    except subprocess.TimeoutExpired:
        result = {"outcome": "FAILED", "because": f"did not end within {PART_LIMIT_S} s"}
    return {**result, "seconds": round(time.monotonic() - start, 1)}


def table(results):
    """The results, one line each."""
    for name, result in results.items():
        said = result.get("because") or ", ".join(f"{key} {value}" for key, value in result["facts"].items())
        print(f"{name:20} {result['outcome']:7} {result['seconds']:6} s  {said}")


def check(options):
    """All parts that have no result yet, the record, and the table."""
    cuda = Cuda()
    card = cuda.name(cuda.first_device())
    if not LIBRARY.exists():
        raise Failed(f"{LIBRARY} is not there: cargo build --release")
    whose = identity(card)
    state = json.loads(STATE.read_text()) if STATE.exists() and not options.fresh else {}
    results = state["results"] if state.get("identity") == whose else {}
    for name in [options.part] if options.part else PARTS:
        if name not in results or options.part or results[name]["outcome"] != "passed":
            print(f"gpu-check: {name}: {PARTS[name].__doc__.splitlines()[0]}", flush=True)
            results[name] = run_part(name)
            save(STATE, {"identity": whose, "results": results})
    results = {name: results[name] for name in PARTS if name in results}
    date = datetime.datetime.now(datetime.timezone.utc).date().isoformat()
    record = RECORDS / f"gpu-{date}-{'-'.join(card.lower().replace('nvidia', '').split())}.json"
    save(record, {"date": date, **whose, "results": results})
    print(f"\n{card}, driver {whose['driver']}, commit {whose['commit']}; record: {record.relative_to(ROOT)}\n")
    table(results)
    return all(result["outcome"] == "passed" for result in results.values())


def main():
    """Reads the command line, and turns what went wrong into one line."""
    parser = argparse.ArgumentParser(description="What needs a card.")
    parser.add_argument("--part", choices=PARTS, help="this part only, again")
    parser.add_argument("--fresh", action="store_true", help="forget earlier results")
    parser.add_argument("--inner", choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--ipc-peer", help=argparse.SUPPRESS)
    options = parser.parse_args()
    try:
        if options.ipc_peer:
            ipc_peer(options.ipc_peer)
        elif options.inner:
            print(json.dumps(PARTS[options.inner]()))
        elif not check(options):
            sys.exit(1)
    except Failed as failure:
        sys.exit(f"gpu-check: {failure}")


if __name__ == "__main__":
    main()
