"""Command -> the same command behind some of what a systemd unit forbids, without systemd.

    python tests/support/fenced.py '{"memory": true, "powerless": true}' COMMAND ARGUMENT...

It is a process of its own, since none of this can be taken back. The filters are libseccomp's, which systemd
builds them with as well.
"""

import ctypes
import errno
import json
import os
import sys
from collections.abc import Sequence
from typing import TypedDict

__all__ = ["SECCOMP", "Fence"]

SECCOMP = "libseccomp.so.2"

# linux/prctl.h (read 2026-12).
_PR_SET_NO_NEW_PRIVS = 38
_PR_CAPBSET_DROP = 24
_PR_SET_MDWE = 65
_PR_MDWE_REFUSE_EXEC_GAIN = 1

# linux/capability.h (read 2026-12): the set has 64 bits, of which Linux 5.9 uses the first 41.
_CAPABILITIES = 64
_CAPABILITIES_OF_5_9 = 41

# seccomp.h of libseccomp 2.5 (read 2026-12): actions, one of them with an errno, and a comparison.
_ALLOW = 0x7FFF0000
_ERRNO = 0x00050000
_COMPARE_EQUAL = 4
# linux/socket.h: families are numbered up to here.
_FAMILIES = 64


class Fence(TypedDict, total=False):
    """What is forbidden.

    Attributes:
        memory: to gain memory that can be executed, as by MemoryDenyWriteExecute.
        powerless: every capability, and to get one again, as by CapabilityBoundingSet. What then is left of
            root is a user who owns root's files.
        calls: the system calls that are left; all others are answered with EPERM, as by SystemCallFilter.
        families: the numbers of the address families that are left, as by RestrictAddressFamilies.
    """

    memory: bool
    powerless: bool
    calls: list[str]
    families: list[int]


class _Comparison(ctypes.Structure):
    _fields_ = (
        ("argument", ctypes.c_uint),
        ("operator", ctypes.c_int),
        ("first", ctypes.c_uint64),
        ("second", ctypes.c_uint64),
    )


def _deny_writable_code() -> bool:
    """Deny this process to make memory executable that was not; False before Linux 6.3, which cannot."""
    return _control(_PR_SET_MDWE, _PR_MDWE_REFUSE_EXEC_GAIN) == 0


def main(arguments: list[str]) -> None:
    """Set the fence up, and become the command."""
    fence: Fence = json.loads(arguments[0])
    _require(_control(_PR_SET_NO_NEW_PRIVS, 1) == 0, "no_new_privs")
    if fence.get("powerless") and os.geteuid() == 0:
        _drop_capabilities()
    if fence.get("memory"):
        _require(_deny_writable_code(), "MDWE")
    if "families" in fence:
        _leave_families(fence["families"])
    if "calls" in fence:
        _leave_calls(fence["calls"])
    os.execv(arguments[1], arguments[1:])  # noqa: S606 - it becomes the command


def _control(option: int, value: int) -> int:
    return int(ctypes.CDLL(None).prctl(option, *map(ctypes.c_ulong, (value, 0, 0, 0))))


def _drop_capabilities() -> None:
    """Empty the set that exec gives root its capabilities from; the command begins with none."""
    for number in range(_CAPABILITIES):
        # One that this kernel does not know is none.
        _require(
            _control(_PR_CAPBSET_DROP, number) == 0 or number >= _CAPABILITIES_OF_5_9, f"capability {number}"
        )


def _leave_calls(names: Sequence[str]) -> None:
    library, context = _open(_ERRNO | errno.EPERM)
    for name in names:
        number = library.seccomp_syscall_resolve_name(name.encode())
        # Names of other machines, and of kernels that libseccomp does not know, have none.
        if number >= 0:
            _require(library.seccomp_rule_add_array(context, _ALLOW, number, 0, None) == 0, name)
    _require(library.seccomp_load(context) == 0, "the filter of system calls")


def _leave_families(families: Sequence[int]) -> None:
    library, context = _open(_ALLOW)
    number = library.seccomp_syscall_resolve_name(b"socket")
    for family in sorted(set(range(_FAMILIES)) - set(families)):
        comparison = _Comparison(0, _COMPARE_EQUAL, family, 0)
        added = library.seccomp_rule_add_array(
            context, _ERRNO | errno.EAFNOSUPPORT, number, 1, ctypes.byref(comparison)
        )
        _require(added == 0, f"family {family}")
    _require(library.seccomp_load(context) == 0, "the filter of address families")


def _open(default: int) -> tuple[ctypes.CDLL, ctypes.c_void_p]:
    library = ctypes.CDLL(SECCOMP)
    library.seccomp_init.restype = ctypes.c_void_p
    library.seccomp_init.argtypes = [ctypes.c_uint32]
    library.seccomp_load.argtypes = [ctypes.c_void_p]
    library.seccomp_rule_add_array.argtypes = [
        ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int, ctypes.c_uint, ctypes.c_void_p
    ]  # fmt: skip
    context = ctypes.c_void_p(library.seccomp_init(default))
    _require(bool(context), "seccomp_init")
    return library, context


def _require(is_done: bool, what: str) -> None:
    if not is_done:
        sys.exit(f"could not be set: {what}")


if __name__ == "__main__":
    main(sys.argv[1:])
