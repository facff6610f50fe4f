# SPDX-License-Identifier: MIT
"""The accounting of ended tasks on the real kernel."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from procwatchd.errors import KernelError
from procwatchd.kernel import taskstats, wire
from procwatchd.kernel.accounting import BULK, RECEIVE_BUFFER_BYTES, Accounting, MessageReceiver
from procwatchd.kernel.connector import Connector
from procwatchd.kernel.taskstats import CORE_DUMPED, FORKED_ONLY, LAST, SIGNALED, TaskEnd
from tests.integration.actor import Actor

NETLINK_GENERIC = 16
SOL_NETLINK = 270
NETLINK_NO_ENOBUFS = 5
GENL_ID_CTRL = 0x10
CTRL_CMD_GETFAMILY = 3
CTRL_ATTR_FAMILY_NAME = 2


@pytest.fixture
def accounting() -> Iterator[Accounting]:
    accounting = Accounting()
    yield accounting
    accounting.close()


def everything(accounting: Accounting) -> list[TaskEnd]:
    """What the socket has, in order."""
    found: list[TaskEnd] = []
    while (received := accounting.receive()) is not None:
        messages, number = received
        ends, malformed = taskstats.decode(messages)
        assert (len(ends), malformed) == (number, 0)
        found += ends
    return found


def ends_of(accounting: Accounting, pid: int) -> list[TaskEnd]:
    """What came of the tasks of a process of ours that was reaped, up to its LAST.

    Others may have used the PID shortly before: theirs are not our children.
    """
    ours = [end for end in everything(accounting) if (end.tgid, end.ppid) == (pid, os.getpid())]
    assert [end for end in ours if end.flags & LAST] == ours[-1:]
    return ours


def run(*command: str | bytes, **options: str | Path) -> tuple[int, int]:
    """PID and wait status of a program that was run."""
    process = subprocess.Popen(command, **options)  # type: ignore[call-overload]
    pid, status = os.waitpid(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return pid, status


def await_end(accounting: Accounting, wanted: Callable[[TaskEnd], bool]) -> TaskEnd:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        select.select([accounting], [], [], 1)
        for end in everything(accounting):
            if wanted(end):
                return end
    raise AssertionError("no such end came")


@pytest.mark.parametrize("code", [0, 1, 7, 255])
def test_exit_codes_are_those_of_waitpid(accounting: Accounting, steps: str, code: int) -> None:
    pid, status = run(steps, "exit", str(code))
    [end] = ends_of(accounting, pid)
    assert (end.tid, end.tgid, end.ppid) == (pid, pid, os.getpid())
    assert end.status == status == code << 8
    assert end.flags & (LAST | SIGNALED | CORE_DUMPED | FORKED_ONLY) == LAST
    assert end.group_cpu_ns is None


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGUSR1, signal.SIGRTMAX])
def test_signals_are_those_of_waitpid(accounting: Accounting, steps: str, number: int) -> None:
    pid, status = run(steps, "signal", str(int(number)))
    [end] = ends_of(accounting, pid)
    assert end.status == status == number
    assert end.flags & (LAST | SIGNALED | CORE_DUMPED) == LAST | SIGNALED


def test_core_dumps_are_in_the_status(accounting: Accounting, steps: str, tmp_path: Path) -> None:
    pid, status = run(steps, "core", "signal", "11", cwd=tmp_path)
    [end] = ends_of(accounting, pid)
    assert end.status == status
    assert os.WCOREDUMP(status)
    assert end.flags & (LAST | SIGNALED | CORE_DUMPED) == LAST | SIGNALED | CORE_DUMPED
    pid, status = run(steps, "no-core", "signal", "11", cwd=tmp_path)
    [end] = ends_of(accounting, pid)
    assert end.status == status == signal.SIGSEGV


@pytest.mark.parametrize("comm", [b"a name", b") R 1 (", b"a\nb", b"\xff\xfe", b"fifteen-bytes-x", b""])
def test_who_it_was(accounting: Accounting, steps: str, comm: bytes) -> None:
    began = time.monotonic_ns()
    pid, _status = run(steps, "comm", comm, "gid", "1001", "uid", "1000")
    usec = (time.monotonic_ns() - began) // 1000
    [end] = ends_of(accounting, pid)
    assert (end.comm, end.uid, end.gid) == (comm, 1000, 1001)
    assert 0 < end.elapsed_usec == end.process_elapsed_usec <= usec
    assert 100 << 10 < end.memory_peak_bytes < 1 << 30


def test_memory_and_cpu_of_a_process(accounting: Accounting) -> None:
    size = 200 << 20
    script = f"import time; b'x' * {size}\nwhile time.process_time() < 0.2: pass"
    pid, _status = run(sys.executable, "-c", script)
    end = ends_of(accounting, pid)[-1]
    assert end.memory_peak_bytes > size
    # All but what a tick has not seen yet.
    assert end.elapsed_usec * 1000 >= end.cpu_ns > 190_000_000


def test_a_child_that_only_forked(accounting: Accounting) -> None:
    pid = os.fork()
    if pid == 0:
        os._exit(4)
    _pid, status = os.waitpid(pid, 0)
    [end] = ends_of(accounting, pid)
    assert end.status == status == 0x400
    assert end.flags & (LAST | FORKED_ONLY) == LAST | FORKED_ONLY


def test_only_the_last_of_many_threads_is_the_last(accounting: Accounting, steps: str) -> None:
    pid, status = run(steps, "thread", "thread", "thread", "exit", "5")
    ends = ends_of(accounting, pid)
    assert len(ends) == 4
    assert [end.status for end in ends] == [0, 0, 0, status]
    assert [end.group_cpu_ns is None for end in ends] == [True, True, True, False]
    assert ends[-1].tid == pid
    assert all(end.elapsed_usec < end.process_elapsed_usec for end in ends[:-1])


def test_the_status_of_a_process_whose_leader_ended_first(accounting: Accounting, steps: str) -> None:
    with Actor(steps, "leader-ends", "wait", "exit", "3") as actor:
        leader = await_end(accounting, lambda end: (end.tid, end.ppid) == (actor.pid, os.getpid()))
        assert (leader.status, leader.flags & LAST) == (0, 0)
        actor.pass_wait()
        status = actor.end()
        [end] = ends_of(accounting, actor.pid)
    assert end.tid != actor.pid
    assert end.status == status == 0x300
    assert end.group_cpu_ns is not None


def test_all_threads_are_killed_by_the_same_signal(accounting: Accounting, steps: str) -> None:
    with Actor(steps, "in-thread", "wait") as actor:
        actor.reached()
        os.kill(actor.pid, signal.SIGKILL)
        status = actor.end()
        ends = ends_of(accounting, actor.pid)
    assert [end.status for end in ends] == [status, status]


def test_exec_by_a_thread_is_no_end(accounting: Accounting, steps: str) -> None:
    pid, status = run(steps, "in-thread", "exec", "/bin/false")
    ends = ends_of(accounting, pid)
    # The leader ended, and the thread took its place and its PID.
    assert [(end.tid, bool(end.flags & LAST)) for end in ends] == [(pid, False), (pid, True)]
    assert ends[-1].status == status == 0x100


BURN = """
import threading, time
def burn():
    while time.thread_time() < 0.1:
        pass
