"""Which kernel a lab gets, where this machine's can have it and where it can't. What needs a VM is in `tests/vm`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest
from kernel_help import patient, run_owner

import ctlab
from ctlab import engines
from ctlab.doctor import RECORDED
from ctlab.errors import BadInput, CtlabError

pytestmark = pytest.mark.kernel

# In a user namespace of its own, which may have no further ones: a machine on which no lab can start.
FORBIDDEN = """
import contextlib, json, sys, ctlab
with open("/proc/sys/user/max_user_namespaces", "w") as file: file.write("0")
report = ctlab.doctor()
said = {"usable": report.usable, "why_not": report.why_not, "offer": report.offer, "summary": report.summary}
said["vm"] = None if report.vm is None else [report.vm.ok, report.vm.detail, report.vm.remedy]
for name, options in json.loads(sys.argv[1]).items():
    try:
        ctlab.Lab("demo", **options)
    except ctlab.CtlabError as error:
        said[name] = [type(error).__name__, str(error)]
said["modules"] = [name for name in sys.modules if name.startswith("ctlab.vm.machine")]
print(json.dumps(said))
"""


def forbidden(**asked: dict[str, Any]) -> dict[str, Any]:
    words = ["unshare", "-Ur", sys.executable, "-B", "-c", FORBIDDEN, json.dumps(asked)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=patient(60), check=False)
    assert done.returncode == 0, done.stderr
    said: dict[str, Any] = json.loads(done.stdout)
    return said


def test_where_the_kernel_cannot_the_reason_comes_first_and_a_vm_is_offered_if_it_can_be_had() -> None:
    said = forbidden(auto={}, native={"engine": "native"})
    assert not said["usable"] and "max_user_namespaces" in said["why_not"]
    recorded = "" if said["offer"] else f"; {RECORDED}"  # where nothing can be had at all
    assert said["native"] == ["Unsupported", said["why_not"] + recorded]
    assert said["auto"] == ["Unsupported", said["why_not"] + said["offer"] + recorded]
    if said["vm"] is not None and said["vm"][0]:
        assert "engine='vm'" in said["offer"] and "%lab start --engine vm" in said["offer"]
        assert "%lab start --engine vm" in said["summary"]
    else:
        assert said["offer"] == "" and "--engine" not in said["summary"] and RECORDED in said["summary"]
    assert "\n" not in said["auto"][1] and said["modules"] == []


def test_where_neither_can_be_had_both_reasons_are_said() -> None:
    """Neither this machine's kernel nor a VM, whose files have no place here (or whose programs are missing)."""
    script = """
import os
os.environ["XDG_CACHE_HOME"] = "/proc/nowhere"
import ctlab
with open("/proc/sys/user/max_user_namespaces", "w") as file: file.write("0")
try:
    ctlab.Lab("demo", vm_if_needed=True)
except ctlab.Unsupported as error:
    print(error)
report = ctlab.doctor()
print(report.vm.ok, repr(report.offer))
"""
    words = ["unshare", "-Ur", sys.executable, "-B", "-c", script]
    done = subprocess.run(words, capture_output=True, text=True, timeout=patient(60), check=False)
    assert done.returncode == 0, done.stderr
    error, row = done.stdout.splitlines()
    assert row == "False ''"
    assert error.startswith("user-namespace: ENOSPC") and "; and no VM can be had: " in error
    assert error.count("XDG_CACHE_HOME") == 1 or "sudo apt install" in error
    assert error.endswith("; ctlab.sample_run() shows a recorded lab: its map, counters and chart")


def test_on_a_machine_that_can_the_lab_is_native_and_nothing_of_a_vm_is_imported() -> None:
    script = """
import sys, ctlab
lab = ctlab.Lab
with lab("plain") as one, lab("ready", vm_if_needed=True) as two, lab("own", engine="native") as three:
    for lab in (one, two, three):
        status = lab.status()
        assert lab.engine == status["engine"] == "native" and "vm" not in status, status
        assert repr(lab).endswith(", native>"), repr(lab)
        assert ">native<" in lab._repr_html_(), lab._repr_html_()
        assert not any("kernel of its own" in note for note in lab.notes), lab.notes
print([name for name in sys.modules if name.startswith("ctlab.vm")])
print("ctlab.doctor" in sys.modules)
"""
    assert run_owner(script).splitlines() == ["[]", "False"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"engine": "nativ"}, "no engine 'nativ'; did you mean 'native'?; there are: auto, native, vm"),
        ({"engine": None}, "no engine None; there are: auto, native, vm"),
        ({"vm_memory": "1G"}, "vm_memory is for a VM: add engine='vm'"),
        ({"engine": "native", "vm_cpus": 2}, "vm_cpus is for a VM: add engine='vm'"),
        ({"engine": "native", "vm_if_needed": True}, "vm_if_needed goes with engine='auto'"),
        ({"engine": "vm", "vm_memory": "much"}, "'much' isn't a size"),
        ({"engine": "vm", "vm_memory": "4M"}, "'4M' of memory is too little"),
        ({"engine": "vm", "vm_memory": 10**15}, "more than this machine has"),
        ({"engine": "vm", "vm_cpus": 0}, "0 CPUs"),
        ({"engine": "vm", "vm_cpus": 1.5}, "1.5 isn't a number of CPUs"),
        ({"vm_if_needed": True, "vm_memory": "4M"}, "'4M' of memory is too little"),
    ],
)
def test_what_does_not_go_together(options: dict[str, Any], message: str) -> None:
    before = ctlab.labs.running()
    with pytest.raises(BadInput) as caught:
        ctlab.Lab("demo", **options)
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert ctlab.labs.running() == before


def test_an_error_that_is_no_matter_of_the_kernel_stays_what_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine where the doctor finds nothing missing, a failed start isn't turned into an offer of a VM."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/proc/self/nowhere")
    monkeypatch.setenv("TMPDIR", "/proc/self/nowhere")
    try:
        lab = ctlab.Lab("demo", vm_if_needed=True)
    except CtlabError as error:
        assert "VM" not in str(error) and "engine" not in str(error)
    else:  # it found another place for its runtime folder
        assert lab.engine == "native"
        lab.stop()


def test_the_environment_says_what_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {}
    for text in ("", "0", "1"):
        monkeypatch.setenv(engines.IF_NEEDED_VARIABLE, text)
        found[text] = engines.choose("auto", None, None, None).if_needed
        assert not engines.choose("native", None, None, None).if_needed
        assert not engines.choose("auto", None, None, False).if_needed
        assert engines.choose("auto", None, None, True).if_needed
    assert found == {"": False, "0": False, "1": True}
    monkeypatch.setenv(engines.IF_NEEDED_VARIABLE, "yes")
    with pytest.raises(BadInput, match=r"^CTLAB_VM_IF_NEEDED is 'yes': 1 \("):
        ctlab.Lab("demo")


def test_cpus_and_paths_of_a_native_lab_are_this_machines(lab: Any) -> None:
    assert set(engines.cpus(lab)) == os.sched_getaffinity(0)
    assert engines.guest_path(lab, "/a/../b") == "/a/../b"
