#!/bin/sh
# What a newcomer does: an ordinary user, made for this, clones the project into an empty home and types `make demo`.
# Needs root to make that user, who is removed again. It takes a minute or two (a virtual environment, packages), so it
# is no part of `make test`. Usage: sh scripts/demo-as-user.sh [FOLDER that the page is copied to]
set -eu

here=$(cd "$(dirname "$0")/.." && pwd)
[ "$(id -u)" = 0 ] || { echo "needs root, to make another user" >&2; exit 1; }
user=ctdemo$$
home=$(mktemp -d /var/tmp/ctlab-demo-XXXXXX)/home
useradd --create-home --home-dir "$home" "$user"
chmod 755 "$(dirname "$home")"
trap 'userdel "$user" 2>/dev/null || true; rm -rf "$(dirname "$home")"' EXIT

as_user() {
    setpriv --reuid "$user" --regid "$user" --init-groups \
        env -u XDG_RUNTIME_DIR -u VIRTUAL_ENV -u PYTHONPATH HOME="$home" USER="$user" "$@"
}
ids() { # the user's own id and its range of others: FIRST COUNT a line
    echo "$(id -u "$user") 1"
    sed -n "s/^$user:\([0-9]*\):\([0-9]*\)$/\1 \2/p" /etc/subuid
}
left() { # the processes of these ids
    ids | while read -r first count; do
        ps -eo uid=,pid=,args= | awk -v first="$first" -v count="$count" '$1 >= first && $1 < first + count'
    done
}

git clone -q --no-hardlinks "$here" "$home/ctlab"
chown -R "$user:" "$home/ctlab"
began=$(date +%s)
as_user make -C "$home/ctlab" demo
echo "make demo took $(($(date +%s) - began)) s"
[ -s "$home/ctlab/out/01-quickstart.html" ] || { echo "there is no page" >&2; exit 1; }
[ -z "${1:-}" ] || cp "$home/ctlab/out/01-quickstart.html" "$1/"
[ -z "$(as_user git -C "$home/ctlab" status --porcelain)" ] || { echo "the clone isn't clean any more" >&2; exit 1; }
for _ in 1 2 3 4 5 6 7 8 9 10; do
    remains=$(left)
    [ -n "$remains" ] || break
    sleep 0.5
done
[ -z "$remains" ] || { echo "left running:" >&2; echo "$remains" >&2; exit 1; }
echo "nothing of it runs any more"
