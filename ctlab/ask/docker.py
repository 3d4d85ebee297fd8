"""Docker's options and verbs that ctlab doesn't have, each with the reason or the way out.

People's fingers know them, so "unknown option" would be the wrong answer.
"""

from __future__ import annotations

from .model import Absent


def docker(reason: str, *options: str) -> tuple[Absent, ...]:
    """Options that are missing for one reason; `a/attach` has a short form."""
    found = []
    for option in options:
        short, slash, name = option.rpartition("/")
        title = f"-{short}/--{name}" if slash else f"--{name}"
        found.append(Absent(name, f"docker's {title} isn't in ctlab: {reason}", short))
    return tuple(found)


PORTS = "comes with published ports: they aren't in this version"
_PORTS_WAY = f"{PORTS}; containers reach each other by name, and %container exec reaches one from here"

PUBLISH = (
    Absent("publish", f"-p/--publish {_PORTS_WAY}", "p"),
    Absent("publish-all", f"-P/--publish-all {_PORTS_WAY}", "P"),
    Absent("expose", f"--expose {_PORTS_WAY}"),
)

ATTACHING = docker("a cell shows the output of a foreground program and nobody types into it", "detach-keys")
PRIVILEGED = docker(
    "root of that container would be root of the whole lab; --cap-add NAME gives one capability", "privileged"
)

LIMITS = (
    *docker(
        "--cpus is the one CPU quota", "cpu-period", "cpu-quota", "cpu-count", "cpu-percent", "cpu-rt-period",
        "cpu-rt-runtime",
    ),
    *docker("--cpuset-cpus chooses CPUs; memory nodes can't be chosen", "cpuset-mems"),
    *docker(
        "-m/--memory is the one memory limit", "memory-swap", "memory-swappiness", "memory-reservation",
        "kernel-memory", "oom-kill-disable", "oom-score-adj",
    ),
    *docker(
        "there are no limits on block I/O", "blkio-weight", "blkio-weight-device", "device-read-bps",
        "device-read-iops", "device-write-bps", "device-write-iops", "io-maxbandwidth", "io-maxiops",
    ),
    *docker("a container that ended stays so, to be looked at; %container start runs it again", "restart"),
)  # fmt: skip

RUN = (
    *PUBLISH,
    *PRIVILEGED,
    *LIMITS,
    *ATTACHING,
    *docker("without -d the output is shown and an interrupt goes to the program", "a/attach", "sig-proxy"),
    *docker("images aren't pulled in this version, and run on this machine's own architecture", "platform", "pull"),
    *docker("images aren't signed in this version", "disable-content-trust"),
    *docker("there is one runtime, this machine's kernel", "runtime", "isolation"),
    *docker("no device of this machine is let into a lab", "device", "device-cgroup-rule", "gpus"),
    *docker(
        "the lab's own resolver answers, by container name", "dns", "dns-option", "dns-opt", "dns-search", "add-host",
        "network-alias", "net-alias", "link", "domainname",
    ),
    *docker("link-local addresses are the kernel's own choice", "link-local-ip"),
    *docker(
        "each container has namespaces of its own in the lab's user namespace", "pid", "ipc", "uts", "userns",
        "cgroupns", "cgroup-parent",
    ),
    *docker("the lab keeps the output: %container logs NAME", "log-driver", "log-opt"),
    *docker(
        "--wait port:80 waits until the container answers", "health-cmd", "health-interval", "health-retries",
        "health-start-interval", "health-start-period", "health-timeout", "no-healthcheck",
    ),
    *docker("files come in by -v SRC:DST[:ro]", "volumes-from", "volume-driver", "tmpfs"),
    *docker("the sizes of a container's file systems aren't set one by one", "shm-size", "storage-opt"),
    *docker("no socket of an engine is let into a container", "use-api-socket"),
    *docker("-u USER[:GROUP] sets user and group", "group-add"),
    *docker("a container's kernel settings aren't options in this version", "sysctl"),
    *docker("open files and processes are what you may have yourself, as in podman", "ulimit"),
    *docker("run -d returns the handle; its .id is the id", "cidfile"),
    *docker("--label NAME=VALUE is there", "annotation", "label-file"),
)  # fmt: skip

EXEC = (*PRIVILEGED, *ATTACHING)

LISTING = (
    *docker("the table comes back as Handles: index it, or ask .frame()", "format", "f/filter", "no-trunc"),
    *docker("ps -a lists all, oldest first: index the result with [-1]", "l/latest", "n/last"),
    *docker("what containers use is in %stats", "s/size"),
)
INSPECTING = docker("the result is a dict: index it", "f/format", "s/size", "type")
LOGS = docker("logs has -f/--follow, -n/--tail and --since", "until", "details")
STOPPING = docker("run --stop-signal says what stop sends, kill -s sends another", "s/signal")
REMOVING = docker("what a container wrote goes with it, always", "v/volumes", "l/link")
STARTING = docker("its output is in %container logs", "a/attach", "detach-keys", "i/interactive")
PRUNING = docker("prune takes all that ended; name single ones to rm", "filter")
COPYING = docker("cp takes files and folders as they are", "L/follow-link", "a/archive")
STATS = (
    *docker("it shows one moment; %stats --live moves", "no-stream", "no-trunc"),
    *docker("the result is a frame", "format"),
    *docker("every container that runs is shown", "a/all"),
)

NETWORK_CREATE = (
    *docker("a network's addresses are all its own", "ip-range", "aux-address"),
    *docker("addresses are managed by the lab", "ipam-driver", "ipam-opt"),
    *docker("--mtu and --internal are there as options of their own", "o/opt"),
    *docker("there is no swarm", "attachable", "ingress", "scope", "config-from", "config-only"),
    *docker("networks have no labels", "label"),
    *docker("every network has IPv4", "ipv4"),
)
NETWORK_CONNECT = (
    *docker("the container's name resolves on each of its networks", "alias", "link"),
    *docker("link-local addresses are the kernel's own choice", "link-local-ip"),
    *docker("drivers take no options", "driver-opt", "gw-priority"),
)
NETWORK_LISTING = docker("the table comes back as Handles: index it, or ask .frame()", "format", "f/filter", "no-trunc")
NETWORK_INSPECTING = docker("the result is a dict: index it", "f/format", "scope", "v/verbose")

CONTAINER_VERBS = {
    "port": f"port {_PORTS_WAY}",
    "attach": "docker's attach isn't in ctlab: %container logs -f NAME follows the output",
    "commit": "docker's commit isn't in ctlab: images aren't made in this version; %container cp takes files out",
    "create": "docker's create isn't in ctlab: %container run -d makes and starts one",
    "diff": "docker's diff isn't in ctlab: %container exec NAME -- find / -newer FILE shows what changed",
    "export": "docker's export isn't in ctlab: %container cp NAME:/PATH . takes files out",
    "images": "%image isn't in this version: run takes 'system', 'scratch', a folder or a tar file",
    "pull": "docker's pull isn't in ctlab: images come from folders and tar files in this version",
    "build": "docker's build isn't in ctlab: images come from folders and tar files in this version",
}
