#!/usr/bin/env python3
"""Collects what criterion measured (target/criterion) into one JSON object a line.

    scripts/criterion_record.py COMMIT >> benches/records/DATE-criterion.jsonl
"""
import datetime
import json
import pathlib
import sys


def first(path, start):
    """The first line that starts so, behind its colon."""
    for line in pathlib.Path(path).read_text().splitlines():
        if line.startswith(start):
            return line.split(":", 1)[1].strip()
    return "unknown"


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    root = pathlib.Path(__file__).resolve().parent.parent
    found = sorted((root / "target" / "criterion").glob("**/new/estimates.json"))
    if not found:
        sys.exit("criterion_record: nothing was measured; cargo bench comes first")
    origin = {
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "commit": sys.argv[1],
        "cpu": first("/proc/cpuinfo", "model name"),
    }
    for estimates in found:
        name = json.loads((estimates.parent / "benchmark.json").read_text())["full_id"]
        values = json.loads(estimates.read_text())
        median = values["median"]
        interval = median["confidence_interval"]
        line = {
            **origin,
            "bench": name,
            "median_ns": round(median["point_estimate"], 2),
            "low_ns": round(interval["lower_bound"], 2),
            "high_ns": round(interval["upper_bound"], 2),
        }
        print(json.dumps(line))


if __name__ == "__main__":
    main()
