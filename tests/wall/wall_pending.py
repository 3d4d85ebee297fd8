"""What ctlab reaches beyond podman today. THIS TABLE IS TO BECOME EMPTY: each row goes with what shuts it.

It is no list of exceptions: nothing here is as it should be. A row that no report needs any more fails the test, so
that what has been shut stays shut.
"""

from __future__ import annotations

from wall_exceptions import Row

_FILTER = "to be shut by a filter of system calls"
_KEYS = "to be shut by the filter's keys"
_CALLS = (
    "add_key", "bpf", "cachestat", "clock_settime", "file_getattr", "file_setattr", "futex_requeue", "futex_wait",
    "futex_waitv", "futex_wake", "getxattrat", "io_pgetevents", "io_uring_enter", "io_uring_register",
    "io_uring_setup", "kcmp", "landlock_restrict_self", "listmount", "listxattrat", "lsm_get_self_attr",
    "lsm_list_modules", "lsm_set_self_attr", "migrate_pages", "move_pages", "mseal", "open_by_handle_at",
    "open_tree_attr", "perf_event_open", "personality", "process_madvise", "quotactl", "quotactl_fd",
    "removexattrat", "request_key", "set_mempolicy_home_node", "settimeofday", "setxattrat", "statmount", "swapon",
    "sysfs", "userfaultfd", "ustat", "vmsplice",
)  # fmt: skip
_EFFECTS = (
    "compares its processes",
    "counts its own instructions (perf)*",
    "handles its own faults (userfaultfd)*",
    "lists mounts by statmount*",
    "lists security modules*",
    "makes an io_uring*",
    "moves pages of its child",
    "netlink socket, protocol 9",
    "personality: no random addresses*",
    "personality: page zero*",
    "personality: readable is executable*",
    "watches files (fanotify)*",
)

# In a VM besides.
PENDING_OF_A_VM = (
    *(Row(f"call {name}", _FILTER) for name in ("ioperm", "iopl", "map_shadow_stack")),
    Row("more of limit nofile", "to be shut by the limits that podman gives too"),
)

PENDING = (
    Row("no filter of system calls", _FILTER),
    *(Row(f"call {name}", _FILTER) for name in _CALLS),
    *(Row(effect, _FILTER) for effect in _EFFECTS),
    Row("adds a key to its user", _KEYS),
)
