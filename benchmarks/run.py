"""All bars in one table: `python -m benchmarks.run [--quick] [--check] [--out FILE] [NAME…]` (`make bench`)."""

from __future__ import annotations

import argparse
import importlib
import sys
import time
from pathlib import Path

if not __package__:  # run as a file: the package lies beside, not below
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks.common import Report, as_json, stamp, table
from benchmarks.peers.worker import ROOT

NAMES = ("start", "exec", "hundred", "load_ext", "memory", "message_format", "seccomp", "vm")


def run(names: list[str], quick: bool) -> list[Report]:
    """The reports in order; a benchmark that breaks is named in its report and doesn't stop the others."""
    reports = []
    for name in names:
        print(f"{name} …", file=sys.stderr, flush=True)
        begin = time.monotonic()
        try:
            report: Report = importlib.import_module(f"benchmarks.{name}").measure(quick)
        except Exception as error:
            report = Report(name, missing={"all of it": f"{type(error).__name__}: {error}"})
        report.seconds = time.monotonic() - begin
        reports.append(report)
    return reports


def main() -> int:
    """Prints the table, writes the JSON. With --check: 1 if a bar is missed or has no figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {' '.join(NAMES)}; all if none is given")
    parser.add_argument("--quick", action="store_true", help="fewer rounds; figures for a look, not for a claim")
    parser.add_argument("--check", action="store_true", help="status 1 if a bar is missed or has no figure")
    parser.add_argument("--out", type=Path, default=ROOT / "out" / "bench.json", help="default: out/bench.json")
    options = parser.parse_args()
    for name in options.names:
        if name not in NAMES:
            parser.error(f"no benchmark {name!r}; there are: {' '.join(NAMES)}")

    where = stamp()
    reports = run(options.names or list(NAMES), options.quick)
    where["load_after"] = stamp()["load"]
    rows = [row for report in reports for row in report.rows]
    print(
        f"Linux {where['kernel']} {where['machine']}, {where['cpus']} CPUs ({where['cpu']}), "
        f"cgroup {where['cgroup']}, {where['user']}, Python {where['python']}, "
        f"load {where['load'][0]:.1f} before, {where['load_after'][0]:.1f} after"
    )
    print("\n".join(f"{name}: {text}" for report in reports for name, text in report.about.items() if text))
    print()
    print(table(rows))
    for report in reports:
        for name, why in report.missing.items():
            print(f"not measured: {report.name}: {name}: {why}")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(as_json(reports, where))
    barred = [row for row in rows if row.bar]
    failed = [row for row in barred if row.verdict != "pass"]
    print(f"\n{len(barred) - len(failed)} of {len(barred)} bars met; all samples in {options.out}")
    broken = [report for report in reports if not report.rows]
    return 1 if options.check and (failed or broken) else 0


if __name__ == "__main__":
    sys.exit(main())
