#!/bin/sh
# The Python to make the virtual environment with: 3.11 or newer, and one that every user of the machine can run
# (an interpreter below somebody's private home can't be used by the tests that become another user).
for candidate in /usr/bin/python3 python3 python3.14 python3.13 python3.12 python3.11; do
    path=$(command -v "$candidate") || continue
    "$path" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || continue
    echo "$path"
    exit 0
done
