"""`--explain`: the commands, and nothing happens; also where no lab runs and where none can."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ctlab import labs
from ctlab.errors import AddressError, BadInput, NameInUse, NotFound, StateError
from ctlab.plan.render import Commands

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.kernel


def test_without_a_lab_none_is_started(shell: Any, capsys: pytest.CaptureFixture[str]) -> None:
    commands = shell.run(
        "%container run --explain --name web --memory 64M -v /tmp:/data:ro -- python3 -m http.server 80"
    )
    assert isinstance(commands, Commands)
    for line in ("ip link add name br-bridge", "master br-bridge type veth", "10.88.0.2/24", "pivot_root . .",
                 "/tmp data", "-- python3 -m http.server 80"):  # fmt: skip
        assert line in commands, line
    assert "ip link add name br-blue" in shell.run("%network create --explain blue --subnet 10.10.0.0/24")
    assert labs.running() == [] and capsys.readouterr().out.count("started") == 0


def test_what_would_be_made_is_what_is_made(shell: Any) -> None:
    shell.run("%network create blue --subnet 10.10.0.0/24 --ipv6\n%container run -d --name other --network blue")
    cell = "%container run -d --name web --network blue --hostname front -e A=b"
    before = shell.run(f"{cell} --explain")
    assert shell.lab.containers.keys() == ["other"]
    web = shell.run(cell)
    after = web.explain()

    def plain(commands: Commands) -> list[str]:
        import re

        return [re.sub(r"\bv\d+\.", "v1.", line) for line in commands.lines]  # a start has interfaces of its own

    assert plain(before) == plain(after)
    # again in a later cell: replaced, with the same address
    assert plain(shell.run(f"{cell} --explain")) == plain(after)


def test_network_verbs(shell: Any) -> None:
    shell.run("%network create blue\n%container run -d --name web\n%network create red")
    lab = shell.lab
    links = {link["name"] for link in lab.nodes["host"].links()}
    owners = {n.name: [dict(pool.owners) for pool in n.pools] for n in lab.networks}
    assert 'netns "$pid"' in shell.run("%network connect red web --ip 10.88.2.9 --explain")
    assert "ip link delete" in shell.run("%network disconnect bridge web --explain")
    assert "ip link delete dev br-red" in shell.run("%network rm red blue --explain")
    assert "br-blue" in shell.run("%network prune --explain")
    assert {link["name"] for link in lab.nodes["host"].links()} == links
    assert {n.name: [dict(pool.owners) for pool in n.pools] for n in lab.networks} == owners
    assert [e.network for e in lab["web"].endpoints] == ["bridge"]


def test_shared_and_no_networks(shell: Any) -> None:
    shell.run("%container run -d --name web")
    assert "first process of web" in shell.run("%container run --explain --network container:web")
    alone = shell.run("%container run --explain --network none")
    assert any("--net" in line for line in alone.lines if line.startswith("unshare")) and "type veth" not in alone
    host = shell.run("%container run --explain --network host")
    assert not any("--net" in line for line in host.lines if line.startswith("unshare"))
    several = shell.run("%container run -d --explain --count 3 --name 'w{n}'")
    assert all(f"hostname w{n}" in several for n in (1, 2, 3))


def test_what_would_fail_fails(shell: Any) -> None:
    shell.run("%network create blue --subnet 10.10.0.0/24\n%container run -d --name web --network blue")
    assert isinstance(shell.fails("%network create red --subnet 10.10.0.0/25 --explain"), AddressError)
    assert isinstance(shell.fails("%container run --network blue --ip 10.10.0.2 --explain"), AddressError)
    assert isinstance(shell.fails("%container run --network nowhere --explain"), NotFound)
    assert isinstance(shell.fails("%container run --explain nothing"), NotFound)
    assert isinstance(shell.fails("%network rm blue --explain"), StateError)
    assert isinstance(shell.fails("%network connect blue web --explain"), StateError)
    assert isinstance(
        shell.fails("%container run -d --name x\n%container run --name x --explain"), NameInUse
    )  # as in one cell for real


def test_where_no_lab_can_start() -> None:
    """No user namespaces at all for this process: loading, help and --explain work; what needs the kernel says why."""
    code = (
        "from IPython.core.interactiveshell import InteractiveShell\n"
        "shell = InteractiveShell.instance(colors='nocolor')\n"
        "shell.run_cell('%load_ext ctlab')\n"
        "print(len(shell.run_line_magic('container', 'run --explain -- true').lines) > 50)\n"
        "print(shell.run_line_magic('container', '-h').splitlines()[0])\n"
        "shell.run_cell('%container run -- true')\n"
    )
    # In a user namespace of its own in which no further one may be made.
    script = 'echo 0 > /proc/sys/user/max_user_namespaces && exec "$@"'
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", "sh", "-c", script, "sh", sys.executable, "-c", code],
        capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT), "IPYTHONDIR": "/nonexistent"},
        timeout=60, check=False,
    )  # fmt: skip
    lines = done.stdout.splitlines()
    assert "True" in lines and "%container VERB [OPTIONS] …" in lines, done.stderr
    said = next(line for line in lines if line.startswith("Unsupported: "))
    assert "user" in said and "ENOSPC" in said


def head(commands: Commands) -> str:
    """What the comments before the first command say that every container has, in one line."""
    lines = commands.lines
    first = next(n for n, line in enumerate(lines) if not line.startswith("#"))
    return " ".join(line.removeprefix("# ") for line in lines[:first]).partition(" Where to type this")[0]


def test_the_head_names_what_no_command_gives(shell: Any, tmp_path: Path) -> None:
    """The filter, whichever it is, the keyring, and the limit of processes as this lab has it."""
    profile = tmp_path / "a profile.json"
    profile.write_text('{"defaultAction": "SCMP_ACT_ALLOW"}')
    filters = {
        "": "the default filter of system calls.",
        "--cap-add SYS_NICE": "the default filter of system calls.",
        "--security-opt seccomp=unconfined": "no filter of system calls (seccomp=unconfined).",
        f"--security-opt 'seccomp={profile}'": f"the filter of system calls of {profile}.",
    }
    for options, named in filters.items():
        said = head(shell.run(f"%container run --explain --network none {options} -- true"))
        assert said.startswith("Every container of a lab has besides: ") and said.endswith(f", and {named}"), said
        assert "oom_score_adj +500, as many open files" in said and "an empty session keyring" in said
    web = shell.run("%container run -d --name web")
    for by, limit in {"cgroup": "pids.max 2048 ", "rlimit": "ulimit -u 2048 ", "none": "oom_score_adj"}.items():
        web.lab._client.facts["pids_by"] = by
        assert head(web.explain()).startswith(f"Every container of a lab has besides: {limit}")


def test_a_filter_that_is_too_large_is_no_plan(shell: Any, tmp_path: Path) -> None:
    args = [[{"index": 1, "value": value, "op": "SCMP_CMP_EQ"}] for value in range(5000)]
    rules = [{"names": ["ioctl"], "action": "SCMP_ACT_ERRNO", "args": each} for each in args]
    (tmp_path / "large.json").write_text(json.dumps({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": rules}))
    error = shell.fails(f"%container run --explain --security-opt seccomp={tmp_path}/large.json -- true")
    assert isinstance(error, BadInput) and "the kernel takes 4096" in str(error)
