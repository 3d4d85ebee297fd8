"""Which ids a lab's user namespace has: the texts of other machines, and the parts of ranges that are mapped there."""

from __future__ import annotations

from ctlab.kernel import id_ranges, idmap

MACHINE = "         0          0 4294967295\n"
PODMAN = "         0       1000          1\n         1     100000      65536\n"


def test_the_extents_of_a_map_are_read() -> None:
    assert idmap.mapped(MACHINE) == [(0, 4294967295)]
    assert idmap.mapped(PODMAN) == [(0, 1), (1, 65536)]
    assert idmap.mapped("1000 1000 1\n0 524288 1000\n") == [(0, 1000), (1000, 1)]


def test_root_of_a_namespace_gives_its_own_ids_and_no_line_spans_two_extents() -> None:
    assert idmap.own_lines(idmap.mapped(PODMAN)) == ((0, 0, 1), (1, 1, 65535))
    assert idmap.own_lines([(0, 1)]) == ((0, 0, 1),)
    assert idmap.own_lines([(0, 1_000_000_000)]) == ((0, 0, 65536),)
    assert idmap.own_lines([(0, 10), (60_000, 10), (70_000, 10)]) == ((0, 0, 10), (60_000, 60_000, 10))


def test_of_a_subordinate_range_only_what_is_mapped_counts() -> None:
    assert idmap.largest([(100_000, 65536)], [(0, 4294967295)]) == (100_000, 65536)
    assert idmap.largest([(100_000, 65536)], [(0, 1), (1, 65536)]) == (0, 0)
    assert idmap.largest([(1, 999), (1001, 64535)], [(0, 1), (1, 65536)]) == (1001, 64535)
    assert idmap.largest([(0, 100)], [(0, 1), (1, 9), (10, 40), (90, 100)]) == (10, 40)


def test_what_is_said() -> None:
    lines = idmap.own_lines(idmap.mapped(PODMAN))
    nested = idmap.IdMap("nested", lines, lines, "")
    assert (nested.single, nested.first_uid, nested.first_gid) == (False, 0, 0)
    assert nested.describe() == "started by root of a user namespace: its ids, up to 65535, are the lab's"


def test_a_range_that_nobody_uses() -> None:
    first, count, size = id_ranges.FIRST, id_ranges.COUNT, id_ranges.RANGE
    assert next(id_ranges.untouched([(first + 65535, 1)])) == first + 65536
    assert next(id_ranges.untouched([(first - 1, 1), (first + 65536, 1)])) == first
    assert list(id_ranges.untouched([])) == [first + n * size for n in range(count)]
    assert list(id_ranges.untouched([], count - 1))[:2] == [first + (count - 1) * size, first], "round"
    assert list(id_ranges.untouched([(first + 1, count * size)])) == []
    assert id_ranges.contains(first) and id_ranges.contains(first + count * size - 1)
    assert not id_ranges.contains(first - 1) and not id_ranges.contains(first + count * size)
