"""Run a small lab for half a minute and store what its map and its counters were: what `ctlab.sample_run` shows.

Usage: .venv/bin/python scripts/record-sample.py [FILE]; it must be able to set limits (python -m ctlab doctor).
"""

from __future__ import annotations

import platform
import sys
import time
from pathlib import Path

import ctlab
from ctlab.measuring import _rings
from ctlab.metrics.stored import pack
from ctlab.recording import SAMPLE, load, store

FILE = Path(__file__).resolve().parent.parent / "ctlab" / "recordings" / SAMPLE
MAX_BYTES = 100_000
SECONDS = 30.0
STORY = (
    "client fetches pages from web over the network blue, twice for some seconds. worker, on the network green, may "
    "use 0.3 of a core: after eight seconds it wants all of one, and fills memory step by step."
)
FETCH = """
import sys, time, urllib.request
until = time.monotonic() + float(sys.argv[1])
while time.monotonic() < until:
    urllib.request.urlopen("http://web/").read()
    time.sleep(float(sys.argv[2]))
"""
WORK = """
import time
time.sleep(8)
kept, until = [], time.monotonic() + 14
while time.monotonic() < until:
    kept.append(bytearray(1 << 20) if len(kept) < 40 else b"")
    sum(range(400_000))
kept.clear()
time.sleep(600)
"""


def main() -> int:
    """Returns 0 once the file is written."""
    target = Path(sys.argv[1]) if sys.argv[1:] else FILE
    with ctlab.Lab("sample") as lab:
        lab.network("blue", subnet="10.10.0.0/24")
        lab.network("green", subnet="10.20.0.0/24")
        started = time.monotonic()
        web = lab.run(
            ["python3", "-m", "http.server", "80"], name="web", networks=["blue"], workdir="/srv", memory="64M"
        )
        client = lab.run(name="client", networks=["blue", "green"])
        lab.run(["python3", "-c", WORK], name="worker", networks=["green"], cpus=0.3, memory="128M")
        web.write("/srv/index.html", "<h1>Hello from web</h1>\n" * 400)
        lab.wait_for("web", port=80)
        for begins, seconds, pause in ((3, 8, 0.02), (17, 6, 0.0)):
            time.sleep(max(0.0, started + begins - time.monotonic()))
            client.exec(["python3", "-c", FETCH, str(seconds), str(pause)]).check()
        time.sleep(max(0.0, started + SECONDS - time.monotonic()))
        elements = lab.map_elements()
        containers, endpoints = (ring.snapshot() for ring in _rings(lab))
        stored = store(
            {
                "lab": lab.name,
                "story": STORY,
                "recorded_at": int(time.time()),
                "ctlab": ctlab.__version__,
                "kernel": platform.release(),
                "interval_seconds": 0.1,
                "elements": elements,
                "details": {str(element["id"]): lab.details(str(element["id"])) for element in elements},
                "containers": {str(key): name for key, name in lab._names.items()},
                "endpoints": {str(key): list(words) for key, words in lab._endpoint_names.items()},
                "rows": {"containers": pack(containers), "endpoints": pack(endpoints)},
            }
        )
    if len(stored) > MAX_BYTES:
        print(f"{len(stored)} bytes are more than {MAX_BYTES}", file=sys.stderr)
        return 1
    load(stored).stats(last=None)
    target.write_bytes(stored)
    print(f"{target}: {len(stored)} bytes, {len(containers)} and {len(endpoints)} rows")
    return 0


if __name__ == "__main__":
    sys.exit(main())
