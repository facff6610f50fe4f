# SPDX-License-Identifier: MIT
"""The socket of the kernel's accounting: open, register, prove it, receive in bulk.

Facts:
- The generic netlink family TASKSTATS sends one message per task (thread) that ends, to whoever registered for the
  CPU it ends on, before the EXIT of the proc connector [kernel/taskstats.c, taskstats_exit(); kernel/exit.c].
- Any number of sockets may register. It takes CAP_NET_ADMIN (else EPERM) and the initial user and PID namespaces (else
  EINVAL). From another network namespace it succeeds, but the messages go to whoever has the port in the initial one
  [add_del_listener(), send_cpu_listeners()]: only a message proves a registration.
- A socket that was closed stays registered for a CPU until a task ends there, and whoever has its port by then gets
  that message: `close` takes the registration back.
- The answer to a request is in the socket when send(2) returns, or was dropped for want of room; it alone is addressed
  to the socket's port [net/netlink/af_netlink.c, netlink_unicast_kernel(); genetlink.c].
- The kernel pads each message to a multiple of 4 [nlmsg_put()]; the longest of Linux 6.18 has 1172 bytes.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import struct
import threading

from procwatchd.errors import DeniedError, KernelError
from procwatchd.kernel import filter as kernel_filter
from procwatchd.kernel import netlink, taskstats
from procwatchd.kernel.marks import Marks

RECEIVE_BUFFER_BYTES = 64 << 20
PROOF_SECONDS = 2.0
# What one recvmmsg takes, and the room for each message.
BULK = 256
SLOT_BYTES = 2048
_ANSWER_BYTES = 1 << 16

_NETLINK_GENERIC = 16
_GENL_ID_CTRL = 0x10
_CTRL_CMD_GETFAMILY = 3
_CTRL_ATTR_FAMILY_ID = 1
_CTRL_ATTR_FAMILY_NAME = 2

_NLMSG_ERROR = 2
_NLM_F_ACK = 0x4

# struct nlmsghdr { u32 len; u16 type; u16 flags; u32 seq; u32 pid; }, then the errno of an NLMSG_ERROR, negative
_ANSWER = struct.Struct("=4x H 6x I i")
_FAMILY_ID = struct.Struct("=H")
_PID = struct.Struct("=I")


class MessageReceiver:
    """Takes many messages a call from a netlink socket, without waiting. One thread uses it.

    `foreign` counts what others than the kernel sent, `odd` what was too long for a slot.
    """

    def __init__(self, fileno: int) -> None:
        self.foreign = 0
        self.odd = 0
        self._slots = netlink.Slots(fileno, BULK, SLOT_BYTES)

    def receive(self) -> tuple[bytes, int] | None:
        """The kernel's messages end to end, and their number; None where the socket has nothing.

        It may be none of them, where all that came was counted as foreign or odd.
        """
        slots = self._slots
        count = slots.receive()
        if count == 0:
            return None
        lengths = slots.lengths[:count].tolist()
        if not slots.are_from_kernel(count) or any(slots.flags[:count].tolist()):
            return self._sort_out(lengths)
        data, starts = slots.data, range(0, count * SLOT_BYTES, SLOT_BYTES)
        messages = [data[start : start + length] for start, length in zip(starts, lengths, strict=True)]
        return b"".join(messages), count

    def _sort_out(self, lengths: list[int]) -> tuple[bytes, int]:
        """Keep the kernel's whole messages, count the others."""
        slots = self._slots
        kept: list[memoryview] = []
        for n, length in enumerate(lengths):
            if not slots.is_from_kernel(n):
                self.foreign += 1
            elif slots.flags[n] & socket.MSG_TRUNC:
                self.odd += 1
            else:
                kept.append(slots.data[n * SLOT_BYTES : n * SLOT_BYTES + length])
        return b"".join(kept), len(kept)


