"""docs/security.md says what the tables here say; its figures are of the groups that there are. Pure."""

from __future__ import annotations

import re

import wall_page
import wall_table
from wall_exceptions import EXCEPTIONS, OF_A_VM, OF_THE_SYSTEM

TEXT = wall_page.PAGE.read_text(encoding="utf-8")


def test_the_measured_table_has_every_group_and_side() -> None:
    lines = [line for line in wall_page.on_the_page(TEXT).splitlines() if line.startswith("|")]
    heads = [cell.strip() for cell in lines[0].strip("|").split("|")]
    assert heads[1:] == [f"{leg}: {side}" for leg in wall_page.LEG_NAMES.values() for side in wall_page.SIDES]
    assert [line.strip("|").split("|")[0].strip() for line in lines[2 : 2 + len(wall_page.GROUPS)]] == [
        name for name, _ in wall_page.GROUPS
    ]
    figures = wall_page.numbers(TEXT)
    assert all(len(row) == len(heads) - 1 for row in figures) and sum(map(sum, figures)) > 1000


def test_the_exceptions_on_the_page_are_those_of_the_tests() -> None:
    assert wall_page.known() in wall_page.on_the_page(TEXT), "run scripts/wall-table.py as root"


def test_every_row_has_its_own_reason_or_refers_to_the_one_before() -> None:
    for rows in (EXCEPTIONS, OF_A_VM, OF_THE_SYSTEM):
        assert all(len(row.reason) > 5 for row in rows) and len({row.facts for row in rows}) == len(rows)
        assert not rows or not rows[0].reason.startswith("the same")


def test_groups_take_what_they_name() -> None:
    for fact, part in (
        ("call add_key", "system calls"), ("mounts tmpfs", "mounts and roots"), ("makes a timer", "all else"),
        ("reads /proc/sys/kernel/keys/maxkeys", "files of /proc that"), ("writes /proc/sys/x", "files of /proc and"),
        ("requests a key", "keys"), ("makes a key of memory protection", "all else"), ("reads /sys/x", "files of /sys"),
        ("setns user, its own", "namespaces made"), ("traces its child", "processes seen"),
        ("mounts tmpfs, in a user namespace of its own", "mounts and programs"), ("reads device c1:3", "devices"),
        ("capability bounding KILL", "capabilities, in"), ("capability effective KILL", "capabilities, eff"),
        ("reads the user's secret by its serial", "keys"), ("socket of family 1, raw", "kinds"),
        ("namespace time is the machine's", "what is the machine's"),
    ):  # fmt: skip
        assert wall_page.group_of(fact).startswith(part), fact
    assert wall_table.matches("anything", wall_page.GROUPS[-1][1][0])


def test_paths_in_the_text_lead_somewhere() -> None:
    root = wall_page.PAGE.parents[1]
    found = set(re.findall(r"`((?:[a-z_]+/)+[\w-]+\.\w+)`", TEXT))
    assert found and [path for path in found if not (root / path).exists()] == []
