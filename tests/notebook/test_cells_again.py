"""A name is a variable: what happens when a cell is run again, in the same cell, in a later one, by Python or magic."""

from __future__ import annotations

from typing import Any

import pytest

from ctlab.errors import BadInput, NameInUse, StateError

pytestmark = pytest.mark.kernel


def test_twice_in_one_cell_is_an_error(shell: Any) -> None:
    error = shell.fails("%container run -d --name web -- sleep 60\n%container run -d --name WEB -- sleep 60")
    assert isinstance(error, NameInUse) and "container 'WEB' exists (running)" in str(error)
    assert shell.lab.containers.keys() == ["web"]
    error = shell.fails("%network create blue\n%network create blue")
    assert isinstance(error, NameInUse) and "network 'blue' exists" in str(error)
    error = shell.fails("%lab start x\n%lab start x")
    assert isinstance(error, NameInUse) and "lab 'x' runs already" in str(error)


def test_a_container_later_is_replaced(shell: Any, capsys: pytest.CaptureFixture[str]) -> None:
    shell.run("%network create blue --ipv6\n%container run -d --name other --network blue")
    cell = "%container run -d --name web --network blue --network bridge -- sleep 60"
    shell.run("%network create bridge")
    old = shell.run(cell)
    before = [(e.network, e.mac, e.addresses) for e in old.endpoints]
    shell.run("%container run -d --name more --network blue")
    capsys.readouterr()
    new = shell.run(cell)
    assert new is not old and new.id != old.id and shell.lab["web"] is new
    assert [(e.network, e.mac, e.addresses) for e in new.endpoints] == before
    said = capsys.readouterr().out
    assert said.startswith("replaced web (Out[4], ran ") and said.count("\n") >= 1
    with pytest.raises(StateError, match=r"replaced in Out\[6\]: take lab\['web'\]"):
        old.exec("true")
    assert old.state == "removed"


def test_an_address_that_was_asked_for_is_not_carried_over(shell: Any) -> None:
    shell.run("%network create blue --subnet 10.9.0.0/24")
    assert str(shell.run("%container run -d --name web --network blue --ip 10.9.0.77").address()) == "10.9.0.77"
    assert str(shell.run("%container run -d --name web --network blue").address()) == "10.9.0.2"


def test_exists_overrides(shell: Any) -> None:
    web = shell.run("%container run -d --name web -- sleep 60")
    assert isinstance(shell.fails("%container run -d --name web --exists error -- sleep 60"), NameInUse)
    assert shell.run("%container run -d --name web --exists keep -- sleep 60") is web
    cell = "%container run -d --name web --exists replace -- sleep 60"
    new = shell.run(f"{cell}\n{cell}")  # even in one cell
    assert new is not web and shell.lab.containers.keys() == ["web"]


def test_a_network_later_is_kept_if_it_is_the_same(shell: Any, capsys: pytest.CaptureFixture[str]) -> None:
    cell = "%network create blue --subnet 10.9.0.0/24"
    blue = shell.run(cell)
    shell.run("%container run -d --name web --network blue")
    capsys.readouterr()
    assert shell.run(cell) is blue
    assert "network blue: unchanged" in capsys.readouterr().out
    assert shell.run("%network create blue") is blue  # any subnet will do
    error = shell.fails("%network create blue --subnet 10.8.0.0/24")
    assert isinstance(error, StateError) and "web of other cells hangs on it" in str(error)
    assert isinstance(shell.fails("%network create blue --internal"), StateError)
    assert blue.subnets == ("10.9.0.0/24",) and shell.lab["web"].state == "running"
    shell.run("%container rm web")
    assert shell.run("%network create blue --subnet 10.8.0.0/24").subnets == ("10.8.0.0/24",)
    assert "replaced network blue" in capsys.readouterr().out


def test_a_lab_later_is_replaced(shell: Any, capsys: pytest.CaptureFixture[str]) -> None:
    cell = "%lab start x\n%container run -d --name web"
    shell.run(cell)
    old = shell.lab
    capsys.readouterr()
    shell.run(cell)
    assert old.gone and shell.lab is not old and shell.lab.containers.keys() == ["web"]
    assert "replaced lab x (Out[2])" in capsys.readouterr().out
    with pytest.raises(StateError):
        old["web"].exec("true")


def test_python_in_a_cell_has_the_same_rules(shell: Any) -> None:
    shell.run("import ctlab\nlab = ctlab.Lab('py')\nweb = lab.run('sleep 60', name='web')")
    assert isinstance(shell.fails("lab.run('sleep 60', name='a'); lab.run('sleep 60', name='a')"), NameInUse)
    first = shell.ip.user_ns["web"]
    second = shell.run("lab.run('sleep 60', name='web')")
    assert second is not first and second.addresses == first.addresses
    shell.run("lab = ctlab.Lab('py')")
    assert first.lab.gone
    assert isinstance(shell.fails("ctlab.Lab('py', exists='sideways')"), BadInput)
    assert not shell.ip.user_ns["lab"].gone  # what can't be understood ends nothing


def test_in_plain_python_a_name_is_taken(usable: None) -> None:
    import ctlab

    with ctlab.Lab("plain") as lab:
        lab.run("sleep 60", name="web")
        with pytest.raises(NameInUse):
            lab.run("sleep 60", name="web")
        with pytest.raises(NameInUse):
            ctlab.Lab("plain")
