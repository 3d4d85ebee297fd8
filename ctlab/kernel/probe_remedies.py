"""Why a probe failed and what to do about it: pure functions of its outcome and the facts of the machine.

A remedy's first line is a whole sentence or command; further lines are text to paste.
"""

from __future__ import annotations

import errno

from ..errors import errno_name
from . import probe_place
from .launcher_code import CODE
from .probe import Outcome
from .probe_facts import Facts
from .probe_options import OPTIONS, absent, missing_option

_QUOTA_NAMES = {"mount": "mnt", "network": "net"}
_DENIED = (errno.EPERM, errno.EACCES)
_NO_DEVICE = (errno.ENOENT, errno.ENODEV, errno.ENXIO)
_FOR_ALL = 0o006  # what a device's mode gives to everyone: inside, nobody is the root that it belongs to

# How to start a container, or a pod, in which a lab can be made.
_FREEDOM = {
    "docker": "start the container with: docker run --security-opt seccomp=unconfined "
    "--security-opt apparmor=unconfined --security-opt systempaths=unconfined --device /dev/net/tun …",
    "podman": "start the container with: podman run --security-opt seccomp=unconfined --security-opt unmask=ALL "
    "--device /dev/net/tun …",
    "container": "have the container started without a system call filter and with an unmasked /proc",
    "kubernetes": "in the pod's spec: hostUsers: false, and in the container's securityContext: procMount: Unmasked, "
    "seccompProfile: {type: Unconfined}, appArmorProfile: {type: Unconfined}",
    "hub": "ask who runs this hub for pods with hostUsers: false, procMount: Unmasked and seccompProfile Unconfined "
    "(KubeSpawner: extra_pod_config, container_security_context), or use your own Linux machine",
    "binder": "Binder's pods allow no namespaces and that can't be changed from inside: use your own Linux machine; "
    "--explain and the stored outputs of notebooks work here",
    "colab": "Colab's machines allow no lab and that can't be changed from inside: use your own Linux machine; "
    "--explain and the stored outputs of notebooks work here",
}

_ELSEWHERE = {
    "macos": "run Jupyter in a Linux virtual machine (Lima, Multipass …), or on a remote Linux machine; "
    "--explain works here",
    "windows": "install WSL 2 (wsl --install) and run Jupyter inside it, or on a remote Linux machine",
    "wsl1": "WSL 1 has no namespaces: convert the distribution with: wsl --set-version DISTRIBUTION 2",
    "other": "run Jupyter on a Linux machine; --explain works here",
}


def explain(outcome: Outcome, facts: Facts) -> tuple[str, str]:
    """(detail, remedy) of a step of `probe.STEPS` that failed or wasn't tried; remedy "" where there is none."""
    said, remedy = _explain(outcome, facts)
    if outcome.name == "seccomp" and outcome.ok is False:
        if facts.machine not in CODE:
            return said, f"ctlab's launcher and filters are written for {' and '.join(CODE)}"
        if "without it:" in remedy:
            return said, remedy
        remedy = f"{remedy}; without it: {OPTIONS['seccomp'].without}".removeprefix("; ")
    return said, remedy


def _explain(outcome: Outcome, facts: Facts) -> tuple[str, str]:
    name, number = outcome.name, outcome.number
    said = f"{errno_name(number)} ({outcome.detail})" if number else outcome.detail
    if outcome.ok is None:
        return said, ""
    if name == "id-range":
        return said, id_range(facts)
    if name == "tun" and (number in _NO_DEVICE or number in _DENIED):
        return _tun(number, said, facts)
    if name in ("nftables", "nft-nat", "nft-numgen") and "nft" not in facts.programs:
        return said, "sudo apt install nftables"
    if name in OPTIONS and absent(name, number, outcome.detail, facts):
        return missing_option(name, said, facts)
    if name == "user-namespace":
        return said, user_namespace(number, facts)
    if number in (errno.ENOSPC, errno.EUSERS):
        return said, quota(name, facts)
    if number == errno.EAGAIN:
        return said, f"too many processes for this user (ulimit -u: {facts.processes}, pids.max: {facts.tasks})"
    if number == errno.ENOSYS:
        return said, _no_call(name, facts)
    if number in _DENIED:
        return denied(name, said, facts)
    if name == "overlay-usr" and number == errno.EINVAL:
        return f"{said}: something is mounted below /usr", "umount it, or use an image other than system"
    if name == "overlay" and number == errno.EINVAL:
        return said, "an overlay without privileges needs Linux 5.11 (userxattr)"
    if name == "seccomp" and number in (0, errno.ENOTSUP) and "SIGSYS" not in said:
        # No table for this processor, or a kernel that only says that it filters (a sandbox's).
        return said, ""
    if "SIGSYS" in said:
        return f"{said} (a system call filter)", place_remedy(facts) or "start Jupyter outside of that sandbox"
    return said, place_remedy(facts) or "the kernel may have said why: sudo dmesg | tail"


