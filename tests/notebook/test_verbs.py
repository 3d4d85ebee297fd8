"""Every verb of every magic, on the kernel: what it does, what it returns, what it prints."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from kernel_help import need_controller, need_freezer, patient, seen, wait_until

from ctlab import Completed, Container, Lab, Network
from ctlab.errors import BadInput, NotFound, ProgramFailed, StateError, TimedOut
from ctlab.handles import Handles

pytestmark = pytest.mark.kernel


def test_a_lab_starts_by_itself_and_says_so(shell: Any, capsys: pytest.CaptureFixture[str]) -> None:
    network = shell.run("%network create blue --subnet 10.10.0.0/24 --gateway 10.10.0.254 --mtu 1400")
    assert isinstance(network, Network)
    assert (network.subnets, network.gateways, network.spec.mtu) == (("10.10.0.0/24",), ("10.10.0.254/24",), 1400)
    assert "lab 'lab' started\n" in capsys.readouterr().out
    shell.run("%network create red")
    assert "started" not in capsys.readouterr().out


def test_labs(shell: Any) -> None:
    one = shell.run("%lab start one --interval 50ms")
    assert isinstance(one, Lab) and one.interval_seconds == 0.05
    two = shell.run("%lab start two")
    assert shell.run("%lab ls -q") == ["one", "two"]
    listing = shell.run("%lab ls")
    assert [row["state"] for row in listing.rows()] == ["running", "current"]
    assert shell.run("%lab use ONE") is one and shell.lab is one
    shell.run("%container run -d --name a")
    shell.run("%container run -d --name b --lab two")
    assert one.containers.keys() == ["a"] and two.containers.keys() == ["b"]
    assert shell.run("%lab")["containers"] == 1 and shell.run("%lab status two")["name"] == "two"
    assert shell.run("%lab stop two") is two and two.gone and not one.gone
    assert shell.run("%lab start one --exists keep") is one
    shell.run("%lab stop")
    assert one.gone and shell.run("%lab ls -q") == []


def test_doctor_and_prune(shell: Any, capsys: pytest.CaptureFixture[str]) -> None:
    report = shell.run("%lab doctor")
    assert report.usable and report["platform"].ok
    assert shell.run("%lab prune") is None and "nothing to prune" in capsys.readouterr().out


def test_networks(shell: Any, capsys: pytest.CaptureFixture[str]) -> None:
    shell.run(
        "%network create blue --subnet 10.10.0.0/24\n%network create six --ipv6 --internal\n"
        "%container run -d --name web"
    )
    assert shell.run("%network ls -q") == ["blue", "six", "bridge"]
    assert shell.run("%network")["blue"].subnets == ("10.10.0.0/24",)
    web = shell.run("%network connect blue web --ip 10.10.0.9 --mac-address 02:00:00:00:00:09")
    assert str(web.address("blue")) == "10.10.0.9" and web.endpoints[1].mac == "02:00:00:00:00:09"
    facts = shell.run("%network inspect blue")
    assert facts["containers"] == {"web": ["10.10.0.9/24"]} and json.loads(repr(facts)) == facts
    assert set(shell.run("%network inspect blue six")) == {"blue", "six"}
    assert isinstance(shell.fails("%network rm six blue"), StateError)
    assert shell.run("%network ls -q") == ["blue", "six", "bridge"]  # neither went
    assert shell.run("%network disconnect blue web").addresses == {"bridge": "10.88.1.2"}
    assert shell.run("%network disconnect -f blue web") is web
    assert shell.run("%network rm blue nowhere -f").name == "blue"
    assert shell.run("%network prune") == ["six"]
    assert "removed six" in capsys.readouterr().out
    assert shell.run("%node").keys() == ["host"] and shell.run("%node ls -q") == ["host"]


def test_run(shell: Any) -> None:
    web = shell.run("%container run -d --name web --wait port:80 -- python3 -m http.server 80")
    assert isinstance(web, Container) and web.state == "running"
    idle = shell.run("%container run --name idle")  # no command: it idles, and the cell goes on
    assert isinstance(idle, Container) and idle.command == ()
    batch = shell.run("%container run -d --count 3 --name 'w{n:02}' -- sleep 60")
    assert isinstance(batch, Handles) and batch.keys() == ["w01", "w02", "w03"]
    done = shell.run("x = %container run -- sh -c 'echo $GREETING $PWD $(id -u):$(id -g)' ;\nx")
    assert isinstance(done, Completed) and done.stdout == "/ 0:0\n"
    done = shell.run(
        "%container run -e GREETING=hello -w /tmp -u 5:6 --hostname far -- "
        "sh -c 'echo $GREETING $PWD $(id -u):$(id -g) $(hostname)'"
    )
    assert done.stdout == "hello /tmp 5:6 far\n"
    assert "c1" not in shell.lab  # an unnamed one that was waited for goes with its end
    named = shell.run("%container run --name job -- sh -c 'echo done; exit 0'")
    assert named.container == "job" and shell.lab["job"].state == "exited"
    gone = shell.run("%container run --rm --name job2 -- echo kept")
    assert gone.stdout == "kept\n" and "job2" not in shell.lab
    before = {container.name for container in shell.lab.containers}
    for _ in range(10):
        assert shell.run("%container run --rm -- echo kept").stdout == "kept\n"
    assert {container.name for container in shell.lab.containers} == before


def test_what_run_is_given(shell: Any, tmp_path: Path) -> None:
    (tmp_path / "page").write_text("from outside")
    shell.ip.user_ns["folder"] = tmp_path
    done = shell.run("%container run -v {folder}:/data:ro -- sh -c 'cat /data/page; touch /data/new || echo no'")
    assert done.stdout == "from outsideno\n" and "Read-only" in done.stderr
    (tmp_path / "vars").write_text("# two\nA=1\nB=x y\n")
    assert shell.run("%container run --env-file {folder}/vars -- sh -c 'echo $A $B'").stdout == "1 x y\n"
    shell.run("%container run -d --name web --label team=red")
    assert shell.run("%container inspect web")["labels"] == {"team": "red"}


def test_limits_that_run_and_update_are_given(shell: Any) -> None:
    shell.run("%lab start")
    for controller in ("cpu", "memory", "pids"):
        need_controller(shell.lab, controller)
    web = shell.run("%container run -d --name web --cpus 0.5 --memory 64M --pids-limit 50")
    assert (web.limits.cpus, web.limits.memory_bytes, web.limits.pids_limit) == (0.5, 64 << 20, 50)
    shell.run("%container update web --memory 96M --cpus none")
    assert (web.limits.cpus, web.limits.memory_bytes) == (None, 96 << 20)


def test_expressions_reach_options_and_not_commands(shell: Any, capsys: pytest.CaptureFixture[str]) -> None:
    shell.run(
        "def start(which):\n"
        "    x = %container run -d --name w{which} -- sleep 9\n"
        "    return x\n"
        "for n in (1, 2): start(n)"
    )
    assert shell.lab.containers.keys() == ["w1", "w2"]
    shell.run("name = 'w1'")
    assert shell.run("%container exec {name} -- echo {name}").stdout == "{name}\n"
    assert "{name} is passed on as it is: without -x" in capsys.readouterr().out
    assert shell.run("%container exec -x {name} -- echo {name}").stdout == "w1\n"


def test_exec(shell: Any) -> None:
    shell.run("%container run -d --name web")
    done = shell.run("%container exec web -- sh -c 'echo out; echo err >&2'")
    assert (done.stdout, done.stderr, done.returncode) == ("out\n", "err\n", 0)
    assert shell.run("%container exec web ls -d /tmp").stdout == "/tmp\n"  # Docker's rule: no -- needed
    assert shell.run("%container exec -e A=b -w /usr -u 7 web -- sh -c 'echo $A $PWD $(id -u)'").stdout == "b /usr 7\n"
    process = shell.run("%container exec -d web -- sleep 60")
    assert process.poll() is None
    process.kill()
    assert process.wait(5) == 128 + signal.SIGKILL


def test_cell_magics(shell: Any, capsys: pytest.CaptureFixture[str]) -> None:
    shell.run("%container run -d --name web")
    done = shell.run("%%container exec web\ncat  # reads nothing: the script isn't its input\necho $0 $1; hostname")
    assert done.stdout == "/dev/fd/9\nweb\n"
    assert shell.run("%%container exec web -o result -- tr a-z A-Z\nhello\n").stdout == "HELLO\n"
    assert shell.ip.user_ns["result"].stdout == "HELLO\n"
    assert shell.run("%%container exec \\\n  -u 9 web\nid -u").stdout == "9\n"  # the first line goes on
    assert shell.run("%%container run -i -- wc -l\na\nb\n").stdout == "2\n"
    assert shell.run("%%container run\necho one\nread x || echo nothing to read\n").stdout == "one\nnothing to read\n"
    server = shell.run("%%container run -d --name slow -o slow\nsleep 0.1\necho later")
    assert shell.ip.user_ns["slow"] is server and server.wait(5) == 0 and server.logs() == "later\n"
    server.start()
    assert server.wait(5) == 0 and server.logs() == "later\nlater\n"  # the body is there again
    shell.run("%%container write web:/srv/www/index.html\n<h1>hello</h1>\n")
    assert shell.run("%container exec web -- cat /srv/www/index.html").stdout == "<h1>hello</h1>\n"
    shell.run("%%container exec -d -o p web\ntouch /tmp/made")
    assert shell.ip.user_ns["p"].wait(5) == 0
    assert shell.run("%container exec web -- ls /tmp").stdout == "made\n"


def test_statuses(shell: Any) -> None:
    shell.run("%container run -d --name web")
    error = shell.fails("%container exec web -- sh -c 'echo oh no >&2; exit 3'")
    assert isinstance(error, ProgramFailed)
    assert str(error) == "sh -c echo oh no >&2; exit 3 in web ended with status 3"  # what it wrote is there
    assert shell.run("%container exec --expect 0,3 web -- sh -c 'exit 3'").returncode == 3
    assert shell.run("%container exec --expect fail web -- false").returncode == 1
    assert shell.run("%container run --expect any -- sh -c 'kill -9 $$'").signal is None  # PID 1 is immune to its own
    error = shell.fails("%container exec --expect fail web -- true")
    assert str(error) == "true in web ended with status 0 (--expect fail)"
    shell.fails("%%container exec -o kept web\nexit 4")
    assert shell.ip.user_ns["kept"].returncode == 4


def test_a_program_that_is_killed_for_memory_says_so(shell: Any) -> None:
    shell.run("%lab start")
    need_controller(shell.lab, "memory")
    error = shell.fails("%container run -m 32M -- python3 -c \"x = b'x' * (200 << 20)\"")
    assert "was killed for memory (OOMKilled)" in str(error)


def test_listings(shell: Any) -> None:
    assert len(shell.run("%container ps")) == 0 and shell.run("%container ps -q") == []  # no lab, no container
    shell.run("%container run -d --name web\n%container run --name job -- true")
    assert shell.run("%container").keys() == ["web"]
    everything = shell.run("%container ps -a")
    assert everything.keys() == ["web", "job"] and everything["JOB"].state == "exited" and everything[0].name == "web"
    frame = everything.frame().set_index("name")
    assert (frame.loc["web", "state"], frame.loc["job", "returncode"]) == ("running", 0)
    assert frame.loc["web", "pid"] == everything["web"].pid and frame["pid"].isna().tolist() == [False, True]
    assert frame.loc["web", "ipv4"] == "10.88.0.2" and frame.loc["web", "ipv6"] is None
    assert str(frame["started_at"].dtype) == "datetime64[ns, UTC]"
    assert (frame.loc["job", "finished_at"] - frame.loc["job", "started_at"]).total_seconds() < 60
    assert everything[:0].frame().columns.tolist() == everything.frame().columns.tolist()
    assert shell.lab.networks.frame()["ipv4_subnet"].tolist() == ["10.88.0.0/24"]
    assert shell.run("%container ps -aq") == ["web", "job"]
    shell.run("%container run --expect any --name bad -- sh -c 'exit 3'\n%container kill web")
    rows = shell.run("%container ps -a").rows()
    assert [row["status"] for row in rows] == ["exited (SIGKILL)", "exited (0)", "failed (3)"]


def test_looking(shell: Any) -> None:
    shell.run("%container run --name log -- sh -c 'for n in 1 2 3; do echo line $n; done; sleep 0.1; echo oops >&2'")
    logs = shell.run("%container logs log")
    assert (logs, logs.stderr, logs.dropped_bytes) == ("line 1\nline 2\nline 3\noops\n", "oops\n", 0)
    assert shell.run("%container logs -n 2 log") == "line 3\noops\n"
    assert shell.run("%container logs --since 1h log") == logs
    stamped = shell.run("%container logs -t log").splitlines()
    assert [line.split("Z ")[1] for line in stamped] == ["line 1", "line 2", "line 3", "oops"]
    web = shell.run("%container run -d --name web -- sleep 60")
    facts = shell.run("%container inspect web")
    assert facts["name"] == "web" and facts["pid"] == web.pid and json.loads(repr(facts))["command"] == ["sleep", "60"]
    assert set(shell.run("%container inspect web log")) == {"web", "log"}
    card = facts._repr_html_()
    assert card.startswith("<table") and "container web" in card and "network bridge" in card and "{" not in card
    assert shell.run("%network inspect bridge")._repr_html_().count("<table") == 1
    processes = shell.run("%container top web")
    assert [row["command"] for row in processes.rows()] == ["sleep 60"] and processes["sleep"].facts["pid"] == 1
    shell.lab.containers  # noqa: B018 - asking for a listing changes nothing
    assert wait_until(lambda: shell.run("%container stats")["web"].pids == 1, patient(5))
    assert shell.run("%container stats web")["web"].pids == 1


def test_following_logs(shell: Any, capsys: pytest.CaptureFixture[str]) -> None:
    shell.run("%container run -d --name web -- sh -c 'echo a; sleep 0.2; echo b; sleep 0.2; echo c >&2'")
    time.sleep(0.1)
    capsys.readouterr()
    assert shell.run("%container logs -f web") is None
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("a\nb\n", "c\n")
    shell.run("%container logs -f --tail 1 web")
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "c\n")
    shell.run("%container run -d --name idle")
    shell.run("%container logs -f idle")
    goes_on = "(idle goes on, but nothing in it writes to its output any more; what exec writes, exec shows)\n"
    assert capsys.readouterr().out.endswith(goes_on)


def test_following_logs_interrupted_behind_their_end(
    shell: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a moment is given to an end that may come: what was written is shown and counted all the same."""
    from ctlab.notebook import magic_look

    def interrupted(_: object) -> bool:
        raise KeyboardInterrupt

    monkeypatch.setattr(magic_look, "_goes_on", interrupted)
    shell.run("%container run -d --name web -- sh -c 'printf %090000d 1; printf end; exec sleep 600 >&- 2>&-'")
    shell.run("%config CtlabMagics.output_bytes = 1000")
    capsys.readouterr()
    assert shell.run("%container logs -f web") is None
    out = capsys.readouterr().out
    assert "(no longer followed; it goes on)\n" in out and "more isn't shown here; %container logs web]" in out


