"""Measure what a container reaches in ctlab, podman and bubblewrap, and write the tables of docs/security.md. As root.

``python scripts/wall-table.py`` writes the page; with ``--rows`` only what needs no measuring (after a change of the
exceptions), as anybody; with ``--show`` the differences are printed, one a line, and nothing is written.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests/wall")]

import wall_page  # noqa: E402
import wall_reports  # noqa: E402
import wall_table  # noqa: E402


def version(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def write(new: str) -> None:
    text = wall_page.PAGE.read_text(encoding="utf-8")
    wall_page.PAGE.write_text(text.replace(wall_page.on_the_page(text), new), encoding="utf-8")


def main() -> int:
    if "--rows" in sys.argv:
        old = wall_page.on_the_page(wall_page.PAGE.read_text(encoding="utf-8"))
        write(f"{old.partition(wall_page.KNOWN)[0]}{wall_page.known()}\n\n{wall_page.END}")
        return 0
    if os.geteuid() != 0:
        print("needs root: to make ordinary users, and a machine of podman's own", file=sys.stderr)
        return 1
    reports, names = wall_reports.collect(), wall_reports.call_names()
    if "--show" in sys.argv:
        for leg, sides in reports.items():
            for way, report in sides["ctlab"].items():
                theirs = sides["podman"].get(way, sides["podman"]["run"])
                for fact in sorted(wall_table.excess(report, theirs, names)):
                    print(f"{leg}, {way}: {fact}")
        return 0
    kernel = ".".join(platform.release().split(".")[:2])
    versions = [version(program, "--version").splitlines()[0] for program in ("podman", "crun", "bwrap")]
    about = (
        f"Linux {kernel}, {platform.machine()}; {', '.join(versions)}; no network. "
        "Each figure is how many things were reached."
    )
    write(wall_page.measured(reports, names, about))
    return 0


if __name__ == "__main__":
    sys.exit(main())
