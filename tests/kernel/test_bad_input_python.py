"""Bad input gets one clear line and changes nothing: the Python API, on a running lab."""

from __future__ import annotations

import inspect
import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kernel_help import patient

from ctlab.errors import CtlabError

pytestmark = pytest.mark.kernel
GOLDEN = Path(__file__).parents[1] / "golden" / "bad_input_python.txt"
LONG = "x" * 200

# Each is tried on a lab with networks blue (10.70.0.0/24) and tiny (10.71.0.0/30, full), a container web (10.70.0.2) on
# blue that runs, and one named ended that has ended.
CASES: dict[str, Callable[[Any], Any]] = {
    "lab.run(['true'], nam='x')": lambda lab: lab.run(["true"], nam="x"),
    "lab.run(['true'], publish='80:80')": lambda lab: lab.run(["true"], publish="80:80"),
    "lab.run(['true'], privileged=True)": lambda lab: lab.run(["true"], privileged=True),
    "lab.run('ls | head')": lambda lab: lab.run("ls | head"),
    "lab.run([1, 2])": lambda lab: lab.run([1, 2]),
    "lab.run([])": lambda lab: lab.run([]),
    "lab.run('sleep \"9')": lambda lab: lab.run('sleep "9'),
    "lab.run(['nosuchprogram'], name='c')": lambda lab: lab.run(["nosuchprogram"], name="c"),
    "lab.run(['/etc/passwd'], name='c')": lambda lab: lab.run(["/etc/passwd"], name="c"),
    "lab.run(['/no/where'], name='c')": lambda lab: lab.run(["/no/where"], name="c"),
    "lab.run(['true'], name='c', workdir='/no/where')": lambda lab: lab.run(["true"], name="c", workdir="/no/where"),
    "lab.run(['true'], workdir='srv')": lambda lab: lab.run(["true"], workdir="srv"),
    "lab.run(['true'], name='web')": lambda lab: lab.run(["true"], name="web"),
    "lab.run(['true'], name='WEB')": lambda lab: lab.run(["true"], name="WEB"),
    "lab.run(['true'], name='')": lambda lab: lab.run(["true"], name=""),
    "lab.run(['true'], name='-x')": lambda lab: lab.run(["true"], name="-x"),
    "lab.run(['true'], name='a b')": lambda lab: lab.run(["true"], name="a b"),
    "lab.run(['true'], name='wéb')": lambda lab: lab.run(["true"], name="wéb"),
    "lab.run(['true'], name='x' * 200)": lambda lab: lab.run(["true"], name=LONG),
    "lab.run(['true'], name=5)": lambda lab: lab.run(["true"], name=5),
    "lab.run(['true'], image='alpin')": lambda lab: lab.run(["true"], image="alpin"),
    "lab.run(['true'], image='docker.io/alpine')": lambda lab: lab.run(["true"], image="docker.io/alpine"),
    "lab.run(['true'], image='/no/where')": lambda lab: lab.run(["true"], image="/no/where"),
    "lab.run(['true'], networks='blu')": lambda lab: lab.run(["true"], networks="blu"),
    "lab.run(['true'], networks=['blue', 'blue'])": lambda lab: lab.run(["true"], networks=["blue", "blue"]),
    "lab.run(['true'], networks=['host', 'blue'])": lambda lab: lab.run(["true"], networks=["host", "blue"]),
    "lab.run(['true'], networks='container:ended')": lambda lab: lab.run(
        ["true"], name="c", networks="container:ended"
    ),
    "lab.run(['true'], networks='tiny')": lambda lab: lab.run(["true"], networks="tiny"),
    "lab.run(['true'], networks=['blue', 'tiny'])": lambda lab: lab.run(["true"], networks=["blue", "tiny"]),
    "lab.run(['true'], networks='blue', ip='10.70.0.2')": lambda lab: lab.run(
        ["true"], networks="blue", ip="10.70.0.2"
    ),
    "lab.run(['true'], networks='blue', ip='10.70.0.1')": lambda lab: lab.run(
        ["true"], networks="blue", ip="10.70.0.1"
    ),
    "lab.run(['true'], networks='blue', ip='10.70.0.0')": lambda lab: lab.run(
        ["true"], networks="blue", ip="10.70.0.0"
    ),
    "lab.run(['true'], networks='blue', ip='10.9.0.1')": lambda lab: lab.run(["true"], networks="blue", ip="10.9.0.1"),
    "lab.run(['true'], networks='blue', ip='10.70.0.300')": lambda lab: lab.run(
        ["true"], networks="blue", ip="10.70.0.300"
    ),
    "lab.run(['true'], networks='blue', ip6='fd00::2')": lambda lab: lab.run(["true"], networks="blue", ip6="fd00::2"),
    "lab.run(['true'], networks='blue', mac_address='zz')": lambda lab: lab.run(
        ["true"], networks="blue", mac_address="zz"
    ),
    "lab.run(['true'], memory='64')": lambda lab: lab.run(["true"], memory="64"),
    "lab.run(['true'], memory='64Q')": lambda lab: lab.run(["true"], memory="64Q"),
    "lab.run(['true'], cpus='many')": lambda lab: lab.run(["true"], cpus="many"),
    "lab.run(['true'], cpus=-1.5)": lambda lab: lab.run(["true"], cpus=-1.5),
    "lab.run(['true'], cpu_shares=1)": lambda lab: lab.run(["true"], cpu_shares=1),
    "lab.run(['true'], pids_limit='x')": lambda lab: lab.run(["true"], pids_limit="x"),
    "lab.run(['true'], pids_limit=2.9)": lambda lab: lab.run(["true"], pids_limit=2.9),
    "lab.run(['true'], pids_limit=True)": lambda lab: lab.run(["true"], pids_limit=True),
    "lab.run(['true'], pids_limit=float('inf'))": lambda lab: lab.run(["true"], pids_limit=float("inf")),
    "lab.run(['true'], cpuset_cpus='9-1')": lambda lab: lab.run(["true"], cpuset_cpus="9-1"),
    "lab.run(['true'], mounts='/no/where:/x')": lambda lab: lab.run(["true"], mounts="/no/where:/x"),
    "lab.run(['true'], mounts='/etc')": lambda lab: lab.run(["true"], mounts="/etc"),
    "lab.run(['true'], mounts='/etc:x')": lambda lab: lab.run(["true"], mounts="/etc:x"),
    "lab.run(['true'], mounts='/etc:/proc/x')": lambda lab: lab.run(["true"], mounts="/etc:/proc/x"),
    "lab.run(['true'], mounts='/etc:/x:rx')": lambda lab: lab.run(["true"], mounts="/etc:/x:rx"),
    "lab.run(['true'], env='=x')": lambda lab: lab.run(["true"], env="=x"),
    "lab.run(['true'], env='NOT_SET_ANYWHERE')": lambda lab: lab.run(["true"], env="NOT_SET_ANYWHERE"),
    "lab.run(['true'], hostname='-x')": lambda lab: lab.run(["true"], hostname="-x"),
    "lab.run(['true'], stop_signal='SIGNOPE')": lambda lab: lab.run(["true"], stop_signal="SIGNOPE"),
    "lab.run(['true'], stop_timeout='soon')": lambda lab: lab.run(["true"], stop_timeout="soon"),
    "lab.run(['true'], cap_add='NET_ADMINN')": lambda lab: lab.run(["true"], cap_add="NET_ADMINN"),
    "lab.run(['true'], cap_add='SYS_ADMIN')": lambda lab: lab.run(["true"], cap_add="SYS_ADMIN"),
    "lab.run(['true'], cap_add='ALL')": lambda lab: lab.run(["true"], cap_add="ALL"),
    "lab.run(['true'], exists='maybe')": lambda lab: lab.run(["true"], exists="maybe"),
    "lab.run(['true'], node='n2')": lambda lab: lab.run(["true"], node="n2"),
    "lab.run(['true'], count=0)": lambda lab: lab.run(["true"], count=0),
    "lab.run(['true'], count=3, name='w')": lambda lab: lab.run(["true"], count=3, name="w"),
    "lab.run(['nosuchprogram'], count=3)": lambda lab: lab.run(["nosuchprogram"], count=3),
    "lab.network('blue')": lambda lab: lab.network("blue"),
    "lab.network('host')": lambda lab: lab.network("host"),
    "lab.network('n', subnet='10.70.0.128/25')": lambda lab: lab.network("n", subnet="10.70.0.128/25"),
    "lab.network('n', subnet='10.0.0.0/33')": lambda lab: lab.network("n", subnet="10.0.0.0/33"),
    "lab.network('n', subnet='10.72.0.1/24')": lambda lab: lab.network("n", subnet="10.72.0.1/24"),
    "lab.network('n', subnet='ten')": lambda lab: lab.network("n", subnet="ten"),
    "lab.network('n', subnet='127.0.0.0/8')": lambda lab: lab.network("n", subnet="127.0.0.0/8"),
    "lab.network('n', subnet='10.72.0.0/24', gateway='10.73.0.1')": lambda lab: lab.network(
        "n", subnet="10.72.0.0/24", gateway="10.73.0.1"
    ),
    "lab.network('n', driver='overlay')": lambda lab: lab.network("n", driver="overlay"),
    "lab.network('n', driver='bridg')": lambda lab: lab.network("n", driver="bridg"),
    "lab.network('n', mtu=10)": lambda lab: lab.network("n", mtu=10),
    "lab.network('x' * 200)": lambda lab: lab.network(LONG),
    "lab['we']": lambda lab: lab["we"],
    "lab['nothing']": lambda lab: lab["nothing"],
    "lab.networks['blue'].remove()": lambda lab: lab.networks["blue"].remove(),
    "lab.networks['blue'].connect('web')": lambda lab: lab.networks["blue"].connect("web"),
    "lab.networks['tiny'].connect('web')": lambda lab: lab.networks["tiny"].connect("web"),
    "lab.networks['tiny'].disconnect('web')": lambda lab: lab.networks["tiny"].disconnect("web"),
    "lab['ended'].exec(['true'])": lambda lab: lab["ended"].exec(["true"]),
    "lab['ended'].pause()": lambda lab: lab["ended"].pause(),
    "lab['ended'].unpause()": lambda lab: lab["ended"].unpause(),
    "lab['ended'].kill()": lambda lab: lab["ended"].kill(),
    "lab['web'].exec(['nosuchprogram'])": lambda lab: lab["web"].exec(["nosuchprogram"]),
    "lab['web'].exec(['true'], workdir='/no/where')": lambda lab: lab["web"].exec(["true"], workdir="/no/where"),
    "lab['web'].kill('SIGNOPE')": lambda lab: lab["web"].kill("SIGNOPE"),
    "lab['web'].rename('ended')": lambda lab: lab["web"].rename("ended"),
    "lab['web'].rename('a/b')": lambda lab: lab["web"].rename("a/b"),
    "lab['web'].update(memroy='1g')": lambda lab: lab["web"].update(memroy="1g"),
    "lab['web'].address('tiny')": lambda lab: lab["web"].address("tiny"),
    "lab['web'].copy_out('/no/where', '/tmp')": lambda lab: lab["web"].copy_out("/no/where", "/tmp"),
    "lab['web'].write('x', 'y')": lambda lab: lab["web"].write("x", "y"),
    "lab.run(['true'], name='host')": lambda lab: lab.run(["true"], name="host"),
    "lab.run(['true'], count=2**31)": lambda lab: lab.run(["true"], count=2**31),
    "lab.run(['true'], count=10**30)": lambda lab: lab.run(["true"], count=10**30),
    "lab.run(['true'], user=True)": lambda lab: lab.run(["true"], user=True),
    "lab.run(['true'], mounts=[251 of them])": lambda lab: lab.run(
        ["true"], mounts=[f"/etc/hosts:/mnt/{n}:ro" for n in range(251)]
    ),
    "lab.run(['echo', 'x' * 200000], name='c')": lambda lab: lab.run(["echo", "x" * 200_000], name="c"),
    "lab.run(['true'], name='c', env={'A': 'x' * 200000})": lambda lab: lab.run(
        ["true"], name="c", env={"A": "x" * 200_000}
    ),
    "lab.network('n', mtu=1500.5)": lambda lab: lab.network("n", mtu=1500.5),
    "lab.network('n', ipv6=True, mtu=1000)": lambda lab: lab.network("n", ipv6=True, mtu=1000),
    "lab.network('n', subnt='10.72.0.0/24')": lambda lab: lab.network("n", subnt="10.72.0.0/24"),
    "lab['a\\nb\\x1b[31m']": lambda lab: lab["a\nb\x1b[31m"],
    "lab['x' * 1000000]": lambda lab: lab["x" * 1_000_000],
    "lab['w*']": lambda lab: lab["w*"],
    "lab['web'].exec(['true'], user=True)": lambda lab: lab["web"].exec(["true"], user=True),
    "lab['web'].exec(None)": lambda lab: lab["web"].exec(None),
    "lab['web'].exec(['echo', 'x' * 200000])": lambda lab: lab["web"].exec(["echo", "x" * 200_000]),
    "lab['web'].exec(['true'], usr='x')": lambda lab: lab["web"].exec(["true"], usr="x"),
    "lab['web'].logs(tial=1)": lambda lab: lab["web"].logs(tial=1),
    "lab.stats(frobs=1)": lambda lab: lab.stats(frobs=1),
    "ctlab.Lab(foo=1)": lambda lab: type(lab)(foo=1),
}


