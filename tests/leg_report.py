"""What was tested where: each leg of the tests (native, vm) writes a report, and this merges them into one table.

A leg is a kernel. Its report holds the doctor's probes there, which tests ran with which outcome, and what each of
them used (`kernel_help.uses`). A capability counts as tested on a leg only if a test that uses it passed there: a
probe alone is no test. ``python tests/leg_report.py REPORT.json ...`` prints the table, and fails if a leg that is
there has not tested what it is there for (`REQUIRED`), or if more tests than `MOST_FLAKY` failed only at first
(`second_look.py`). With ``--times`` it prints the seconds of each file instead.
"""

from __future__ import annotations

import json
import os
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from ctlab.kernel.probe import STEPS

LEGS = ("native", "vm")
V1 = ("cpu", "cpuacct", "cpuset", "memory", "pids", "freezer", "blkio")
V2 = ("cpu", "cpuset", "memory", "pids", "io")
LINKS = ("geneve", "wireguard", "vlan", "dummy", "vrf")  # beside those that the doctor probes
QDISCS = ("fq", "fq_codel", "prio", "red", "cake")
NFT = ("nft-flowtable", "nft-queue", "nft-bridge-conntrack")
CAPABILITIES: tuple[str, ...] = (
    *(step.name for step in STEPS), *LINKS, *QDISCS, *NFT,
    "cgroup v1", *(f"cgroup v1 {name}" for name in V1), "cgroup v2", *(f"cgroup v2 {name}" for name in V2),
    "systemd scope", "ordinary user with cgroup v1", "ordinary user with cgroup v2", "beside podman",
)  # fmt: skip

MOST_FLAKY = 5  # tests that fail and then pass: so many are bad luck, more are a fault
FLAKY = Path(__file__).resolve().parents[1] / "out/flaky.txt"

# What the leg exists for. Without the virtual machine none of it would have been tested.
REQUIRED: Mapping[str, tuple[str, ...]] = {
    "vm": (
        *(f"cgroup v2 {name}" for name in V2), "ordinary user with cgroup v2", "netem", "ipvlan", "wireguard",
        "nft-nat", "overlay",
    ),
}  # fmt: skip


# What a native run of all tests as an ordinary user may leave untested though it is there, with why.
ROOTS: Mapping[str, str] = {
    "packet-socket": "the machine's interfaces are root's to capture on",
}


def of_lab(facts: Mapping[str, Any]) -> list[str]:
    """What every lab uses (`facts`: those of its client)."""
    used = [step.name for step in STEPS if step.essential]
    if facts["cgroup"] != "none":
        used.append(f"cgroup {facts['cgroup']}")
        if os.geteuid() != 0:
            used.append(f"ordinary user with cgroup {facts['cgroup']}")
    if facts["cgroup"] == "v2" or any("/unified/" in path for path in facts["cgroup_paths"]):
        used += ["clone-into-cgroup", "cgroup-kill"]
    return used


class Recorder:
    """A plugin of pytest: collects outcomes, and writes the leg's report at the end."""

    def __init__(self, path: str) -> None:
        self.path = Path(path).absolute()
        self.tests: dict[str, dict[str, Any]] = {}
        self.untested: list[str] = []
        self.flaky: list[list[str]] = []  # name and why, of tests that a test has run and looked at twice

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """One phase of one test; a failed or skipped one decides."""
        entry = self.tests.setdefault(report.nodeid, {"outcome": "passed", "seconds": 0.0, "uses": [], "reason": ""})
        entry["seconds"] = round(entry["seconds"] + report.duration, 3)
        if report.failed and os.environ.get("CTLAB_TEST_LEG") == "vm":
            print(f"\n{report.longreprtext}", flush=True)  # at once: the machine may not live until the end
        if report.outcome != "passed" and entry["outcome"] != "failed":
            entry["outcome"] = report.outcome
            if report.skipped:
                text = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
                entry["reason"] = text.removeprefix("Skipped: ")
            else:
                entry["reason"] = why(report.longreprtext)
        entry["uses"] = sorted({str(value) for name, value in report.user_properties if name == "uses"})
        if report.when == "call":
            self.flaky += [list(value) for name, value in report.user_properties if name == "flaky"]

    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """Ask the doctor, and write. A native run of all tests fails where it has not tested what the machine has."""
        from ctlab.doctor import doctor

        probes = {item.name: {"ok": item.ok, "detail": item.detail} for item in doctor()}
        report = {
            "leg": os.environ.get("CTLAB_TEST_LEG", "native"), "kernel": " ".join(os.uname()[i] for i in (0, 2, 4)),
            "user": "root" if os.geteuid() == 0 else "user", "probes": probes, "tests": self.tests,
            "flaky": self.flaky, "whole": _of_all_tests(session.config),
        }  # fmt: skip
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(json.dumps(report))
        if exitstatus == pytest.ExitCode.OK and report["leg"] == "native" and report["whole"]:
            self.untested = untested(report)
            if self.untested:
                session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Name what was there and was not tested."""
        if self.untested:
            terminalreporter.section("on this machine, and tested by no test that passed", red=True)
            for name in self.untested:
                terminalreporter.write_line(name)


def why(text: str) -> str:
    """One line of a failure's text: the error's first line as pytest marks it, else the last line."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return next((line[1:].strip() for line in lines if line.startswith("E ")), lines[-1] if lines else "")


