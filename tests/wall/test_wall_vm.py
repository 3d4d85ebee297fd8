"""A container in a VM beside podman on this machine: another kernel, and the VM's wall behind the container's."""

from __future__ import annotations

from typing import Any

import pytest
import wall_reports
import wall_table
from wall_exceptions import EXCEPTIONS, OF_A_VM
from wall_pending import PENDING, PENDING_OF_A_VM

pytestmark = [pytest.mark.vm, pytest.mark.xdist_group("wall")]  # the reports are made once


@pytest.fixture(scope="module")
def of_a_vm() -> dict[str, Any]:
    """Made once: a machine is booted for it."""
    from ctlab.errors import CtlabError
    from ctlab.vm import prepare, programs

    try:
        programs.find()
    except CtlabError as error:
        pytest.skip(str(error))
    prepare.prepare()
    return wall_reports.in_a_vm()


def test_in_a_vm_it_reaches_no_more(reports: wall_reports.Reports, of_a_vm: dict[str, Any]) -> None:
    more = wall_table.excess(of_a_vm, reports["ids"]["podman"]["run"], wall_reports.call_names())
    own = [row.facts for row in (*OF_A_VM, *PENDING_OF_A_VM)]
    assert wall_table.unexplained(more, [*own, *(row.facts for row in (*EXCEPTIONS, *PENDING))]) == []
    assert wall_table.unused(more, own) == []


def test_what_is_the_machines_is_out_of_its_sight(of_a_vm: dict[str, Any]) -> None:
    """Neither its namespaces nor its sockets, files and the port through which the VM is spoken to."""
    reached = [fact for fact in of_a_vm["reach"] if "the machine's" in fact or fact.endswith("of the machine")]
    assert [fact for fact in reached if "namespace time" not in fact] == []
    assert "talks to the host of a virtual machine" not in of_a_vm["reach"]
    devices = {fact.split()[-1].partition(":")[0] for fact in of_a_vm["reach"] if " device " in fact}
    assert devices <= {"c1", "c5"}, "memory's harmless ones and terminals, no port"
