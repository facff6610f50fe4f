# SPDX-License-Identifier: MIT
"""`python -m tests.integration.refusing ERRNO ARG…`: procwatchd whom the kernel refuses bpf(2) and generic netlink.

As other kernels, a lockdown, or a security module would.
"""

from __future__ import annotations

import ctypes
import os
import socket
import struct
import sys

from procwatchd.daemon import main

_NETLINK_GENERIC = 16
# bpf, socket
_CALLS = {"x86_64": (321, 41), "aarch64": (280, 198)}

# struct sock_filter { u16 code; u8 jt, jf; u32 k; }; struct seccomp_data { int nr; u32 arch; u64 ip, args[6]; }
_INSTRUCTION = struct.Struct("=HBBI")
_LOAD, _EQUAL, _RETURN = 0x20, 0x15, 0x06
_NUMBER, _FIRST, _THIRD = 0, 16, 32
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS, _MODE_FILTER = 22, 38, 2


def refuse(errno: int) -> None:
    """Let both fail so, for this process."""
    bpf, open_socket = _CALLS[os.uname().machine]
    program = [
        (_LOAD, 0, 0, _NUMBER),
        (_EQUAL, 5, 0, bpf),
        (_EQUAL, 0, 5, open_socket),
        (_LOAD, 0, 0, _FIRST),
        (_EQUAL, 0, 3, socket.AF_NETLINK),
        (_LOAD, 0, 0, _THIRD),
        (_EQUAL, 0, 1, _NETLINK_GENERIC),
        (_RETURN, 0, 0, _ERRNO | errno),
        (_RETURN, 0, 0, _ALLOW),
    ]
    code = ctypes.create_string_buffer(b"".join(_INSTRUCTION.pack(*one) for one in program))
    # struct sock_fprog { unsigned short len; struct sock_filter *filter; }
    whole = struct.pack("@HP", len(program), ctypes.addressof(code))
    libc = ctypes.CDLL(None, use_errno=True)
    for arguments in ((_PR_SET_NO_NEW_PRIVS, 1, 0), (_PR_SET_SECCOMP, _MODE_FILTER, whole)):
        if libc.prctl(*arguments, 0, 0):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


if __name__ == "__main__":
    refuse(int(sys.argv[1]))
    sys.exit(main(sys.argv[2:]))
