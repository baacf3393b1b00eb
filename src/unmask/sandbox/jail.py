"""Layers of the Linux kernel that shut a process in. Every one that the machine offers is applied.

Each process has its own. The kernel's documentation of them: user_namespaces(7), mount_namespaces(7), landlock(7),
seccomp(2), capabilities(7).
"""

# Each program starts an interpreter; importing pathlib would take a third of that time.
# ruff: noqa: PTH102, PTH103, PTH112, PTH120, PTH123, PTH208
from __future__ import annotations

import ctypes
import os
import resource
import signal
import struct
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from typing import Any

LAYERS = ("namespaces", "nobody", "landlock", "seccomp")
"""
namespaces: an own root of read-only folders and a small one to write in; no network, no sight of other processes.
nobody: the user 65534, if root.
landlock: no file but the readable folders, no writing but in that one.
seccomp: no processes, no programs, no sockets, no signals, no system administration.
"""
FOLDER = "/box"
NOBODY = 65534

_libc = ctypes.CDLL(None, use_errno=True)

_CLONE_NEWNS, _CLONE_NEWUTS, _CLONE_NEWIPC = 0x20000, 0x4000000, 0x8000000
_CLONE_NEWUSER, _CLONE_NEWPID, _CLONE_NEWNET, _CLONE_THREAD = 0x10000000, 0x20000000, 0x40000000, 0x10000
_MS_BIND, _MS_REC, _MS_PRIVATE, _MS_NO_SUID_NO_DEVICES, _MNT_DETACH = 0x1000, 0x4000, 0x40000, 6, 2
_SYS_MOUNT_SETATTR, _AT_RECURSIVE, _READ_ONLY_NO_SUID = 442, 0x8000, 3
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS = 1, 4, 38

_SYS_LANDLOCK = 444
_READ, _READ_FOLDER, _WRITE = 1 << 2, 1 << 3, 1 << 1
_MAKE_SPECIAL = 1 << 6 | 1 << 9 | 1 << 11  # character devices, sockets, block devices
_FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}  # bits by version of Landlock

_ERRNO, _ALLOW, _EPERM, _ENOSYS = 0x50000, 0x7FFF0000, 1, 38
# Beside what a program needs no kernel for: what starts, signals or reads processes, opens sockets, changes the system,
# leaves something behind, or that Landlock cannot refuse.
_REFUSED = """
fork vfork execve execveat kill tkill tgkill rt_sigqueueinfo rt_tgsigqueueinfo pidfd_open pidfd_send_signal pidfd_getfd
setsid setpgid ptrace process_vm_readv process_vm_writev process_madvise process_mrelease kcmp
socket connect accept accept4 bind listen
mount umount2 pivot_root chroot unshare setns open_tree move_mount fsopen fsconfig fsmount fspick mount_setattr
bpf keyctl add_key request_key io_uring_setup io_uring_enter io_uring_register perf_event_open userfaultfd memfd_create
memfd_secret shmget shmat msgget semget mq_open fanotify_init name_to_handle_at open_by_handle_at personality
quotactl quotactl_fd acct swapon swapoff reboot init_module finit_module delete_module kexec_load kexec_file_load
settimeofday clock_settime clock_adjtime adjtimex syslog vhangup iopl ioperm sync syncfs
mbind migrate_pages move_pages set_mempolicy setpriority ioprio_set inotify_init inotify_init1
sched_setscheduler sched_setparam sched_setattr sched_setaffinity
flock truncate chmod fchmod fchmodat fchmodat2 chown fchown lchown fchownat utime utimes futimesat utimensat
setxattr lsetxattr fsetxattr setxattrat removexattr lremovexattr fremovexattr removexattrat file_setattr
open_tree_attr
"""
_NEW = {"fchmodat2": 452, "setxattrat": 463, "removexattrat": 466, "open_tree_attr": 467, "file_setattr": 469}
"""Numbers, the same everywhere, of calls that an older library does not know."""


class JailError(Exception):
    """A layer could not be applied."""


class _Comparison(ctypes.Structure):
    """libseccomp's `scmp_arg_cmp`."""

    _fields_ = (
        ("arg", ctypes.c_uint),
        ("op", ctypes.c_int),
        ("datum_a", ctypes.c_uint64),
        ("datum_b", ctypes.c_uint64),
    )


_NOT_EQUAL, _MASKED_EQUAL, _UNKNOWN_SYSCALL = 1, 7, -1
_SIGNALLING, _OWNERSHIP = (8, 10, 15, 1024, 1026), (0x8901, 0x8902)  # whom the kernel signals of a file
_AF_UNIX, _SOCK_DGRAM, _SOCK_RAW = 1, 2, 3