def _of_all_tests(config: pytest.Config) -> bool:
    """Whether the run was of everything, and not of files or a choice among the tests."""
    chosen = ("keyword", "markexpr", "deselect", "ignore", "ignore_glob", "lf", "last_failed", "stepwise")
    whole = config.args_source == pytest.Config.ArgsSource.TESTPATHS
    return whole and not any(config.getoption(name, None) for name in chosen)


def untested(report: Mapping[str, Any]) -> list[str]:
    """What a probe of this report found and no test of it that passed has used; `ROOTS` is excused."""
    passed = {name for test in report["tests"].values() if test["outcome"] == "passed" for name in test["uses"]}
    excused = ROOTS if report["user"] != "root" else {}
    there = [name for name, probe in report["probes"].items() if probe["ok"] and name in CAPABILITIES]
    return [name for name in there if name not in passed and name not in excused]


# -- what was looked at twice -----------------------------------------------------------------------------------------
def after_a_second_look(first: Mapping[str, Any], again: Mapping[str, Any]) -> dict[str, Any]:
    """The report of a leg after what failed in it was run again: what passed then is flaky, all else stays failed."""
    tests, flaky = dict(first["tests"]), [*first["flaky"], *again["flaky"]]
    for nodeid, before in first["tests"].items():
        now = again["tests"].get(nodeid)
        if before["outcome"] != "failed" or now is None or now["outcome"] == "skipped":
            continue
        if now["outcome"] == "passed":
            flaky.append([nodeid, before["reason"]])
        tests[nodeid] = now
    return {**first, "tests": tests, "flaky": flaky}


def tell_flaky(reports: Iterable[Mapping[str, Any]], path: Path) -> list[str]:
    """A line for each flaky test of these reports, which the file holds from then on; one more if they are too many."""
    lines = [f"flaky {name} ({reason[:200]})" for report in reports for name, reason in report["flaky"]]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))
    if len(lines) > MOST_FLAKY:
        return [*lines, f"{len(lines)} flaky tests, and at most {MOST_FLAKY} are taken for bad luck"]
    return lines


# -- merging ----------------------------------------------------------------------------------------------------------
class Cell:
    """One capability on one leg."""

    def __init__(self) -> None:
        self.passed = self.failed = 0
        self.reasons: list[str] = []
        self.probe: bool | None = None

    @property
    def tested(self) -> bool:
        """Whether a test that uses it passed."""
        return self.passed > 0

    def text(self) -> str:
        """For the table."""
        if self.failed:
            return f"{self.failed} FAILED, {self.passed} passed"
        if self.passed:
            return f"{self.passed} passed"
        if self.probe:
            return "present, no test"
        return "absent" if self.reasons or self.probe is False else "-"


def cells(reports: Iterable[Mapping[str, Any]]) -> dict[tuple[str, str], Cell]:
    """(capability, leg) -> what the reports say of it."""
    found = {(name, leg): Cell() for name in CAPABILITIES for leg in LEGS}
    for report in reports:
        leg = report["leg"]
        for name, probe in report["probes"].items():
            cell = found.get((name, leg))
            if cell is not None:
                cell.probe = probe["ok"] or cell.probe
                if not probe["ok"]:
                    cell.reasons.append(probe["detail"])
        for nodeid, test in report["tests"].items():
            for name in test["uses"]:
                if (name, leg) not in found:
                    raise ValueError(f"{nodeid} uses {name!r}, which CAPABILITIES in {__file__} doesn't list")
                cell = found[name, leg]
                cell.passed += test["outcome"] == "passed"
                cell.failed += test["outcome"] == "failed"
                if test["outcome"] == "skipped":
                    cell.reasons.insert(0, test["reason"])
    return found


