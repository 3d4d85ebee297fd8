"""`crun run` of /bin/true: the OCI runtime written in C, with the same limits and without any network."""

from __future__ import annotations

from benchmarks.peers.oci import Oci
from benchmarks.peers.worker import serve

if __name__ == "__main__":
    serve(lambda: Oci("crun"))
