"""The filter that containers get: which system calls are allowed, which a capability opens, which are refused, and why.

Made from what the default profiles of podman and Docker refuse: what either of them refuses is refused here, but for
the rows in `BEYOND_PODMAN` and `BEYOND_DOCKER`. A call that isn't in the table (newer than Linux 6.18) is missing
(ENOSYS), so that programs fall back on what they used before it. A known call that is refused is EPERM, or ENOSYS where
a program that finds it missing does without (`hidden`) and with EPERM would give up.
"""

from __future__ import annotations

from typing import NamedTuple

from .profile import ALLOW, EINVAL, ENOSYS, EPERM, LOW_BITS, Condition, Profile, Rule


class Case(NamedTuple):
    """Arguments for which a call is answered otherwise than its group; not for who has one of `unless`."""

    conditions: tuple[Condition, ...]
    answer: int
    unless: tuple[str, ...] = ()


class Group(NamedTuple):
    """Some calls, why they are treated as they are, and what they are answered where they are refused.

    `opened_by`: capabilities any one of which allows them. `exceptions` stand before `answer`.
    """

    reason: str
    calls: str
    answer: int
    opened_by: tuple[str, ...] = ()
    exceptions: tuple[Case, ...] = ()


def allowed(reason: str, calls: str) -> Group:
    return Group(reason, calls, ALLOW)


def refused(reason: str, calls: str) -> Group:
    return Group(reason, calls, EPERM)


def hidden(reason: str, calls: str, *opened_by: str) -> Group:
    return Group(reason, calls, ENOSYS, opened_by)


def needs(*capabilities: str, reason: str, calls: str) -> Group:
    return Group(reason, calls, EPERM, capabilities)


def _is(argument: int, value: int, mask: int = LOW_BITS) -> Condition:
    return Condition(argument, "==", value, mask)


# CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET: linux/sched.h. NEWTIME lies among the bits of the
# exit signal, where clone doesn't take it.
NAMESPACES = 0x7E020000
_AF_NETLINK, _AF_ALG, _AF_VSOCK, _NETLINK_AUDIT, _SYS_SOCKET = 16, 38, 40, 9, 1
# PER_LINUX, PER_LINUX32, both with UNAME26, and the question which one is set: linux/personality.h
_PERSONALITIES = (0x0, 0x8, 0x20000, 0x20008, 0xFFFFFFFF)

