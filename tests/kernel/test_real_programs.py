"""Programs of a distribution in containers of the image `system`, as they are packaged, asked from another one."""

from __future__ import annotations

import glob
import shutil
from typing import Any

import pytest
from container_help import said
from kernel_help import need_ids, patient, wait_until

from ctlab.errors import ProgramNotFound

pytestmark = pytest.mark.kernel
SBIN = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def need(*programs: str) -> None:
    """Skip where this machine hasn't installed them (scripts/system-packages.sh names the packages)."""
    missing = [name for name in programs if not shutil.which(name, path=SBIN)]
    if missing:
        pytest.skip(f"not installed on this machine: {' '.join(missing)}")


@pytest.fixture
def client(lab: Any) -> Any:
    return lab.run(name="client")


def ask(client: Any, script: str) -> str:
    text: str = client.exec(["sh", "-ec", script]).check().stdout
    return text


def test_nginx_starts_as_packaged(lab: Any, client: Any) -> None:
    need("nginx", "curl")
    need_ids(lab)
    web = lab.run(["nginx", "-g", "daemon off;"], name="web")
    lab.wait_for("web", 80, timeout=patient(10))
    web.exec(["sh", "-c", "echo hello > /var/www/html/index.html"]).check()
    assert ask(client, "curl -sS http://web/") == "hello\n"
    # What was asked is noted once it has been answered.
    assert wait_until(lambda: '"GET / HTTP/1.1" 200' in ask(web, "cat /var/log/nginx/access.log"))
    ask(web, "ls -d /var/lib/nginx/body")
    assert "www-data" in ask(web, "ps -eo user:20,args | grep 'worker process'")


def test_haproxy_with_a_changed_configuration(lab: Any, client: Any) -> None:
    need("haproxy", "curl", "python3")
    need_ids(lab)
    lab.run(["sh", "-c", "cd /srv; echo behind > page; exec python3 -m http.server 8080"], name="behind")
    lab.wait_for("behind", 8080, timeout=patient(10))
    added = r"\nfrontend f\n bind :80\n default_backend b\nbackend b\n server one behind:8080\n"
    settings = "/etc/haproxy/haproxy.cfg"
    script = f"printf '{added}' >> {settings}; mkdir /run/haproxy; exec haproxy -db -f {settings}"
    lab.run(["sh", "-ec", script], name="front")
    lab.wait_for("front", 80, timeout=patient(10))
    assert ask(client, "curl -sS http://front/page") == "behind\n"


def test_postgresql(lab: Any, client: Any) -> None:
    """As the user that its package has made, in the folder that it has."""
    found = sorted(glob.glob("/usr/lib/postgresql/*/bin"))
    if not found:
        pytest.skip("not installed on this machine: postgresql")
    need_ids(lab)
    data = "/var/lib/postgresql/data"
    script = (
        f"PATH={found[-1]}:$PATH; initdb -D {data} --no-sync -A trust -E UTF8 --locale=C > /dev/null; "
        f"echo 'host all all all trust' >> {data}/pg_hba.conf; "
        f"exec postgres -D {data} -k /tmp -c listen_addresses=* -c fsync=off"
    )
    db = lab.run(["sh", "-ec", script], name="db", user="postgres")
    lab.wait_for("db", 5432, timeout=patient(20))
    ready = [f"{found[-1]}/pg_isready", "-q", "-h", "db"]  # it listens before it is, and refuses who comes meanwhile
    assert wait_until(lambda: client.exec(ready).returncode == 0, 20)
    query = "select sum(n) from generate_series(1, 100) n"
    assert ask(client, f"{found[-1]}/psql -h db -U postgres -Atc '{query}'") == "5050\n"
    # Killed before it has closed its end, the kernel would keep that, and with it the link, for a minute and more.
    assert wait_until(lambda: ask(db, "ss -Htan state connected exclude time-wait") == "")


def test_redis(lab: Any, client: Any) -> None:
    need("redis-server", "redis-cli")
    lab.run(["redis-server", "--bind", "0.0.0.0", "--protected-mode", "no", "--dir", "/var/lib/redis"], name="cache")
    lab.wait_for("cache", 6379, timeout=patient(10))
    assert (
        ask(client, "redis-cli -h cache set a 1; redis-cli -h cache incr a; redis-cli -h cache save") == "OK\n2\nOK\n"
    )


