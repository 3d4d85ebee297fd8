"""Containers by name, on the real kernel: unique, renamed, replaced, and many in one batch."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from container_help import namespaces
from kernel_help import patient, wait_until

from ctlab.errors import AddressError, BadInput, NameInUse, ProgramNotFound, StateError

pytestmark = pytest.mark.kernel


def test_rename(lab: Any) -> None:
    container, other = lab.run(name="old"), lab.run(name="other")
    address = container.addresses["bridge"]
    assert container.rename("new") is container
    assert (container.name, lab["new"] is container, "old" in lab) == ("new", True, False)
    assert container.addresses["bridge"] == address
    assert other.exec(["getent", "hosts", "new"]).check().stdout.split()[0] == address
    assert other.exec(["getent", "hosts", "old"]).returncode == 2
    with pytest.raises(NameInUse, match="'OTHER' exists"):
        container.rename("OTHER")
    with pytest.raises(BadInput):
        container.rename("-x")
    container.rename("NEW")
    assert lab["new"].name == "NEW"
    assert lab.run(name="old").name == "old"


def test_a_stopped_container_is_renamed_and_starts_under_its_new_name(lab: Any) -> None:
    container, other = lab.run(["sleep", "60"], name="old"), lab.run()
    container.kill()
    container.rename("new").start()
    assert other.exec(["getent", "hosts", "new"]).returncode == 0


def test_names_are_unique_without_case_and_ids_find_containers(lab: Any) -> None:
    container = lab.run(name="Web")
    assert lab["wEb"] is container and lab[container.id[:6]] is container
    with pytest.raises(NameInUse, match=r"container 'web' exists \(running\)"):
        lab.run(name="web")
    assert [c.name for c in lab.containers] == ["Web"]


def test_generated_names(lab: Any) -> None:
    assert [lab.run().name, lab.run(name="c3").name, lab.run().name, lab.run().name] == ["c1", "c3", "c2", "c4"]


def test_a_replaced_handle_says_so_and_the_new_one_has_the_address(lab: Any) -> None:
    old = lab.run(["sleep", "60"], name="web")
    lab.run(name="between")
    new = lab.run(["sleep", "61"], name="web", exists="replace")
    assert new is not old and lab["web"] is new
    assert (new.addresses, new.endpoints[0].mac) == (dict(old.addresses), old.endpoints[0].mac)
    with pytest.raises(StateError, match=r"replaced in .*: take lab\['web'\]"):
        old.exec(["true"])
    assert lab.run(["false"], name="web", exists="keep") is new


def test_what_can_be_checked_before_leaves_the_old_one(lab: Any) -> None:
    """Addresses and the network, by what they will be when the old one has given its own back."""
    lab.network("blue", subnet="10.9.0.0/29")
    lab.network("full", subnet="10.9.1.0/30")
    lab.run(name="beside", networks=["blue"], ip="10.9.0.6")
    lab.run(name="holder", networks=["full"])
    old = lab.run(name="web", networks=["blue"], ip="10.9.0.5")
    for said, options in {
        "10.8.0.1 is outside the subnet": {"networks": ["blue"], "ip": "10.8.0.1"},
        "10.9.0.6 is taken by 'beside'": {"networks": ["blue"], "ip": "10.9.0.6"},
        "has no IPv6 subnet": {"networks": ["blue"], "ip6": "fd00::5"},
        "is exhausted": {"networks": ["blue", "full"]},
        "isn't a MAC address": {"networks": ["blue"], "mac_address": "02:42"},
        "container 'web' is replaced, and its network with it": {"networks": ["container:web"]},
    }.items():
        with pytest.raises((AddressError, BadInput), match=said):
            lab.run(name="web", exists="replace", **options)
        assert lab["web"] is old and old.state == "running" and old.exec(["true"]).returncode == 0
    new = lab.run(name="web", exists="replace", networks=["blue"], ip="10.9.0.5", mac_address="02:00:00:00:00:07")
    assert new is not old and str(new.address("blue")) == "10.9.0.5"
    assert {net.name: len(net.pools[0].owners) for net in lab.networks} == {"blue": 2, "full": 1}


def test_a_batch(lab: Any) -> None:
    made = lab.run(["sleep", "60"], count=12, name="w{n:02}")
    assert [c.name for c in made] == [f"w{n:02}" for n in range(1, 13)]
    assert {c.state for c in lab.containers} == {"running"}
    assert len({c.addresses["bridge"] for c in made}) == 12
    assert len({namespaces(c)["net"] for c in made[:3]}) == 3
    assert made["w07"].exec(["getent", "hosts", "w12"]).stdout.split()[0] == made["w12"].addresses["bridge"]
    assert all(isinstance(c.pid, int) for c in made)


def test_a_batch_without_a_name_takes_names_that_are_free(lab: Any) -> None:
    assert lab.run().name == "c1"
    assert [c.name for c in lab.run(count=2)] == ["c2", "c3"]
    lab["c1"].remove()
    assert [c.name for c in lab.run(count=2)] == ["c1", "c4"]


@pytest.mark.parametrize("options", [{"ip": "10.30.0.9"}, {}])
def test_a_failing_batch_leaves_none(lab: Any, options: dict[str, str]) -> None:
    network = lab.network("blue", subnet="10.30.0.0/24")
    command = ["sleep", "60"] if options else ["/no/such/program"]
    with pytest.raises((ProgramNotFound, Exception), match="10.30.0.9" if options else "no program '/no/such/program'"):
        lab.run(command, count=6, name="w{n}", networks=["blue"], **options)
    assert len(lab.containers) == 0 and network.containers == []
    assert lab.run(networks=["blue"]).addresses["blue"] == "10.30.0.2"


def test_a_batch_over_an_existing_name_makes_none(lab: Any) -> None:
    lab.run(name="w3")
    with pytest.raises(NameInUse, match="w3"):
        lab.run(count=4, name="w{n}")
    assert [c.name for c in lab.containers] == ["w3"]


def test_many_quick_ends_are_all_heard(lab: Any) -> None:
    """Six hundred events while the thread that hears them is held up: none is lost, and nobody waits for it."""
    go_on = threading.Event()

    def slow() -> None:
        if threading.current_thread().name.startswith("ctlab-events"):
            go_on.wait(patient(50))

    forget = lab.on_change(slow)
    lab.network("wide", subnet="10.80.0.0/20")
    made = [c for batch in range(3) for c in lab.run(["true"], count=100, name=f"q{batch}-{{n}}", networks="wide")]
    assert lab.run(name="last").exec(["echo", "x"]).stdout == "x\n"
    assert [c.state for c in made].count("running") > 250
    go_on.set()
    assert wait_until(lambda: {c.state for c in made} == {"exited"}, 20)
    forget()
