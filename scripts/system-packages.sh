#!/bin/sh
# What the system must have, by Debian's names. As root on Debian or Ubuntu it is installed; otherwise it is named
# in one line with the command. Nothing else of the system is changed.
# Usage: system-packages.sh python|run|test|vm|bench
set -eu

missing=""
want() { # PROGRAM PACKAGE
    command -v "$1" >/dev/null 2>&1 || [ -x "/usr/sbin/$1" ] || [ -x "/sbin/$1" ] || missing="$missing $2"
}

case "$1" in
python)
    want python3 python3
    python=$(sh "$(dirname "$0")/find-python.sh")
    if [ -z "$python" ] || ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then missing="$missing python3-venv"; fi
    ;;
*)
    want newuidmap uidmap
    want ip iproute2
    want nft nftables
    want ping iputils-ping
    want ps procps
    want curl curl
    ;;
esac
case "$1" in
vm|test|bench) # QEMU for this machine's own processor, the share of its files, a shell of one file for the guest
    case "$(uname -m)" in
    aarch64) want qemu-system-aarch64 qemu-system-arm ;;
    *) want qemu-system-x86_64 qemu-system-x86 ;;
    esac
    [ -x /usr/libexec/virtiofsd ] || [ -x /usr/lib/qemu/virtiofsd ] || want virtiofsd virtiofsd
    # One with libraries can't run in the guest, where there are none.
    if ! command -v busybox >/dev/null 2>&1 || grep -q /ld-linux "$(command -v busybox)"; then missing="$missing busybox-static"; fi
    want zstd zstd
    ;;
esac
case "$1" in
test)
    want chromium chromium
    want useradd passwd
    want capsh libcap2-bin
    # The launcher is assembled for both processors, and the other one's is run in an emulator.
    want as binutils
    case "$(uname -m)" in
    aarch64) want x86_64-linux-gnu-as binutils-x86-64-linux-gnu; want qemu-x86_64 qemu-user ;;
    *) want aarch64-linux-gnu-as binutils-aarch64-linux-gnu; want qemu-aarch64 qemu-user ;;
    esac
    # What filters of system calls are compared with: a compiler of them, the kernel's numbers, podman's profile.
    /sbin/ldconfig -p | grep -q 'libseccomp\.so\.2 ' || missing="$missing libseccomp2"
    [ -f /usr/include/asm-generic/unistd.h ] || missing="$missing linux-libc-dev"
    [ -f /usr/share/containers/seccomp.json ] || missing="$missing golang-github-containers-common"
    want podman podman # what a container of ours reaches is compared with what one of theirs does
    want crun crun
    want bwrap bubblewrap
    [ -d /usr/share/fonts/truetype/dejavu ] || missing="$missing fonts-dejavu-core"
    # What containers of the image `system` run as it is packaged; none of them is started on this machine (see below).
    want nginx nginx
    want haproxy haproxy
    want redis-server redis-server
    want memcached memcached
    want iperf3 iperf3
    want gcc gcc
    want tcpdump tcpdump
    want mtr mtr-tiny
    want nmap nmap
    ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || missing="$missing postgresql"
    # What runs below a filter of system calls, a bus to be asked, a large folder of links. Node.js and Java run, too,
    # where they are; they are too large to be installed for that.
    want strace strace
    want sqlite3 sqlite3
    want dbus-daemon dbus-daemon
    [ -d /usr/share/zoneinfo ] || missing="$missing tzdata"
    ;;
bench)
    want crun crun
    want runc runc
    want bwrap bubblewrap
    want podman podman
    want mn mininet
    want brctl bridge-utils
    ;;
esac
[ -n "$missing" ] || exit 0

if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    echo "installing:$missing"
    # Packages of servers start them when they are installed, unless this says no.
    policy=/usr/sbin/policy-rc.d
    if [ ! -e $policy ]; then
        trap 'rm -f $policy' EXIT
        trap 'exit 1' HUP INT TERM
        printf '#!/bin/sh\nexit 101\n' >$policy
        chmod 755 $policy
    fi
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -q >/dev/null
    # shellcheck disable=SC2086
    apt-get install -y -q --no-install-recommends $missing >/dev/null
elif [ "$1" = python ]; then
    echo "missing:$missing; as root: apt-get install$missing" >&2
    exit 1
else
    echo "missing (some things will not work):$missing; as root: apt-get install$missing" >&2
fi
