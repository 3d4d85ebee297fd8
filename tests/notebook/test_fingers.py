"""What fingers type: all at once, objects where names could stand, a cell run again with another subnet."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from kernel_help import patient, seen, wait_until

from ctlab import labs
from ctlab.errors import StateError

pytestmark = pytest.mark.kernel


def test_all_containers_and_all_labs(shell: Any, capsys: pytest.CaptureFixture[str]) -> None:
    shell.run("%lab start one\n%container run -d --name a\n%container run -d --name b")
    one = shell.lab
    assert shell.run("%container stop --all").keys() == ["a", "b"]
    assert [container.state for container in one.containers] == ["exited", "exited"]
    shell.run("%container start a")
    assert shell.run("%container rm -a").keys() == ["a", "b"] and not one.containers
    assert "a was running: killed" in capsys.readouterr().out
    assert shell.run("%container rm --all") is None and "there is no container" in capsys.readouterr().out
    shell.run("%lab start two")
    assert shell.run("%lab stop --all").keys() == ["one", "two"] and labs.running() == []
    assert shell.run("%lab stop --all") is None and "no lab runs here" in capsys.readouterr().out


def test_container_stats_are_dockers_table(shell: Any) -> None:
    shell.run("%container run -d --name web -- sleep 100\n%container run -d --name busy -- sh -c 'while :; do :; done'")
    # A share of a CPU needs two samples.
    found = seen(lambda: shell.run("%container stats"), lambda table: table.frame()["cpu_cores"].notna().all())
    head, *rows = repr(found).splitlines()
    words = ["NAME", "CPU %", "MEM USAGE / LIMIT", "MEM %", "NET I/O", "BLOCK I/O", "PIDS"]
    assert re.split(r"  +", head) == words and list(found.rows()[0]) == words
    assert [row.split()[0] for row in rows] == ["web", "busy"]
    assert all(f">{word}</th>" in found._repr_html_() for word in words)
    frame = found.frame().set_index("container")
    assert (frame["memory_bytes"] > 0).all() and frame["memory_limit_bytes"].isna().sum() in (0, 2)
    assert frame.loc["busy", "cpu_cores"] > frame.loc["web", "cpu_cores"] >= 0
    assert str(frame["pids"].dtype) == "Int64" and frame.loc["web", "pids"] == 1
    assert shell.run("%container stats web").keys() == ["web"]
    shell.run("%container kill web busy")
    assert repr(shell.run("%container stats")) == "no running containers"


def test_objects_where_names_stand(shell: Any, tmp_path: Path) -> None:
    shell.run("%lab start")
    lab = shell.lab
    blue, red = lab.network("blue"), lab.network("red")
    web = lab.run(name="web", networks=blue)
    both = lab.run([Path("/bin/sleep"), "60"], name="both", networks=[red, "blue"], mounts={tmp_path: "/mnt"})
    assert list(web.addresses) == ["blue"] and list(both.addresses) == ["red", "blue"]
    assert web.exec(["id", "-u"], user=0).stdout == "0\n"
    assert wait_until(lambda: len(lab.stats(web)) > 0, patient(5))
    assert set(lab.stats(web)["container"]) == {"web"}
    (tmp_path / "names").write_text("A=1\n")
    assert web.exec(["sh", "-c", "echo $A"], env_file=tmp_path / "names").stdout == "1\n"


def test_a_network_that_was_removed_says_so(shell: Any) -> None:
    shell.run("%lab start")
    lab = shell.lab
    web, blue = lab.run(name="web"), lab.network("blue")
    blue.remove()
    for call in (blue.inspect, blue.remove, lambda: blue.connect(web), lambda: blue.disconnect(web)):
        with pytest.raises(StateError, match=r"^network 'blue' was removed$"):
            call()
    lab.network("blue")
    with pytest.raises(StateError, match=r"was removed: take lab.networks\['blue'\]"):
        blue.connect(web)


TWO = """
%network create blue --subnet {subnet}
%container run -d --name p --network blue
%container run -d --name q --network blue
"""
SAY = "\nprint(sorted(c.name + ' ' + str(c.address()) for c in __import__('ctlab').current().containers))"


def test_a_cell_with_a_network_and_its_containers_is_run_again(kernel: Any) -> None:
    def run(subnet: str, cell_id: str, more: str = SAY) -> Any:
        return kernel.run(TWO.format(subnet=subnet) + more, cell_id=cell_id)

    first = run("10.60.0.0/24", "one")
    assert first.error is None and "['p 10.60.0.2', 'q 10.60.0.3']" in first.stream()
    again = run("10.61.0.0/24", "one")
    assert again.error is None, again.error
    assert "['p 10.61.0.2', 'q 10.61.0.3']" in again.stream()
    assert "replaced network blue" in again.stream() and "and what hung on it: p, q" in again.stream()
    other = run("10.62.0.0/24", "another")
    assert other.error is not None and "p, q of other cells hang on it" in other.error["evalue"]
    kernel.good("%container run -d --name r --network blue")
    third = run("10.63.0.0/24", "one")
    assert third.error is not None and "r of other cells hangs on it" in third.error["evalue"]
    listed = kernel.good(SAY.strip())
    assert "['p 10.61.0.2', 'q 10.61.0.3', 'r 10.61.0.4']" in listed.stream()