def test_pause_and_unpause(shell: Any) -> None:
    web = shell.run("%container run -d --name web -- sleep 60")
    need_freezer(shell.lab)
    assert shell.run("%container pause web") is web and web.state == "paused"
    assert shell.run("%container unpause web").state == "running"


def test_life(shell: Any, capsys: pytest.CaptureFixture[str]) -> None:
    web = shell.run("%container run -d --name web -- sleep 60")
    assert shell.run("%container stop -t 1 web") is web and web.state == "exited"
    assert "killed at once" in capsys.readouterr().out
    address, mac = web.address(), web.endpoints[0].mac
    assert shell.run("%container start web").state == "running"
    assert shell.run("%container restart web").state == "running"
    assert (web.address(), web.endpoints[0].mac) == (address, mac)
    assert shell.run("%container rename web www") is web and web.name == "www"
    assert shell.run("%container kill www").wait() == 128 + signal.SIGKILL
    assert shell.run("%container wait www") == 137
    shell.run("%container run -d --name web -- sh -c 'trap \"exit 5\" USR1; echo set; while :; do sleep 0.05; done'")
    assert wait_until(lambda: "set" in shell.lab["web"].logs())
    shell.run("%container kill -s USR1 web")
    assert shell.run("%container wait --timeout 5 web") == 5
    assert shell.run("%container wait web www") == {"web": 5, "www": 137}
    shell.run("%container run -d --name third")
    error = shell.fails("%container wait --timeout 100ms third")
    assert isinstance(error, TimedOut) and str(error) == "container third still runs after 0.1 s"
    assert isinstance(shell.fails("%container stop third nobody"), NotFound)
    assert shell.lab["third"].state == "running"  # nothing was done to the first one either
    both = shell.run("%container rm web third")
    assert both.keys() == ["web", "third"] and "third was running: killed" in capsys.readouterr().out
    assert isinstance(shell.fails("%container rm web"), NotFound)
    assert len(shell.run("%container rm -f web")) == 0
    assert shell.run("%container prune") == ["www"] and len(shell.lab.containers) == 0