def test_memcached(lab: Any, client: Any) -> None:
    need("memcached", "curl")
    user = "root" if lab._client.facts["single_id"] else "nobody"
    lab.run(["memcached", "-u", user], name="cache")
    lab.wait_for("cache", 11211, timeout=patient(10))
    script = r"printf 'set a 0 0 5\r\nhello\r\nget a\r\nquit\r\n' | curl -s telnet://cache:11211"
    assert ask(client, script).split() == ["STORED", "VALUE", "a", "0", "5", "hello", "END"]


def test_iperf3(lab: Any, client: Any) -> None:
    need("iperf3")
    server = lab.run(["iperf3", "-s", "-1", "--forceflush"], name="server")
    said(server, "Server listening")
    assert "receiver" in ask(client, "iperf3 -c server -n 4M")
    assert server.wait(patient(10)) == 0


def test_a_compiler_and_an_environment_of_python(lab: Any, client: Any) -> None:
    need("gcc", "python3")
    source = '#include <stdio.h>\\nint main(void) { return puts("compiled") < 0; }\\n'
    assert ask(client, f"printf '{source}' > /tmp/a.c; gcc -o /tmp/a /tmp/a.c; /tmp/a") == "compiled\n"
    script = "python3 -m venv --without-pip /opt/env; /opt/env/bin/python -c 'import sys; print(sys.prefix)'"
    assert ask(client, script) == "/opt/env\n"


def test_nft_filters_with_its_capability(lab: Any, client: Any) -> None:
    need("nft", "ping")
    wall = lab.run(name="wall", cap_add=["NET_ADMIN"])
    ask(client, "ping -c 1 -W 5 wall")
    rules = "table inet f { chain i { type filter hook input priority 0; icmp type echo-request counter drop; }; }"
    ask(wall, f"nft '{rules}'")
    assert client.exec(["ping", "-c", "1", "-W", "0.3", "wall"]).returncode == 1
    assert "packets 1 bytes" in ask(wall, "nft list ruleset")
    assert "Operation not permitted" in client.exec(["nft", rules]).stderr


def test_tcpdump_sees_packets_with_its_capability(lab: Any, client: Any) -> None:
    need("tcpdump", "ping")
    listens = ["tcpdump", "-l", "-n", "-p", "-Z", "root", "-c", "1", "-i", "eth0", "icmp"]
    container = lab.run(listens, name="listens", cap_add=["NET_RAW"])
    assert wait_for_error(container, "listening on eth0")
    ask(client, "ping -c 1 -W 5 listens")
    assert container.wait(patient(10)) == 0 and "ICMP echo request" in container.logs().stdout
    done = client.exec(listens)
    assert done.returncode != 0 and "permission" in done.stderr


def wait_for_error(container: Any, text: str) -> bool:
    """Wait until it has said something on its standard error."""
    return wait_until(lambda: text in container.logs().stderr, 10)


def test_nmap_makes_packets_with_its_capabilities(lab: Any, client: Any) -> None:
    need("nmap", "python3")
    lab.run(["python3", "-m", "http.server", "8080"], name="open")
    lab.wait_for("open", 8080, timeout=patient(10))
    scans = lab.run(name="scans", cap_add=["NET_RAW", "NET_ADMIN"])
    text = ask(scans, "nmap -n -sS -p 8079,8080 open")
    assert "8080/tcp open" in text and "8079/tcp closed" in text
    assert "QUITTING!" in client.exec(["nmap", "-n", "-sS", "-p", "8080", "open"]).stderr


def test_mtr_has_its_capability_named(lab: Any, client: Any) -> None:
    """A file that has capabilities isn't executed where the container's bound lacks them; the kernel says EPERM."""
    need("mtr", "mtr-packet", "getcap")
    if "cap_net_raw" not in ask(client, "getcap $(command -v mtr-packet)"):
        pytest.skip("this machine's mtr-packet has no capabilities")
    why = "EPERM .*its file has capabilities that the container lacks: --cap-add NET_RAW$"
    for options in ({}, {"init": True}, {"tty": True}, {"user": "daemon"}):
        if "user" in options and lab._client.facts["single_id"]:
            continue
        with pytest.raises(ProgramNotFound, match=why):
            lab.run(["mtr-packet"], name="traces", **options)
    with pytest.raises(ProgramNotFound, match=why):
        client.exec(["mtr-packet"])
    with pytest.raises(ProgramNotFound, match=why):
        client.exec(["./mtr-packet"], workdir="/usr/bin")
    traces = lab.run(name="traces", cap_add=["NET_RAW"])
    assert client.addresses["bridge"].partition("/")[0] in ask(traces, "mtr -n -r -c 1 -i 0.1 -G 0.2 client")
