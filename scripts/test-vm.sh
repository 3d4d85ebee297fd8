#!/bin/sh
# The tests of the kernel in virtual machines, and then the table of what was tested on which leg.
# Usage: test-vm.sh PYTHON [FILE ...] (files of tests/kernel; default: all)
set -u
cd "$(dirname "$0")/.." || exit 1
python=$1
shift

status=0
"$python" tests/vm/leg.py "$@" || status=1
set -- out/legs/*.json
[ -e "$1" ] || exit 1
PYTHONPATH=. "$python" tests/leg_report.py "$@" || status=1
exit $status
