"""One function does the last step to a container's program, for all ways to start one; who else executes anything."""

from __future__ import annotations

import ast
from pathlib import Path

import ctlab

PACKAGE = Path(ctlab.__file__).parent
# Every place of the package that executes a program, with where it runs. Whatever is added here has to say why nothing
# that a container chose is looked up by it.
EXECUTES = {
    "kernel/launcher.py": "the last step: the launcher, which executes what a container chose",
    "engines.py": "outside, by the owner: prepares a VM as another user",
    "kernel/cgroup_discover.py": "outside, by the keeper: asks systemd for a scope",
    "kernel/cgroup_trial.py": "outside, by the keeper: cat, in a folder that it tries",
    "kernel/idmap.py": "outside, by the keeper: newuidmap, newgidmap",
    "kernel/probe.py": "outside, by the doctor: its own interpreter",
    "kernel/probe_journal.py": "in the doctor's throw-away namespaces: this machine's own programs",
    "runtime/client.py": "outside, by the owner: the keeper",
    "vm/guest_programs.py": "in a guest without a lab, for tests: what the host's side says",
    "vm/initramfs.py": "outside: the interpreter whose library a guest gets",
    "vm/process.py": "outside, by the VM's keeper: QEMU, virtiofsd",
    "vm/programs.py": "outside: asks programs for their version",
    "vm/sources.py": "outside: apt, which fetches a kernel",
    "images/plain.py": "outside, by the owner: decompresses an image that the inside can't",
    "vm/unpacking.py": "outside: unpacks a kernel",
}
_NAMES = ("exec", "spawn", "posix_spawn", "popen", "system", "startfile")
_CALLS = ("Popen", "run", "check_call", "check_output", "call", "getoutput", "getstatusoutput")


def executes(path: Path) -> bool:
    """Whether a module has a call that executes a program, by name: os.exec…, subprocess.…, numbers of execve."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            module, name = node.value.id, node.attr
            if module == "os" and name.startswith(_NAMES):
                return True
            if module == "subprocess" and name in _CALLS:
                return True
        if isinstance(node, ast.Name) and "EXECVE" in node.id:
            return True
    return False


def test_nothing_else_executes_a_program() -> None:
    found = {str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.py") if executes(path)}
    assert found == set(EXECUTES)


def test_slots_and_runners_go_through_it() -> None:
    users = {path.name for path in (PACKAGE / "runtime").glob("*.py") if "launcher.become(" in path.read_text()}
    assert users == {"slot.py"}
    text = (PACKAGE / "runtime/runner.py").read_text()
    assert text.count(".spawn(") == 2 and "os.fork" not in text  # a program, and the rehearsal of one
