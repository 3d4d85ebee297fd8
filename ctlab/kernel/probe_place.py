"""Where this Python runs: a plain machine, a container, somebody's cloud notebook, another operating system. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping

# The word for a reader, for each place that `place` can name.
NAMES: Mapping[str, str] = {
    "linux": "a Linux machine",
    "docker": "a Docker container",
    "podman": "a Podman container",
    "container": "a container",
    "kubernetes": "a Kubernetes pod",
    "hub": "a JupyterHub pod",
    "binder": "a Binder pod",
    "colab": "Google Colab",
    "wsl1": "WSL 1",
    "wsl2": "WSL 2",
    "macos": "macOS",
    "windows": "Windows",
    "other": "an unknown system",
}

CONTAINERS = frozenset({"docker", "podman", "container", "kubernetes", "hub", "binder", "colab"})

# The files whose presence `place` asks about.
MARKS = ("/.dockerenv", "/run/.containerenv", "/run/systemd/container", "/run/secrets/kubernetes.io")


def place(system: str, release: str, environment: Mapping[str, str], present: Collection[str]) -> str:
    """A key of `NAMES`.

    `system`: as `platform.system()`; `release`: the kernel's; `present`: those of `MARKS` that exist.
    The narrower place wins: a Binder pod is also a JupyterHub pod and a Kubernetes pod.
    """
    if system != "Linux":
        return {"Darwin": "macos", "Windows": "windows"}.get(system, "other")
    if "microsoft" in release.lower():
        # WSL 1 translates system calls and calls itself 4.4.0-…-Microsoft; WSL 2 is a real kernel.
        return "wsl1" if release.endswith("-Microsoft") else "wsl2"
    if "COLAB_RELEASE_TAG" in environment or "COLAB_GPU" in environment:
        return "colab"
    if "BINDER_LAUNCH_HOST" in environment or "BINDER_REPO_URL" in environment:
        return "binder"
    if "KUBERNETES_SERVICE_HOST" in environment or "/run/secrets/kubernetes.io" in present:
        return "hub" if "JUPYTERHUB_API_URL" in environment else "kubernetes"
    if "/run/.containerenv" in present or environment.get("container") == "podman":
        return "podman"
    if "/.dockerenv" in present:
        return "docker"
    if "container" in environment or "/run/systemd/container" in present:
        return "container"
    return "linux"