GROUPS: tuple[Group, ...] = (
    # Allowed always: what programs are made of.
    allowed(
        "files and folders by name: permissions, mounts and the container's root decide",
        "access chdir chmod chown chown32 creat faccessat faccessat2 fchmodat fchmodat2 fchownat fstatat64 futimesat "
        "getcwd getxattr lchown lchown32 lgetxattr link linkat listxattr llistxattr lremovexattr lsetxattr lstat "
        "lstat64 mkdir mkdirat mknod mknodat name_to_handle_at newfstatat open openat openat2 readlink readlinkat "
        "removexattr rename renameat renameat2 rmdir setxattr stat stat64 statfs statfs64 statx symlink symlinkat "
        "truncate truncate64 umask unlink unlinkat utime utimensat utimensat_time64 utimes",
    ),
    allowed(
        "what is done with an open file",
        "_llseek arm_fadvise64_64 arm_sync_file_range close close_range copy_file_range dup dup2 dup3 fadvise64 "
        "fadvise64_64 fallocate fanotify_mark fchdir fchmod fchown fchown32 fcntl fcntl64 fdatasync fgetxattr "
        "flistxattr flock fremovexattr fsetxattr fstat fstat64 fstatfs fstatfs64 fsync ftruncate ftruncate64 getdents "
        "getdents64 inotify_add_watch inotify_init inotify_init1 inotify_rm_watch io_cancel io_destroy io_getevents "
        "io_setup io_submit ioctl lseek memfd_create pipe pipe2 pread64 preadv preadv2 pwrite64 pwritev pwritev2 read "
        "readahead readv sendfile sendfile64 splice sync sync_file_range syncfs tee write writev",
    ),
    allowed(
        "waiting for descriptors",
        "_newselect epoll_create epoll_create1 epoll_ctl epoll_pwait epoll_pwait2 epoll_wait eventfd eventfd2 poll "
        "ppoll ppoll_time64 pselect6 pselect6_time64 select signalfd signalfd4 timerfd_create timerfd_gettime "
        "timerfd_gettime64 timerfd_settime timerfd_settime64",
    ),
    allowed(
        "a process's own memory",
        "brk madvise membarrier memfd_secret mincore mlock mlock2 mlockall mmap mmap2 mprotect mremap msync munlock "
        "munlockall munmap pkey_alloc pkey_free pkey_mprotect remap_file_pages",
    ),
    allowed(
        "processes and threads",
        "execve execveat exit exit_group fork futex futex_time64 get_robust_list getpgid getpgrp getpid getppid "
        "getsid gettid pidfd_open pidfd_send_signal prctl process_mrelease rseq set_robust_list set_tid_address "
        "setpgid setsid vfork wait4 waitid waitpid",
    ),
    allowed(
        "signals",
        "kill pause restart_syscall rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn "
        "rt_sigsuspend rt_sigtimedwait rt_sigtimedwait_time64 rt_tgsigqueueinfo sigaltstack signal sigprocmask "
        "sigreturn tgkill tkill",
    ),
    allowed(
        "clocks and timers: to set the clock the kernel wants CAP_SYS_TIME of the machine, and adjtimex also asks",
        "adjtimex alarm clock_adjtime clock_adjtime64 clock_getres clock_getres_time64 clock_gettime clock_gettime64 "
        "clock_nanosleep clock_nanosleep_time64 getitimer gettimeofday nanosleep setitimer time timer_create "
        "timer_delete timer_getoverrun timer_gettime timer_gettime64 timer_settime timer_settime64 times",
    ),
    allowed(
        "ids and capabilities: those of the container's user namespace at most",
        "capget capset getegid getegid32 geteuid geteuid32 getgid getgid32 getgroups getgroups32 getresgid "
        "getresgid32 getresuid getresuid32 getuid getuid32 setfsgid setfsgid32 setfsuid setfsuid32 setgid setgid32 "
        "setgroups setgroups32 setregid setregid32 setresgid setresgid32 setresuid setresuid32 setreuid setreuid32 "
        "setuid setuid32",
    ),
    allowed(
        "sockets once they are made",
        "accept accept4 bind connect getpeername getsockname getsockopt listen recv recvfrom recvmmsg recvmmsg_time64 "
        "recvmsg send sendmmsg sendmsg sendto setsockopt shutdown socketpair",
    ),
    allowed(
        "System V and POSIX messages, semaphores, shared memory: of the container's own IPC namespace",
        "ipc mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedreceive_time64 mq_timedsend mq_timedsend_time64 "
        "mq_unlink msgctl msgget msgrcv msgsnd semctl semget semop semtimedop semtimedop_time64 shmat shmctl shmdt "
        "shmget",
    ),
    allowed(
        "scheduling and limits: raising either needs a capability of the machine",
        "getcpu getpriority getrlimit getrusage ioprio_get ioprio_set prlimit64 sched_get_priority_max "
        "sched_get_priority_min sched_getaffinity sched_getattr sched_getparam sched_getscheduler "
        "sched_rr_get_interval sched_rr_get_interval_time64 sched_setaffinity sched_setattr sched_setparam "
        "sched_setscheduler sched_yield setpriority setrlimit ugetrlimit",
    ),
    allowed("questions about the machine that /proc answers as well", "getrandom sysinfo uname"),
    allowed(
        "what a program gives up by itself, to be safer",
        "landlock_add_rule landlock_create_ruleset landlock_restrict_self seccomp",
    ),
    allowed(
        "debuggers and tracers: from Linux 4.8 on what a tracer changes meets the filter too",
        "process_vm_readv process_vm_writev ptrace",
    ),
    allowed(
        "segments, thread pointers and caches of one processor",
        "arch_prctl breakpoint cacheflush get_thread_area modify_ldt set_thread_area set_tls",
    ),
    allowed(
        "the kernel's own jumps back when the machine's root traces a program; called otherwise they end the caller",
        "uprobe uretprobe",
    ),
    # Allowed for some arguments.
    Group(
        "the kernel's crypto (AF_ALG) has let users become root; AF_VSOCK reaches the hypervisor past every network",
        "socket",
        ALLOW,
        exceptions=(
            Case((_is(0, _AF_ALG),), EPERM),
            Case((_is(0, _AF_VSOCK),), EPERM),
            # EINVAL is how programs that log to the audit system take it that there is none.
            Case((_is(0, _AF_NETLINK), _is(2, _NETLINK_AUDIT)), EINVAL, ("AUDIT_WRITE",)),
        ),
    ),
    Group(
        "makes a 32-bit program's sockets from arguments in memory, where no filter sees the family",
        "socketcall",
        ALLOW,
        exceptions=(Case((_is(0, _SYS_SOCKET),), EPERM),),
    ),
    Group(
        "other execution domains lower the defences of memory (READ_IMPLIES_EXEC, ADDR_NO_RANDOMIZE)",
        "personality",
        EPERM,
        exceptions=tuple(Case((_is(0, value),), ALLOW) for value in _PERSONALITIES),
    ),
    Group(
        "a namespace of one's own, above all of users, opens most of what has let containers out of their wall",
        "clone",
        EPERM,
        ("SYS_ADMIN",),
        exceptions=(Case((_is(0, 0, NAMESPACES),), ALLOW),),
    ),
    hidden("its flags lie in memory, where no filter sees them; the C library then uses clone", "clone3", "SYS_ADMIN"),
    # Opened by a capability.
    needs(
        "SYS_ADMIN",
        reason="mounts and namespaces: as clone",
        calls="fsconfig fsmount fsopen fspick mount mount_setattr move_mount open_tree open_tree_attr pivot_root setns "
        "umount umount2 unshare",
    ),
    needs(
        "SYS_ADMIN",
        reason="the administrator's: names of the machine, quotas, watching all files of a mount",
        calls="fanotify_init lookup_dcookie quotactl quotactl_fd setdomainname sethostname",
    ),
    needs("SYS_ADMIN", "BPF", reason="programs in the kernel", calls="bpf"),
    needs("SYS_ADMIN", "PERFMON", reason="samples the whole machine; a large surface", calls="perf_event_open"),
    needs("SYS_ADMIN", "SYSLOG", reason="the machine's kernel log, with addresses", calls="syslog"),
    needs("DAC_READ_SEARCH", reason="opens files outside the container by guessed numbers", calls="open_by_handle_at"),
    needs("SYS_BOOT", reason="ends the machine, or the container's processes", calls="reboot"),
    needs("SYS_CHROOT", reason="changes what paths mean to setuid programs", calls="chroot"),
    needs("SYS_MODULE", reason="code into the kernel", calls="delete_module finit_module init_module"),
    needs("SYS_PACCT", reason="writes down every process that ends", calls="acct"),
    needs("SYS_PTRACE", reason="reaches into other processes", calls="kcmp pidfd_getfd process_madvise"),
    needs("SYS_RAWIO", reason="the machine's I/O ports", calls="ioperm iopl"),
    needs("SYS_TIME", reason="the machine's clock", calls="clock_settime clock_settime64 settimeofday stime"),
    needs("SYS_TTY_CONFIG", reason="hangs up the terminal of others", calls="vhangup"),
    needs("SYS_NICE", reason="where memory lies, also of others", calls="get_mempolicy mbind set_mempolicy"),
    hidden("as get_mempolicy; newer", "set_mempolicy_home_node", "SYS_NICE"),
    hidden("about the machine's security modules", "lsm_get_self_attr lsm_list_modules lsm_set_self_attr", "SYS_ADMIN"),
    # Refused always.
    refused(
        "keys belong to a user of the machine, not to a container: by its number a key of the notebook's user is read",
        "add_key keyctl request_key",
    ),
    refused("another kernel", "kexec_file_load kexec_load"),
    refused("the machine's memory: swap, and where others' pages lie", "migrate_pages move_pages swapoff swapon"),
    refused("holds the kernel up in the middle of a copy: what makes its races easy to win", "userfaultfd"),
    refused("shares pages between processes and the kernel; many faults, few users", "vmsplice"),
    refused("lists file systems and devices of the machine", "sysfs ustat"),
    refused("16-bit code in the kernel's care", "vm86 vm86old"),
    # Missing, to those who ask.
    hidden(
        "a second way to do most calls, which no filter sees; the largest source of faults of late",
        "io_uring_enter io_uring_register io_uring_setup",
    ),
    hidden("lists mounts past what /proc shows", "listmount statmount"),
    hidden(
        "newer forms of what is allowed; programs do without",
        "cachestat file_getattr file_setattr futex_requeue futex_wait futex_waitv futex_wake getxattrat io_pgetevents "
        "io_pgetevents_time64 listxattrat map_shadow_stack mseal removexattrat setxattrat",
    ),
    hidden(
        "forms that 32-bit programs of the last century call",
        "bdflush get_tls nice oldfstat oldlstat oldolduname oldstat olduname pciconfig_iobase pciconfig_read "
        "pciconfig_write readdir sgetmask sigaction sigpending sigsuspend ssetmask uselib usr26 usr32",
    ),
    hidden(
        "numbers without a call: none of today's kernels has them",
        "_sysctl afs_syscall break create_module epoll_ctl_old epoll_wait_old ftime get_kernel_syms getpmsg gtty idle "
        "lock mpx nfsservctl prof profil putpmsg query_module security stty tuxcall ulimit vserver",
    ),
)  # fmt: skip

# Allowed here and not by podman's profile, or not by Docker's, with why.
BEYOND_PODMAN = {
    "uprobe": "their list is older than the call; a program that root traces is ended without it",
    "uretprobe": "as uprobe",
}
BEYOND_DOCKER = {
    "signal": "podman's has it, and a program may set its own handlers in the old way as in the new",
    "uprobe": "as for podman's",
}


def _rules(group: Group) -> list[Rule]:
    calls = tuple(group.calls.split())
    rules = [Rule(calls, ALLOW, needs=frozenset({name})) for name in group.opened_by]
    rules += [Rule(calls, case.answer, case.conditions, unless=frozenset(case.unless)) for case in group.exceptions]
    return [*rules, Rule(calls, group.answer)]


PROFILE = Profile("default", ENOSYS, tuple(rule for group in GROUPS for rule in _rules(group)))