def elsewhere(facts: Facts) -> str:
    """What to do on a machine that isn't a Linux with namespaces; "" on one that is."""
    return _ELSEWHERE.get(facts.place, "")


def place_remedy(facts: Facts) -> str:
    """What gives a container or pod the freedom for a lab; "" on a plain machine."""
    return _FREEDOM.get(facts.place, "")


def apparmor_restricts(facts: Facts) -> bool:
    """Ubuntu from 23.10: an unconfined program without a profile gets a user namespace without capabilities."""
    return facts.uid != 0 and facts.sysctls.get("kernel/apparmor_restrict_unprivileged_userns") == 1


def apparmor_profile(facts: Facts) -> str:
    """The remedy for `apparmor_restricts`: a profile for this interpreter, ready to paste."""
    warning = "# It lets every program that this interpreter runs make user namespaces."
    if facts.python_is_link:
        warning += (
            "\n# This Python is a link to the system's own: to free only one environment, make it with "
            "python3 -m venv --copies and ask again from there."
        )
    return (
        "give this Python an AppArmor profile that allows user namespaces (below), or for every program, until the "
        "next boot: sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0\n"
        "sudo tee /etc/apparmor.d/ctlab-python <<'END'\n"
        "abi <abi/4.0>,\n"
        "include <tunables/global>\n"
        f'profile ctlab-python "{facts.python}" flags=(unconfined) {{\n'
        "  userns,\n"
        "  include if exists <local/ctlab-python>\n"
        "}\n"
        "END\n"
        "sudo apparmor_parser -r /etc/apparmor.d/ctlab-python\n"
        f"{warning}"
    )


def user_namespace(number: int, facts: Facts) -> str:
    """The remedy when not even an empty user namespace can be made."""
    if facts.place == "wsl1":
        return _ELSEWHERE["wsl1"]
    if number in (errno.ENOSPC, errno.EUSERS):
        return quota("user-namespace", facts)
    if number in _DENIED and facts.sysctls.get("kernel/unprivileged_userns_clone") == 0 and facts.uid != 0:
        return (
            "sudo sysctl -w kernel.unprivileged_userns_clone=1; for good: "
            "echo kernel.unprivileged_userns_clone=1 | sudo tee /etc/sysctl.d/60-userns.conf"
        )
    if number in _DENIED and facts.place in probe_place.CONTAINERS:
        return place_remedy(facts)
    if number in _DENIED and apparmor_restricts(facts):
        return apparmor_profile(facts)
    if number in _DENIED and facts.seccomp == 2:
        return (
            "a system call filter on this process forbids it (Seccomp: 2): start Jupyter outside of the sandbox, or, "
            "as a systemd service, without RestrictNamespaces= and SystemCallFilter="
        )
    if number == errno.EPERM:
        return "in a chroot no user namespace can be made: start Jupyter outside of it"
    return place_remedy(facts)


def quota(name: str, facts: Facts) -> str:
    """The remedy for ENOSPC and EUSERS: a namespace quota is used up, or is 0."""
    kind = name.partition("-")[0]
    key = f"user/max_{_QUOTA_NAMES.get(kind, kind)}_namespaces"
    value = facts.sysctls.get(key)
    dotted = key.replace("/", ".")
    if value == 0:
        return raise_quota(dotted)
    if value is None:
        return "a namespace quota of this machine or of a container around it is used up"
    return (
        f"the quota is used up, here ({dotted} is {value}) or in a user namespace around this one, or user namespaces "
        "are nested 32 deep: end what holds them (lsns), or raise it"
    )


def raise_quota(dotted: str) -> str:
    """The commands that raise a namespace quota, now and for good."""
    return f"sudo sysctl -w {dotted}=15000; for good: echo {dotted}=15000 | sudo tee /etc/sysctl.d/60-ctlab.conf"


