"""Who the fault tests run as, and the sum of what they did, printed at the end."""

from __future__ import annotations

import os
import pwd
import secrets
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from as_user import account_files


@pytest.fixture(scope="session")
def world_possible() -> None:
    """The faults happen in a private world, which only root can make whole (other users' processes, cgroup folders)."""
    if os.geteuid() != 0:
        pytest.skip("the fault tests need root: they run labs of root and of an ordinary user in a world of their own")
    tried = subprocess.run(
        ["unshare", "--mount", "--net", "--pid", "--fork", "--mount-proc", "true"],
        capture_output=True,
        text=True,
        check=False,
    )
    if tried.returncode:
        pytest.skip(f"no private world can be made here: {tried.stderr.strip()}")


@pytest.fixture(scope="session")
def ordinary(world_possible: None) -> Iterator[dict[str, int]]:
    """The ids of an ordinary user made for the tests, with subordinate ids where the machine's useradd gives some."""
    name = f"ctfault{secrets.token_hex(3)}"
    account_files("useradd", "--no-create-home", "--home-dir", "/tmp/home", name)
    try:
        entry = pwd.getpwnam(name)
        yield {"uid": entry.pw_uid, "gid": entry.pw_gid}
    finally:
        account_files("userdel", name)


@pytest.fixture
def count_in(record_property: Callable[[str, object], None]) -> Callable[[dict[str, Any]], None]:
    """Add one judge's report to the sum."""
    return lambda report: record_property("faults", report)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """One line: what was tried, what was left."""
    ended = [report for kind in ("passed", "failed") for report in terminalreporter.stats.get(kind, [])]
    reports: list[dict[str, Any]] = [
        value for report in ended if report.when == "call" for name, value in report.user_properties if name == "faults"
    ]  # fmt: skip
    if not reports:
        return
    kills: Counter[str] = Counter()
    phases: Counter[str] = Counter()
    ends: Counter[str] = Counter()
    for report in reports:
        kills.update(report["kills"])
        phases.update(report["phases"])
        ends.update(report["other_ends"])
    left = sum(len(report["left"]) for report in reports)
    parts = ", ".join(f"{name} {count}" for name, count in kills.most_common())
    terminalreporter.section("faults")
    terminalreporter.write_line(f"faults: {sum(kills.values())} kills: {parts}; {left} left-overs")
    terminalreporter.write_line(f"  at: {', '.join(f'{name} {count}' for name, count in phases.most_common())}")
    watched = sum(report["witnesses"] for report in reports)
    slowest = max(report["slowest_seconds"] for report in reports)
    terminalreporter.write_line(
        f"  other ends of the owner: {dict(ends)}; network namespaces watched: {watched}; "
        f"slowest clean-up: {slowest:g} s; as: {', '.join(report['who'] for report in reports)}"
    )