def test_copying(shell: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in.txt").write_text("hello")
    shell.run("%container run -d --name web")
    shell.run("%container cp in.txt web:/tmp/")
    assert shell.run("%container cp web:/tmp/in.txt ./out.txt") == Path("out.txt")
    assert (tmp_path / "out.txt").read_text() == "hello"
    shell.run("%container exec web -- mkdir -p /tmp/d/e\n%container cp web:/tmp/d .")
    assert (tmp_path / "d" / "e").is_dir()


def test_stats(shell: Any) -> None:
    shell.run("%container run -d --name web -- sh -c 'while :; do :; done'\n%container run -d --name idle")
    until = time.monotonic() + 5
    frame = shell.run("%stats")
    while frame["cpu_cores"].notna().sum() < 6 and time.monotonic() < until:
        time.sleep(0.1)
        frame = shell.run("%stats --last 5s")
    assert set(frame["container"].unique()) == {"web", "idle"}
    busy, idle = (frame[frame["container"] == name]["cpu_cores"].mean() for name in ("web", "idle"))
    assert busy > 0.03 and busy > 5 * idle  # how much it gets is the machine's affair
    chosen = shell.run("%stats web --metrics 'cpu_*,memory_bytes' --last 1s")
    assert set(chosen["container"]) == {"web"} and "memory_bytes" in chosen and "rx_bytes_total" not in chosen
    assert len(shell.run("%stats --since 300ms --metrics pids")) <= 8 + 2 * 4  # each look adds a row
    assert "network" in shell.run("%stats --by endpoint").columns
    table = shell.run("%stats --columns")
    assert "memory_bytes" in table.index or "memory_bytes" in table["name"].tolist()


def test_topology_in_a_terminal(shell: Any) -> None:
    shell.run("%container run -d --name web")
    one = shell.run("%topology")
    assert "web" in one.text and not one.frozen
    two = shell.run("%topology")
    assert one.frozen and not two.frozen  # one live map at a time
    shell.run("%topology --keep")
    assert not two.frozen
    assert shell.run("%topology --freeze").frozen
    shell.run("%lab stop")
    assert two.frozen and "web  running" in two.text  # as it was, not an empty world


def test_help_and_silence(shell: Any, capsys: pytest.CaptureFixture[str]) -> None:
    for noun in ("lab", "node", "network", "container", "stats", "topology"):
        assert f"%{noun}" in shell.run(f"%{noun} -h").splitlines()[0]
    assert "--memory SIZE" in shell.run("%container run --help")
    assert "sh: ls | head" not in shell.run("%container exec -h")
    shell.run("%container run -d --name web")
    assert shell.run("%container ps;") is None
    assert shell.run("x = %container ps -q ;\nx") == ["web"]
    shell.ip.run_cell("%container?")
    assert "Verbs:" in capsys.readouterr().out
    assert isinstance(shell.fails("%link create a b"), BadInput)


def test_the_environment_of_the_notebook_stays_outside(shell: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "x")
    names = {line.partition("=")[0] for line in shell.run("%container run -T -- env").stdout.splitlines()}
    assert names == {"TERM", "HOME", "PATH", "HOSTNAME"}
    assert shell.run("%container run -e SECRET -- sh -c 'echo $SECRET'").stdout == "x\n"
    assert os.environ["SECRET"] == "x"


def test_a_command_line_steers_no_terminal(shell: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """The table is a line a process, the values are what they are."""
    command = ["/bin/sh", "-c", "sleep 600; :", "\x1b]52;c;ZXZpbA==\x07", "\n99  forged\x9b2J"]
    shell.run("%container run -d --name web -- sleep 600")
    container = shell.lab["web"]
    container.exec(command, detach=True)
    wanted = ["sleep 600", "sleep 600", " ".join(command)]  # the shell forks, and a look may come in between
    capsys.readouterr()
    table, shown = seen(
        lambda: (shell.run("%container top web"), capsys.readouterr().out),
        lambda look: sorted(row["command"] for row in look[0].rows()) == sorted(wanted),
    )
    assert "]52;c;ZXZpbA==" in shown and shown.replace("\n", "").isprintable()
    page = shell.ip.display_formatter.format(table)[0]
    assert all(text.replace("\n", "").isprintable() for text in page.values())
    assert repr(table).count("\n") == len(table.rows())