threads = [threading.Thread(target=burn) for _ in range(3)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
"""


def test_cpu_time_of_threads_is_in_the_sum(accounting: Accounting) -> None:
    pid, _status = run(sys.executable, "-c", BURN)
    ends = ends_of(accounting, pid)
    group_cpu_ns = ends[-1].group_cpu_ns
    assert group_cpu_ns is not None
    # Any of them may be the last: the leader waits for the work, not for the end of a thread.
    assert len([end for end in ends if end.tid != pid and end.cpu_ns >= 100_000_000]) == 3
    assert group_cpu_ns >= 300_000_000


def test_every_cpu_is_heard(accounting: Accounting) -> None:
    for cpu in os.sched_getaffinity(0):
        pid, _status = run("taskset", "-c", str(cpu), "/bin/true")
        assert ends_of(accounting, pid)


def test_the_record_is_there_when_the_exit_is(accounting: Accounting) -> None:
    connector = Connector()
    connector.subscribe()
    recorded: Counter[int] = Counter()
    exited: Counter[int] = Counter()
    born: set[int] = set()
    statuses: list[tuple[int, int]] = []
    recorded_statuses: set[tuple[int, int]] = set()
    script = "i=0; while [ $i -lt 1000 ]; do (exit $((i % 256))); i=$((i+1)); done"
    try:
        with subprocess.Popen(["/bin/sh", "-c", script]) as shell:
            while True:
                done = shell.poll() is not None
                while (received := connector.receive()) is not None:
                    for event in wire.decode(received.datagrams)[0]:
                        if event[5] == wire.FORK:
                            born.add(event[10])
                        elif event[5] == wire.EXIT and event[8] in born:
                            # Whoever lived before may have been past its record when we registered.
                            exited[event[8]] += 1
                            statuses.append((event[8], event[10]))
                for end in everything(accounting):
                    recorded[end.tid] += 1
                    recorded_statuses.add((end.tid, end.status))
                assert exited <= recorded
                if done:
                    break
        assert sum(exited.values()) > 1000
        assert set(statuses) <= recorded_statuses
        assert (connector.kernel_drops(), accounting.drops()) == (0, 0)
    finally:
        connector.close()


def test_bulks_are_whole(accounting: Accounting) -> None:
    script = "i=0; while [ $i -lt 700 ]; do (:); i=$((i+1)); done"
    subprocess.run(["/bin/sh", "-c", script], check=True)
    sizes = []
    while (received := accounting.receive()) is not None:
        messages, number = received
        ends, malformed = taskstats.decode(messages)
        assert (len(ends), malformed) == (number, 0)
        sizes.append(number)
    assert sizes[:2] == [BULK, BULK]
    assert sum(sizes) > 700
    receiver = accounting._receiver
    assert (receiver.foreign, receiver.odd, accounting.drops()) == (0, 0, 0)


def test_what_finds_no_room_is_counted() -> None:
    accounting = Accounting(receive_buffer_bytes=16 << 10)
    try:
        everything(accounting)
        before = accounting.drops()
        count = 200
        with subprocess.Popen(
            ["/bin/sh", "-c", f"i=0; while [ $i -lt {count} ]; do (:); i=$((i+1)); done"]
        ) as shell:
            shell.wait()
        ended = everything(accounting)
        drops = accounting.drops() - before
        assert drops > 0
        assert len(ended) + drops > count
        # What has room comes again: there is no waiting for an empty queue. Others may take that room.
        assert any(ends_of(accounting, run("/bin/true")[0]) for _ in range(1000))
    finally:
        accounting.close()


def test_the_buffer_is_as_asked_for(accounting: Accounting) -> None:
    assert accounting.receive_buffer_bytes == RECEIVE_BUFFER_BYTES


def test_others_may_listen_too(accounting: Accounting) -> None:
    another = Accounting()
    pid, _status = run("/bin/true")
    assert ends_of(accounting, pid)
    assert ends_of(another, pid)
    another.close()
    pid, _status = run("/bin/true")
    assert ends_of(accounting, pid)


def test_an_answer_is_told_from_the_records_before_it(accounting: Accounting) -> None:
    run("/bin/true")
    assert accounting._find_family() == accounting._family
    pid, _status = run("/bin/true")
    assert ends_of(accounting, pid)


def test_close_takes_the_registration_back() -> None:
    """Whoever gets the same port next must not get what was meant for us."""
    accounting = Accounting()
    port = accounting._socket.getsockname()[0]
    accounting.close()
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_GENERIC) as heir:
        heir.bind((port, 0))
        for cpu in os.sched_getaffinity(0):
            run("taskset", "-c", str(cpu), "/bin/true")
        assert select.select([heir], [], [], 0)[0] == []


def generic_socket() -> socket.socket:
    opened = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_GENERIC)
    opened.bind((0, 0))
    return opened


def ask_for_the_family(asker: socket.socket, *, padding_bytes: int = 0) -> None:
    """Have the kernel send one message: an answer, or, with padding, a refusal that repeats all of the request."""
    name = b"TASKSTATS\0" + bytes(padding_bytes)
    request = taskstats.encode_request(GENL_ID_CTRL, CTRL_CMD_GETFAMILY, CTRL_ATTR_FAMILY_NAME, name)
    asker.sendto(request, (0, 0))


def test_strangers_and_giants_are_left_out(accounting: Accounting) -> None:
    """On a socket that is not connected to the kernel, as ours is, anybody can send."""
    pid, _status = run("/bin/true")
    forged = taskstats.encode(ends_of(accounting, pid)[0])
    with generic_socket() as forger, generic_socket() as victim:
        receiver = MessageReceiver(victim.fileno())
        assert receiver.receive() is None
        for _ in range(3):
            ask_for_the_family(victim)
            honest = receiver.receive()
            assert honest is not None
            assert honest[1] == 1
            forger.sendto(forged, victim.getsockname())
            ask_for_the_family(victim)
            ask_for_the_family(victim, padding_bytes=3000)
            forger.sendto(forged[:30], victim.getsockname())
            mixed = receiver.receive()
            assert mixed is not None
            assert mixed == honest
            forger.sendto(forged, victim.getsockname())
            assert receiver.receive() == (b"", 0)
            ask_for_the_family(victim, padding_bytes=3000)
            assert receiver.receive() == (b"", 0)
        assert (receiver.foreign, receiver.odd) == (9, 6)


def test_forged_unicasts_bounce(accounting: Accounting) -> None:
    with generic_socket() as forger, pytest.raises(ConnectionRefusedError):
        forger.sendto(b"forged", accounting._socket.getsockname())


OPEN = """
import os, sys
from procwatchd.errors import ProcwatchError
from procwatchd.kernel.accounting import Accounting
sys.stdin.read()
uid = int(sys.argv[1])
os.setresuid(uid, uid, uid)
try:
    Accounting().close()
    print("opened")
except ProcwatchError as error:
    print(f"{type(error).__name__}: {error}")
"""


@pytest.mark.parametrize(
    ("uid", "inside", "outcome"),
    [
        (0, [], "opened\n"),
        (65534, [], "DeniedError: no permission for task accounting"),
        (0, ["unshare", "--user", "--map-root-user"], "DeniedError: no permission for task accounting"),
        (0, ["unshare", "--net"], "KernelError: the kernel sends task accounting to the initial network"),
        (
            0,
            ["unshare", "--pid", "--fork"],
            "KernelError: the kernel sends task accounting to the initial user",
        ),
    ],
    ids=["root", "user", "user namespace", "network namespace", "PID namespace"],
)
def test_where_it_cannot_be_had(uid: int, inside: list[str], outcome: str) -> None:
    command = [*inside, sys.executable, "-c", OPEN, str(uid)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, input="")
    assert done.stdout.startswith(outcome)


def test_a_refusal_takes_the_registration_back() -> None:
    """What is registered in another network namespace is for whoever has the same port in the initial one."""
    command = ["unshare", "--net", sys.executable, "-c", OPEN, "0"]
    with (
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as refused,
        socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_GENERIC) as heir,
    ):
        heir.setblocking(False)
        heir.setsockopt(SOL_NETLINK, NETLINK_NO_ENOBUFS, 1)  # others are busy, too
        heir.bind((refused.pid, 0))  # as the kernel gives a process's first socket
        assert refused.communicate()[0].startswith("KernelError: the kernel sends task accounting to the")
        received = 0
        with contextlib.suppress(BlockingIOError):
            while heir.recv(BULK):
                received += 1
        assert received > 0
        for cpu in os.sched_getaffinity(0):
            run("taskset", "-c", str(cpu), "/bin/true")
        assert select.select([heir], [], [], 0)[0] == []


def test_a_refusal_leaves_no_descriptor_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(taskstats, "OLDEST_VERSION", 1000)
    before = os.listdir("/proc/self/fd")
    with pytest.raises(KernelError, match="not understood"):
        Accounting()
    assert os.listdir("/proc/self/fd") == before


def test_what_was_received_stays(accounting: Accounting) -> None:
    """What receive gives is a copy: the slots are used again and again."""
    pid, _status = run("/bin/true")
    first = accounting.receive()
    assert first is not None
    kept = bytes(first[0])
    for _ in range(20):
        run("/bin/true")
        everything(accounting)
    assert first[0] == kept
    assert pid in {end.tid for end in taskstats.decode(first[0])[0]}
