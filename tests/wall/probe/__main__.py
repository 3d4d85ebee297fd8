"""What a process can reach, found by doing: run inside a container, it writes what it found as JSON.

`python3 -I -S -B FOLDER ORDER`, with what the outside has put ready for it to find (see `order` in
`tests/wall/outside.py`) as JSON. Standard library only: the root that it runs in holds little else.

`reach`: one text for each thing that was done, opened or seen; more of them is more reach, so a wall is compared with
another by the difference of two sets. `amounts`: numbers, where more is more reach. `mounts`: place -> what its mount
allows. `calls`: number -> how the kernel answered.
"""

from __future__ import annotations

import json
import sys

import calls
import effects
import identity
import network
import places


def main() -> int:
    order = json.loads(sys.argv[1])
    seen = {"amounts": identity.amounts(), "mounts": places.mounts()}
    reach = identity.reach(order) | places.reach(order) | network.reach(order)
    answers = calls.answers(order["skip"], order["last_call"])
    reach |= effects.reach(order)  # last: where it may, it takes mounts down
    found = {"reach": sorted(reach), "calls": answers} | seen
    print(json.dumps(found))
    return 0


sys.exit(main())
