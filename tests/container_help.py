"""What several tests ask of a container."""

from __future__ import annotations

from typing import Any

from kernel_help import wait_until

NAMESPACES = ("mnt", "pid", "net", "uts", "ipc", "cgroup", "user")
CATCHES_TERM = ["sh", "-c", "trap 'exit 7' TERM; echo up; while :; do sleep 0.02; done"]


def said(container: Any, text: str) -> None:
    """Wait until the container has written `text`."""
    assert wait_until(lambda: text in container.logs()), container.logs()


def namespaces(container: Any) -> dict[str, str]:
    """The namespaces of a process in it: kind -> the kernel's name of it."""
    script = "; ".join(f"readlink /proc/self/ns/{name}" for name in NAMESPACES)
    words = container.exec(["sh", "-c", script]).check().stdout.split()
    return dict(zip(NAMESPACES, words, strict=True))