def _call(name: str, *args: Any, library: ctypes.CDLL = _libc) -> int:
    typed = [ctypes.c_long(arg) if isinstance(arg, int) else arg for arg in args]
    result: int = getattr(library, name)(*typed)
    if result < 0:
        raise JailError(f"{name}: {os.strerror(ctypes.get_errno())}")
    return result


def die_with_parent() -> None:
    """Have the kernel kill this process when the one that started it ends."""
    _call("prctl", _PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def start(
    run: Callable[[int], object],
    layers: Collection[str],
    readable: Iterable[str],
    limits: Mapping[str, int],
    keep: Collection[int],
    output: int,
    report: int,
) -> int:
    """Fork a process that shuts itself in and then runs a function.

    Args:
        run: what to run, given the report.
        layers: from `LAYERS`.
        readable: folders and files that may be read.
        limits: see `unmask.sandbox.Limits`.
        keep: file descriptors that the function needs.
        output: a file descriptor for what it prints.
        report: a file descriptor for lines: ``inner`` and the number of the process that runs the function; ``jail``
            and why, if a layer could not be applied; ``inside`` before the function runs.

    Returns:
        The number of a process that waits for it. Its exit status is that of the function's, or 128 + its signal.
    """
    parent = os.getpid()
    outer = os.fork()
    if outer:
        return outer
    status = 70
    try:
        try:
            opened = [int(name) for name in os.listdir("/proc/self/fd")]  # whatever their numbers
            die_with_parent()
            if os.getppid() != parent:
                raise JailError("the process that started it has ended")
            others = set(opened) - {*keep, report, output}
            inner = _fork_shut_in(layers, list(readable), limits, others, output)
        except (JailError, OSError) as e:
            os.write(report, f"jail\t{e}\n".encode())
            os._exit(status)
        if inner:
            os.write(report, f"inner\t{inner}\n".encode())
            _close(opened)
            code = os.waitstatus_to_exitcode(os.waitpid(inner, 0)[1])
            status = code if code >= 0 else 128 - code
        else:
            os.write(report, b"inside\t\n")
            run(report)
            status = 0
    finally:
        os._exit(status)


def _fork_shut_in(
    layers: Collection[str], readable: list[str], limits: Mapping[str, int], others: Collection[int], output: int
) -> int:
    os.umask(0o022)
    with open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")  # when memory runs out, not the training
    if "namespaces" in layers:
        _unshare()
    inner = os.fork()  # the first process in its own process namespace: all others end with it
    if inner == 0:
        die_with_parent()
        _shut_in(layers, readable, limits, others, output)
    return inner


def _unshare() -> None:
    flags = _CLONE_NEWPID | _CLONE_NEWNET | _CLONE_NEWIPC | _CLONE_NEWUTS | _CLONE_NEWNS
    user, group = os.geteuid(), os.getegid()
    try:
        _call("unshare", flags)
        return
    except JailError:  # not root, or in a container
        _call("unshare", flags | _CLONE_NEWUSER)
    for name, text in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)


