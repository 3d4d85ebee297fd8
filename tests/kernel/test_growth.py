"""What the owner keeps: of containers that are gone nothing but the names that rows of counters still need; notes."""

from __future__ import annotations

import re
import threading
from typing import Any

import pytest
from kernel_help import patient, take_bugs, tries, wait_until

from ctlab import measuring, sampled_names
from ctlab.errors import LabGone
from ctlab.lab import NOTES_KEPT
from ctlab.notebook import display
from ctlab.runtime import messages

pytestmark = pytest.mark.kernel


def test_hundreds_of_containers_leave_nothing(lab: Any) -> None:
    def once(number: int) -> None:
        lab.run(["true"], name=f"g{number}").remove()

    once(0)
    before, threads = sizes(lab), threading.active_count()
    for number in range(1, 1 + tries(100, 300)):
        once(number)
    # Of what has ended last the events may still be under way.
    assert wait_until(lambda: sizes(lab) == before and threading.active_count() <= threads), (before, sizes(lab))
    rings = measuring._rings(lab)
    for names, ring, column in zip(
        (lab._names, lab._endpoint_names), rings, ("container_key", "endpoint_key"), strict=True
    ):
        sampled = set(ring.snapshot(None, [column]).columns[column])
        assert len(names.keys() - sampled) <= 2 * sampled_names.SWEEP_AFTER + 1


def sizes(lab: Any) -> dict[str, int]:
    """Of all that an owner holds; the names have a bound of their own."""
    own = {**vars(lab), **{f"client.{name}": value for name, value in vars(lab._client).items()}}
    pools = {f"{net.name}.{n}": pool._owners for net in lab.networks for n, pool in enumerate(net.pools)}
    return {
        name: len(value)
        for name, value in (own | pools).items()
        if isinstance(value, list | dict | set) and name not in ("_names", "_endpoint_names", "notes")
    }


def test_a_removed_container_has_its_name_in_the_frame(lab: Any) -> None:
    container = lab.run(["sleep", "60"], name="once")
    while "once" not in set(lab.stats()["container"]):
        pass
    container.remove()
    for number in range(2 * sampled_names.SWEEP_AFTER + 2):
        lab.run(["true"], name=f"n{number}").remove()
    assert "once" in set(lab.stats(last="1h")["container"])


def test_notes_are_not_kept_for_ever(lab: Any) -> None:
    for number in range(NOTES_KEPT + 10):
        lab.say(f"note {number}")
    assert len(lab.notes) == NOTES_KEPT and lab.notes[-1] == f"note {NOTES_KEPT + 9}"


def test_a_failing_sampler_is_said_with_the_next_frame(lab: Any) -> None:
    lab._call(messages.Sampler({"do": "no such order"}), messages.Ok)
    with pytest.warns(RuntimeWarning, match="sampler failed"):
        while not lab.notes or "sampler failed" not in lab.notes[-1]:
            pass
        lab.stats()
    lab.stats()  # said once


def test_who_waits_for_a_detached_program_hears_of_the_end_of_the_lab(fresh_lab: Any) -> None:
    process = fresh_lab.run(name="c").exec(["sleep", "60"], detach=True)
    threading.Timer(0.1, fresh_lab.stop).start()
    with pytest.raises(LabGone, match="sleep 60"):
        process.wait(patient(10))
    assert not fresh_lab._executions


def test_a_live_map_replaces_the_earlier_one(lab: Any) -> None:
    first, second = lab.topology(), lab.topology()
    assert (first.frozen, second.frozen, lab.views) == (True, False, [second])
    third = lab.topology(keep=True)
    assert not second.frozen and lab.views == [second, third]
    lab.close_views()
    assert lab.views == [] and third.frozen


def test_a_bug_on_a_thread_of_ours_is_noted_once_and_loses_nothing_else(lab: Any) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError("its\nown")

    forget = lab.on_change(fails)
    lab._client.listen(fails)
    try:
        for _ in range(3):
            assert lab.run(["true"], rm=True).wait(patient(5)) == 0
        assert wait_until(lambda: not lab.containers)
    finally:
        forget()
        lab._client._listeners.remove(fails)
    wanted = [
        rf"a bug of ctlab's: {what}: RuntimeError: its own \(test_growth\.py:\d+\)"
        for what in ("Exited wasn't heard", "Started wasn't heard", "a change wasn't shown")
    ]
    found = sorted(take_bugs(lab))
    assert len(found) == 3 and all(map(re.fullmatch, wanted, found)), found


def test_an_output_that_fails_keeps_nobody_and_is_noted(lab: Any) -> None:
    class View:
        def refresh_stored(self) -> None:
            raise RuntimeError("refreshed")

        def close(self) -> None:
            raise RuntimeError("closed")

    lab.views.append(View())
    display.refresh(lab)
    display.refresh(lab)
    lab.close_views()
    assert [note.partition(" (")[0] for note in lab.notes[-2:]] == [
        f"an output stays as it was: RuntimeError: {how}" for how in ("refreshed", "closed")
    ]