class Accounting:
    """A socket registered for the end of every task on every CPU. One thread uses it.

    `receive_buffer_bytes` is what was granted. The first records are of a thread of our own, and whatever else ended
    since it was registered. `kept` is the descriptor of a socket that was registered before us, whose drops were told
    of up to what `marks` say: its first records are the next ones.

    Raises KernelError where the kernel, or this place in it, has no such accounting; DeniedError where it refuses.
    """

    def __init__(
        self,
        receive_buffer_bytes: int = RECEIVE_BUFFER_BYTES,
        *,
        kept: int | None = None,
        marks: Marks | None = None,
    ) -> None:
        self.is_kept = kept is not None
        counters = (Marks.RECORDS_LOST, Marks.QUEUE_RECORDS)
        self._told = (marks or Marks()).told(*counters, is_kept=self.is_kept)[0]
        self._cpus = _possible_cpus()
        self._family = 0
        # What a socket that was kept has is not to be mixed with answers.
        self._asking = self._socket = _open_socket()
        if kept is not None:
            self._socket = socket.socket(fileno=kept)
        try:
            self.receive_buffer_bytes = netlink.grow_buffer(self._socket, receive_buffer_bytes)
            self._family = self._find_family()
            self._check_layout()
            if not self.is_kept:
                self._register()
                self._prove()
        except BaseException:
            self.close(stays=self.is_kept)
            raise
        finally:
            if self.is_kept:
                self._asking.close()
        self._receiver = MessageReceiver(self._socket.fileno())

    def fileno(self) -> int:
        """The socket, to wait on."""
        return self._socket.fileno()

    def narrow(self, needs: kernel_filter.Needs) -> None:
        """Have the kernel reject the records that are not needed, from now on; from any thread. Raises KernelError."""
        kernel_filter.attach(self._socket, kernel_filter.records_program(self._family, needs))

    def receive(self) -> tuple[bytes, int] | None:
        """What is there, in bulk and without waiting: messages for `decode`, and their number; None: nothing."""
        return self._receiver.receive()

    def drops(self) -> int:
        """How many messages the socket had no room for, without those told of by others before us (32 bits)."""
        return netlink.drops(self._socket) - self._told

    def close(self, *, stays: bool = False) -> None:
        """Take the registration back, but where it `stays` for others, and close the socket."""
        if self._family and not stays:
            # Without it the kernel would find out too, one CPU after the other.
            with contextlib.suppress(OSError):
                self._socket.send(self._request(taskstats.CMD_ATTR_DEREGISTER_CPUMASK, self._cpus))
        self._socket.close()

    def _find_family(self) -> int:
        name = b"TASKSTATS\0"
        answer = self._ask(
            taskstats.encode_request(_GENL_ID_CTRL, _CTRL_CMD_GETFAMILY, _CTRL_ATTR_FAMILY_NAME, name)
        )
        at, _end = taskstats.find_attribute(answer, taskstats.HEAD_BYTES, len(answer), _CTRL_ATTR_FAMILY_ID)
        if not at:
            raise KernelError(_OTHER_LAYOUT)
        return int(_FAMILY_ID.unpack_from(answer, at)[0])

    def _check_layout(self) -> None:
        """Ask for the statistics of this process, which come as those of a task that ended would."""
        pid = os.getpid()
        ends, _malformed = taskstats.decode(self._ask(self._request(taskstats.CMD_ATTR_PID, _PID.pack(pid))))
        if [end.tid for end in ends] != [pid]:
            raise KernelError(_OTHER_LAYOUT)

    def _register(self) -> None:
        self._ask(self._request(taskstats.CMD_ATTR_REGISTER_CPUMASK, self._cpus, flags=_NLM_F_ACK))

    def _prove(self) -> None:
        """Have a thread end, and wait until the socket has a record, whosesoever."""
        thread = threading.Thread(target=lambda: None)
        thread.start()
        thread.join()
        poller = select.poll()
        poller.register(self._socket, select.POLLIN)
        if not poller.poll(PROOF_SECONDS * 1000):
            raise KernelError(_OTHER_NETWORK)

    def _request(self, kind: int, payload: bytes, *, flags: int = 0) -> bytes:
        return taskstats.encode_request(self._family, taskstats.CMD_GET, kind, payload, flags=flags)

    def _ask(self, request: bytes) -> bytes:
        """Send a request; gives the answer, or the ACK. Records that came before it are left out.

        Raises KernelError or DeniedError where the kernel refuses.
        """
        try:
            self._asking.send(request)
            port = self._asking.getsockname()[0]
            while True:
                message = self._asking.recv(_ANSWER_BYTES, socket.MSG_DONTWAIT)
                kind, to, error = _ANSWER.unpack_from(message)
                if to == port:
                    break
        except OSError as failure:
            raise KernelError(
                f"the kernel does not answer on task accounting: {failure.strerror}"
            ) from failure
        if kind != _NLMSG_ERROR or error == 0:
            return message
        if -error in (errno.EPERM, errno.EACCES):
            raise DeniedError(_DENIED)
        raise KernelError(_REFUSALS.get(-error, f"the kernel refuses task accounting: {os.strerror(-error)}"))


_DENIED = "no permission for task accounting: run as root, or with CAP_NET_ADMIN in the initial namespaces"
_REFUSALS = {
    errno.ENOENT: "this kernel has no task accounting (CONFIG_TASKSTATS; no generic netlink family TASKSTATS)",
    errno.EINVAL: (
        "the kernel sends task accounting to the initial user and PID namespaces only: run it on the host, not in a "
        "container"
    ),
}
_OTHER_NETWORK = (
    "the kernel sends task accounting to the initial network namespace only: run it on the host, not in a container, "
    "and without PrivateNetwork="
)
_OTHER_LAYOUT = (
    "the task accounting of this kernel is laid out in a way that is not understood: it takes Linux 5.19 or later, "
    "other than 6.14 and 6.15"
)


def _open_socket() -> socket.socket:
    try:
        return netlink.open_socket(_NETLINK_GENERIC)
    except OSError as error:
        raise KernelError(f"cannot open a socket for task accounting: {error.strerror}") from error


def _possible_cpus() -> bytes:
    """All CPUs there may ever be, as the kernel wants them: `0-7` and a NUL. Raises KernelError."""
    try:
        with open("/sys/devices/system/cpu/possible", "rb") as file:
            return file.read().strip() + b"\0"
    except OSError as error:
        raise KernelError(f"cannot tell which CPUs there are: {error.filename}: {error.strerror}") from error
