"""Who the fault tests run as, and how a judge's report comes to the sum that is printed at the end."""

from __future__ import annotations

import os
import pwd
import secrets
import subprocess
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
    """Add one judge's report to the sum (`faults_summary`)."""
    return lambda report: record_property("faults", report)