def _shut_in(
    layers: Collection[str], readable: list[str], limits: Mapping[str, int], others: Collection[int], output: int
) -> None:
    null = os.open("/dev/null", os.O_RDWR)
    for fd, source in enumerate((null, output, output)):
        os.dup2(source, fd)
    _close([*others, null, output])
    namespaces = "namespaces" in layers
    if namespaces:
        _own_root(readable, limits["file_size"])
    os.chdir(FOLDER if namespaces else "/")
    os.environ.update(HOME=FOLDER, TMPDIR=FOLDER)
    if "nobody" in layers:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
        if namespaces:
            _call("unshare", _CLONE_NEWUSER)  # so that only its own threads count against its limit
    _call("capset", struct.pack("=Ii", 0x20080522, 0), bytes(24))
    _limit(limits, count_processes=namespaces or "nobody" in layers)
    _call("prctl", _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    _call("prctl", _PR_SET_DUMPABLE, 0, 0, 0, 0)
    die_with_parent()  # again: a change of user cancels it
    if "landlock" in layers:
        _landlock(readable, [FOLDER] if namespaces else [])
    if "seccomp" in layers:
        _seccomp()


def _close(fds: Iterable[int]) -> None:
    for fd in {*fds} - {0, 1, 2}:
        with suppress(OSError):  # of the listing itself
            os.close(fd)


def _own_root(readable: Iterable[str], size: int) -> None:
    """Move to a root in memory with the readable paths bound read-only, and a folder of `size` bytes to write in."""
    root = "/sys"  # any folder would do; nothing in this one is needed
    _call("mount", None, b"/", None, _MS_REC | _MS_PRIVATE, None)
    _call("mount", b"tmpfs", root.encode(), b"tmpfs", 0, b"size=1m,mode=755")
    for path in (*readable, "/dev/null", "/dev/urandom"):
        target = root + path
        if os.path.isdir(path):
            os.makedirs(target, exist_ok=True)
        else:
            os.makedirs(os.path.dirname(target), exist_ok=True)
            os.close(os.open(target, os.O_CREAT | os.O_WRONLY))
        _call("mount", path.encode(), target.encode(), None, _MS_BIND | _MS_REC, None)
    os.mkdir(root + FOLDER)
    read_only = struct.pack("=QQQQ", _READ_ONLY_NO_SUID, 0, 0, 0)
    _call("syscall", _SYS_MOUNT_SETATTR, -1, root.encode(), _AT_RECURSIVE, read_only, len(read_only))
    options = f"size={size},nr_inodes=1k,mode=777"
    _call("mount", b"tmpfs", (root + FOLDER).encode(), b"tmpfs", _MS_NO_SUID_NO_DEVICES, options.encode())
    os.chdir(root)
    _call("pivot_root", b".", b".")
    _call("umount2", b".", _MNT_DETACH)


def _limit(limits: Mapping[str, int], count_processes: bool) -> None:
    wanted = {
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_CPU: limits["cpu_seconds"],
        resource.RLIMIT_AS: limits["memory"],
        resource.RLIMIT_FSIZE: limits["file_size"],
        resource.RLIMIT_NOFILE: limits["open_files"],
        resource.RLIMIT_STACK: 2**23,
    }
    if count_processes:
        wanted[resource.RLIMIT_NPROC] = limits["processes"]
    for name, most in wanted.items():
        hard = resource.getrlimit(name)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(name, (most, most))


def _landlock(readable: Iterable[str], writable: Iterable[str]) -> None:
    version = _call("syscall", _SYS_LANDLOCK, None, 0, 1)
    rights = (1 << _FILE_RIGHTS[min(version, max(_FILE_RIGHTS))]) - 1
    network, signals = (3 if version >= 4 else 0), (3 if version >= 6 else 0)
    attributes = struct.pack("=QQQ", rights, network, signals)[: 8 if version < 4 else 16 if version < 6 else 24]
    rules = _call("syscall", _SYS_LANDLOCK, attributes, len(attributes), 0)
    allowed = [(path, _READ | _READ_FOLDER) for path in readable] + [
        ("/dev/null", _READ | _WRITE),
        ("/dev/urandom", _READ),
    ]
    for path, right in allowed + [(path, rights & ~_MAKE_SPECIAL) for path in writable]:
        fd = os.open(path, os.O_PATH)
        right &= rights if os.path.isdir(path) else ~_READ_FOLDER
        _call("syscall", _SYS_LANDLOCK + 1, rules, 1, struct.pack("=Qi", right, fd), 0)
        os.close(fd)
    _call("syscall", _SYS_LANDLOCK + 2, rules, 0)
    os.close(rules)


def _seccomp() -> None:
    try:
        library = ctypes.CDLL("libseccomp.so.2", use_errno=True)
    except OSError:
        raise JailError("libseccomp.so.2 is not installed") from None
    library.seccomp_init.restype = ctypes.c_void_p
    context = ctypes.c_void_p(library.seccomp_init(ctypes.c_uint32(_ALLOW)))

    def refuse(name: str, *conditions: tuple[int, int, int, int], error: int = _EPERM) -> None:
        number: int = library.seccomp_syscall_resolve_name(name.encode())
        if number == _UNKNOWN_SYSCALL:
            number = _NEW.get(name, number)
        if number != _UNKNOWN_SYSCALL:  # of this architecture, to this version of the library
            array = (_Comparison * len(conditions))(*(_Comparison(*condition) for condition in conditions))
            _call("seccomp_rule_add_array", context, _ERRNO | error, number, len(conditions), array, library=library)

    for name in _REFUSED.split():
        refuse(name)
    refuse("clone3", error=_ENOSYS)  # for threads, the C library then calls clone, whose flags a filter can read
    refuse("clone", (0, _MASKED_EQUAL, _CLONE_THREAD, 0))
    refuse("prlimit64", (0, _NOT_EQUAL, 0, 0))  # of other processes
    low = 0xFFFFFFFF  # of the register the kernel looks at no more
    refuse("prctl", (0, _MASKED_EQUAL, low, _PR_SET_PDEATHSIG))
    for command in _SIGNALLING:
        refuse("fcntl", (1, _MASKED_EQUAL, low, command))
    for request in _OWNERSHIP:
        refuse("ioctl", (1, _MASKED_EQUAL, low, request))
    refuse("socketpair", (0, _NOT_EQUAL, _AF_UNIX, 0))  # asyncio needs one; datagrams could be sent elsewhere
    for kind in (_SOCK_DGRAM, _SOCK_RAW):
        refuse("socketpair", (1, _MASKED_EQUAL, 0xF, kind))
    _call("seccomp_load", context, library=library)