@pytest.fixture
def world(lab: Any) -> Any:
    """The lab that the cases are tried on."""
    lab.network("blue", subnet="10.70.0.0/24")
    lab.network("tiny", subnet="10.71.0.0/30")
    lab.run(name="web", networks="blue")
    lab.run(name="full", networks="tiny")
    lab.run(["true"], name="ended", networks="none").wait(patient(5))
    return lab


def state(lab: Any) -> str:
    """All that a failed call might have changed, inside and in the handles."""
    found = {
        "containers": {c.name: [c.state, c.id, c.addresses, str(c.limits)] for c in lab.containers},
        "networks": {n.name: [*n.subnets, *[c.name for c in n.containers]] for n in lab.networks},
        "links": sorted(link["name"] for link in lab.nodes["host"].links()),
        "taken": [sorted(map(str, pool.taken)) for n in lab.networks for pool in n.pools if hasattr(pool, "taken")],
    }
    return json.dumps(found, sort_keys=True, default=str)


def golden() -> dict[str, str]:
    """Input → ``Kind: message`` from the golden file: two lines and an empty one each."""
    blocks = GOLDEN.read_text(encoding="utf-8").strip().split("\n\n")
    return dict(block.split("\n", 1) for block in blocks)


def test_every_case_says_exactly_this_and_changes_nothing(world: Any) -> None:
    from kernel_help import wait_until

    before = state(world)
    said = {}
    for text, action in CASES.items():
        try:
            result = action(world)
        except CtlabError as error:
            said[text] = f"{type(error).__name__}: {error}"
            assert "\n" not in str(error), text
        else:
            pytest.fail(f"{text} gave {result!r}")
        assert wait_until(lambda: state(world) == before), f"{text} changed something:\n{before}\n{state(world)}"
    if os.environ.get("UPDATE_GOLDEN"):
        GOLDEN.write_text("\n".join(f"{text}\n{line}\n" for text, line in said.items()), encoding="utf-8")
    assert said == golden()