def missing(reports: Sequence[Mapping[str, Any]]) -> list[str]:
    """What a leg that has reported should have tested and has not."""
    found = cells(reports)
    legs = {report["leg"] for report in reports}
    return [
        f"{leg}: {name}" for leg, names in REQUIRED.items() if leg in legs for name in names
        if not found[name, leg].tested
    ]  # fmt: skip


def table(reports: Sequence[Mapping[str, Any]]) -> str:
    """The table, the legs' totals above it, and below it what no leg has tested, each with why."""
    lines = ["what was tested where"]
    for report in reports:
        counts = dict.fromkeys(("passed", "failed", "skipped"), 0)
        for test in report["tests"].values():
            counts[test["outcome"]] += 1
        told = ", ".join(f"{count} {outcome}" for outcome, count in counts.items())
        told += f", {len(report['flaky'])} flaky" if report["flaky"] else ""
        lines.append(f"  {report['leg']} ({report['user']}, {report['kernel']}): {told}")
    absent = [leg for leg in LEGS if leg not in {report["leg"] for report in reports}]
    lines += [f"  {leg}: no report" for leg in absent]
    found = cells(reports)
    width = max(map(len, CAPABILITIES))
    lines += ["", f"  {'capability':<{width}}  {'native':<24}  vm"]
    for name in CAPABILITIES:
        lines.append(f"  {name:<{width}}  {found[name, 'native'].text():<24}  {found[name, 'vm'].text()}".rstrip())
    nowhere = [name for name in CAPABILITIES if not any(found[name, leg].tested for leg in LEGS)]
    lines += ["", f"tested on no leg: {len(nowhere)}" if nowhere else "every capability was tested on a leg"]
    for name in nowhere:
        why = "; ".join(f"{leg}: {(found[name, leg].reasons or [found[name, leg].text()])[0]}" for leg in LEGS)
        lines += textwrap.wrap(f"{name}: {why}", 118, initial_indent="  ", subsequent_indent="      ")
    skipped: dict[str, int] = {}
    for report in reports:
        for test in report["tests"].values():
            if test["outcome"] == "skipped":
                key = f"{report['leg']}: {test['reason']}"
                skipped[key] = skipped.get(key, 0) + 1
    lines += ["", "skipped, by leg and reason:"]
    for key, count in sorted(skipped.items()):
        lines += textwrap.wrap(f"{key} × {count}", 118, initial_indent="  ", subsequent_indent="      ")
    return "\n".join(lines)


def failures(reports: Iterable[Mapping[str, Any]]) -> list[str]:
    """A line for each test that failed: leg, test and why. They come last, where a log that is cut still has them."""
    return [
        f"  {report['leg']} ({report['user']}): {nodeid}: {test['reason'][:200]}"
        for report in reports for nodeid, test in report["tests"].items() if test["outcome"] == "failed"
    ]  # fmt: skip


def times(reports: Iterable[Mapping[str, Any]]) -> str:
    """Where the time went: seconds, tests and file, of each leg's files, the longest first."""
    files: dict[tuple[str, str], list[float]] = {}
    for report in reports:
        for nodeid, test in report["tests"].items():
            files.setdefault((f"{report['leg']} {report['user']}", nodeid.partition("::")[0]), []).append(
                test["seconds"]
            )
    rows = sorted(files.items(), key=lambda item: -sum(item[1]))
    return "\n".join(f"{sum(took):7.1f} s {len(took):5} tests  {leg}: {name}" for (leg, name), took in rows)


def main(paths: Sequence[str]) -> int:
    """Print the table of the reports in these files, or with --times first their times; the status of the process."""
    reports = [json.loads(Path(path).read_text()) for path in paths if path != "--times"]
    if not reports:
        print("no report of any leg: run make test and make test-vm", file=sys.stderr)
        return 2
    if "--times" in paths:
        print(times(reports))
        return 0
    print(table(reports))
    lacking = missing(reports)
    if lacking:
        print(f"\nnot tested, though the leg is there for it: {', '.join(lacking)}")
    failed = failures(reports)
    if failed:
        print("\n".join(["", "failed:", *failed]))
    flaky = tell_flaky(reports, FLAKY)
    if flaky:
        print("\n".join(["", *flaky]))
    return 1 if lacking or len(flaky) > MOST_FLAKY else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
