"""In the guest, as its root: runs a share of the tests, and writes the reports as marked lines of the output.

Standard library only before the tests begin. Argument: the steps (`legs.Step`) as JSON. What it writes goes to the
host as it comes; nothing else of the guest is kept, since the host's files are read-only and the rest is memory.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
REPORT = "ctlab-leg-report "  # begins a line that is a report: behind it the step's number, from 1


def environment(report: Path) -> dict[str, str]:
    """What pytest and all that it starts are told."""
    return os.environ | {
        "CTLAB_LEG_REPORT": str(report), "CTLAB_TEST_LEG": "vm", "PYTHONDONTWRITEBYTECODE": "1", "LANG": "C.UTF-8",
        "HYPOTHESIS_STORAGE_DIRECTORY": "/tmp/hypothesis",  # beside the tests nothing can be written
    }  # fmt: skip


def words(files: list[str]) -> list[str]:
    """What pytest is called with."""
    paths = [str(ROOT / "tests/kernel" / file) for file in files]
    return ["-v", "--no-header", "--tb=short", "-rfE", "-p", "no:cacheprovider", *paths]


def as_root(step: dict[str, Any], report: Path) -> int:
    """Run the step as the guest's root; pytest's status."""
    command = [sys.executable, "-m", "pytest", f"--rootdir={ROOT}", *words(step["files"])]
    return subprocess.run(command, cwd=ROOT, env=environment(report), check=False).returncode


def as_ordinary_user(step: dict[str, Any], folder: Path) -> int:
    """Run the step as an ordinary user made for it; pytest's status."""
    sys.path.insert(0, str(ROOT / "tests"))
    from as_user import ordinary_user

    with ordinary_user(ids=step["ids"], cgroups=step["cgroups"]) as user:
        report = user.report
        kept = environment(report)
        env = {name: value for name, value in kept.items() if name.startswith(("CTLAB_", "PYTHON"))}
        command = user.pytest_command(*words(step["files"]))
        status = subprocess.run(user.argv(command, env), cwd="/", check=False).returncode
        if report.exists():
            (folder / "user.json").write_text(report.read_text())
        return status


def own_accounts() -> None:
    """Secret halves of the accounts, their lock and copies: the host's are not shared; without, no user can be made."""
    for name, of, fields in (("shadow", "passwd", "*:0:0:99999:7:::"), ("gshadow", "group", "*::")):
        names = [line.partition(":")[0] for line in Path("/etc", of).read_text().splitlines() if line]
        path = Path("/etc", name)
        path.unlink(missing_ok=True)
        path.write_text("".join(f"{each}:{fields}\n" for each in names))
        path.chmod(0o600)
    for name in (".pwd.lock", "shadow-", "gshadow-"):
        Path("/etc", name).unlink(missing_ok=True)


def main() -> int:
    """All steps; 0 if every one went well."""
    steps = json.loads(sys.argv[1])
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)  # as on every machine
    own_accounts()
    failed = 0
    for number, step in enumerate(steps):
        with tempfile.TemporaryDirectory(prefix="ctlab-leg-") as name:
            began = time.monotonic()
            folder = Path(name)
            status = as_root(step, folder / "root.json") if step["who"] == "root" else as_ordinary_user(step, folder)
            found = sorted(folder.glob("*.json"))
            for path in found:
                print(f"{REPORT}{number + 1} {path.read_text()}", flush=True)
            print(f"step {number + 1} of {len(steps)} ({step['who']}): pytest's status is {status}, "
                  f"{time.monotonic() - began:.0f} s", flush=True)  # fmt: skip
            failed += status != 0 or not found
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