HOSTILE = [
    b"x", math.nan, math.inf, -2, 10**30, True, 2.5, object(), [1.5], [None], {"a": None}, "\0", "a\nb", "\ud800",
    "x" * 100_000, "", 1j, ("a",),
]  # fmt: skip
# What else a call needs, and calls that take anything or end what the others are tried on.
NEEDED = {
    "exec": {"command": ["true"]}, "script": {"text": "true"}, "write": {"path": "/tmp/x", "content": "a"},
    "copy_in": {"source": "/etc/hosts", "destination": "/tmp/h"}, "connect": {"container": "web"},
    "copy_out": {"source": "/etc/hosts"}, "disconnect": {"container": "web"}, "network": {"name": "n1"},
    "wait_for": {"container": "web", "port": 80, "timeout": 0.01}, "run": {"exists": "replace"},
}  # fmt: skip
NOT_TRIED = {"say", "on_change", "details", "stop", "remove", "restart", "follow", "stream_until_end", "close_views"}
FREE = {"sink", "content", "stdin"}  # bytes are right there, and a sink is the caller's own


def test_no_value_of_any_parameter_is_a_raw_error(world: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # where a copy goes whose destination is one of these values
    refused = tried = 0
    for handle in (world["web"], world.networks["blue"], world):
        for name, method in inspect.getmembers(type(handle), inspect.isfunction):
            if name.startswith("_") or name in NOT_TRIED:
                continue
            parameters = inspect.signature(method).parameters.values()
            for parameter in parameters:
                if parameter.name in ("self", *FREE) or parameter.kind in (
                    parameter.VAR_KEYWORD,
                    parameter.VAR_POSITIONAL,
                ):
                    continue
                for value in HOSTILE:
                    keywords: dict[str, Any] = {**NEEDED.get(name, {}), parameter.name: value}
                    if name == "copy_out" and parameter.name == "source":
                        keywords["destination"] = tmp_path / "out"
                    tried += 1
                    try:
                        getattr(handle, name)(**keywords)
                    except CtlabError as error:
                        refused += 1
                        assert "\n" not in str(error) and len(str(error)) < 1500, (
                            f"{name}({parameter.name}={value!r:.40})"
                        )
                    except TimeoutError:
                        pass
                    except Exception as error:
                        pytest.fail(f"{name}({parameter.name}={value!r:.40}): {type(error).__name__}: {error}")
    assert tried > 1000 and refused > 0.8 * tried


def test_the_lab_goes_on(world: Any) -> None:
    for action in CASES.values():
        with pytest.raises(CtlabError):
            action(world)
    assert world["web"].exec(["true"]).returncode == 0
    assert world.run(["true"]).wait(patient(5)) == 0
