"""What whoever has become the guest's root finds of this machine: looked at by the guest's own root, in one boot."""

from __future__ import annotations

import subprocess
import sys

import pytest
import vm_help
from kernel_help import ROOT, patient

from ctlab.vm import shares

pytestmark = pytest.mark.usefixtures("machine_programs")

# Both shares as they are mounted, and once more, since the guest's root may mount them as it likes.
GUEST = r"""
mkdir /tmp/again && mount -t virtiofs ctlabhost /tmp/again
for share in /run/ctlab/system /run/ctlab/host /tmp/again; do
    for folder in COVERED; do ls -A "$share$folder" | sed "s,^,SEEN $folder ,"; done
    ls -d "$share/usr" "$share/proc/1" "$share/run/user" 2>/dev/null | sed "s,^,FOUND ,"
    cat "$share/etc/hostname" > /dev/null && echo "READ $share"
done
stat -c "OWNER %u" /run/ctlab/system/etc
"""
HOST = r"""
import sys, time
sys.path[:0] = [sys.argv[1], sys.argv[1] + "/tests", sys.argv[1] + "/tests/vm"]
import leg
script, seconds = sys.argv[2], float(sys.argv[3])
environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
sys.exit(leg.run_machine("look", ["/bin/sh", "-c", script], environment, time.monotonic() + seconds))
"""


@pytest.mark.long  # a boot of its own; kernel/test_vm_shares.py looks at the same root without one
def test_the_guests_root_sees_no_proc_sys_run_or_home_of_this_machine() -> None:
    covered = shares.covers(shares.homes())
    view = shares.make()
    view.close()
    vm_help.need_covers(view.why_not)
    shown = [path for path in (str(ROOT), sys.prefix) if any(path.startswith(f"{one}/") for one in covered)]
    script = GUEST.replace("COVERED", " ".join(covered))
    words = [sys.executable, "-B", "-c", HOST, str(ROOT), script, str(patient(120))]
    pipe = subprocess.PIPE
    with subprocess.Popen(words, stdin=pipe, stdout=pipe, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        said = process.stdout.read()  # its input stays open: by its end it would know that we have ended
    assert process.returncode == 0, said
    lines = [line.split(" ", 1) for line in said.replace("\r", "").splitlines()]
    seen = {text for word, text in lines if word == "SEEN"}
    places = [(one, path) for path in shown for one in covered if path.startswith(f"{one}/")]
    allowed = {f"{one} {path.removeprefix(f'{one}/').partition('/')[0]}" for one, path in places}
    assert seen <= allowed, seen
    assert [text for word, text in lines if word == "FOUND"] == [
        f"{share}/usr" for share in ("/run/ctlab/system", "/run/ctlab/host", "/tmp/again")
    ]
    assert len([text for word, text in lines if word == "READ"]) == 3
    assert ["OWNER", "0"] in lines, "what is root's here is root's there"