def denied(name: str, said: str, facts: Facts) -> tuple[str, str]:
    """(detail, remedy) for EPERM and EACCES after the user namespace was made."""
    hidden = [path for path in facts.covered if path.startswith(f"/{'proc' if name == 'proc' else 'sys'}/")]
    if name in ("proc", "sysfs") and (hidden or facts.place in probe_place.CONTAINERS):
        where = "/proc" if name == "proc" else "/sys"
        listed = ", ".join(hidden[:4]) + (" …" if len(hidden) > 4 else "")
        detail = f"{said}: parts of {where} are hidden here" + (f" ({listed})" if hidden else "")
        return detail, place_remedy(facts) or f"umount what lies over parts of {where}: {listed}"
    if apparmor_restricts(facts) and name not in ("clone3", "pidfd", "openat2", "seccomp", "no-new-privs"):
        return f"{said}: AppArmor takes the capabilities from user namespaces of this program", apparmor_profile(facts)
    if facts.place in probe_place.CONTAINERS:
        return said, place_remedy(facts)
    if facts.seccomp == 2:
        return f"{said}; a system call filter is on this process", "start Jupyter outside of that sandbox"
    if name.startswith("cgroup") or name == "clone-into-cgroup":
        return said, ""
    label = f" (this process has the label {facts.label})" if facts.label not in ("", "unconfined", "kernel") else ""
    return f"{said}{label}", "a security module (AppArmor, SELinux) forbids it; its reason is in: sudo dmesg | tail"


def id_range(facts: Facts) -> str:
    """The remedy when only the own id can be mapped."""
    if facts.uid == 0:
        return (
            "this root has no ids to give away (see /proc/self/uid_map), or lacks CAP_SETUID and CAP_SETGID: "
            "start Jupyter as root of the machine, or as an ordinary user"
        )
    if "newuidmap" not in facts.programs or "newgidmap" not in facts.programs:
        return "sudo apt install uidmap"
    if "isn't mapped" in facts.ids_problem:
        return "give yourself, in /etc/subuid and /etc/subgid, ids that /proc/self/uid_map and /proc/self/gid_map have"
    if facts.no_new_privs:
        return "NoNewPrivs is set on this process, so newuidmap gains no privilege: " + {
            "docker": "start the container without --security-opt no-new-privileges",
            "podman": "start the container without --security-opt no-new-privileges",
            "kubernetes": "set allowPrivilegeEscalation: true in the pod's securityContext",
            "hub": "KubeSpawner.allow_privilege_escalation = True",
        }.get(facts.place, "start Jupyter without it (systemd: NoNewPrivileges=no)")
    if facts.ids == "single":
        last = facts.next_subid + 65535
        span = f"{facts.next_subid}-{last}"
        return f"sudo usermod --add-subuids {span} --add-subgids {span} {facts.user}"
    if not {"newuidmap", "newgidmap"} <= facts.setuid:
        paths = f"{facts.programs['newuidmap']} {facts.programs['newgidmap']}"
        return f"both must be setuid root, on a file system without nosuid: sudo chmod u+s {paths}"
    return f"see the lines of {facts.user} in /etc/subuid and /etc/subgid"


def _no_call(name: str, facts: Facts) -> str:
    since = {"clone3": "5.3", "pidfd": "5.3", "openat2": "5.6", "detached-mount": "5.2"}.get(name, "5.11")
    if facts.seccomp == 2:
        return place_remedy(facts) or "a system call filter hides this call: start Jupyter outside of the sandbox"
    return f"this call is there since Linux {since}"


def _tun(number: int, said: str, facts: Facts) -> tuple[str, str]:
    """(detail, remedy): the kernel has none, or the device file isn't there or isn't for everyone."""
    detail = f"/dev/net/tun: {said}"
    mode = facts.tun_mode
    if number == errno.EACCES and mode is not None and mode & _FOR_ALL != _FOR_ALL:
        detail += f": its mode is {mode:04o} (udev gives it 0666), and a lab's root is an ordinary user out here"
        return detail, "sudo chmod 0666 /dev/net/tun"
    if facts.place in ("docker", "podman"):
        return detail, "start the container with: --device /dev/net/tun"
    if facts.place in probe_place.CONTAINERS:
        return detail, place_remedy(facts)
    if number in _DENIED:
        return detail, "sudo chmod 0666 /dev/net/tun"
    if facts.options is not None and "CONFIG_TUN" not in facts.options:
        return missing_option("tun", detail, facts)
    return detail, "sudo modprobe tun"
