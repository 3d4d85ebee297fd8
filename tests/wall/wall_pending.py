"""What ctlab reaches beyond podman and that is to be shut. THIS TABLE IS TO STAY EMPTY but while something is repaired.

It is no list of exceptions: nothing here is as it should be. A row that no report needs any more fails the test, so
that what has been shut stays shut.
"""

from __future__ import annotations

from wall_exceptions import Row

PENDING: tuple[Row, ...] = ()
PENDING_OF_A_VM: tuple[Row, ...] = ()  # in a VM besides
