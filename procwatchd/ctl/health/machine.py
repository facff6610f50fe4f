# SPDX-License-Identifier: MIT
"""`doctor` on the machine: whether this kernel can, and whether it may be asked from here.

Facts:
- A kernel's options are in /proc/config.gz, where IKCONFIG_PROC is on, or where distributions put them.
- Namespaces that the kernel begins with have fixed numbers; the network's since Linux 6.18 only
  [include/uapi/linux/nsfs.h, include/linux/proc_ns.h]. /proc/PID/ns of others takes CAP_SYS_PTRACE.
- One LISTEN and one IGNORE leave the kernel's counter of listeners as it was; where a daemon runs it is left alone all
  the same [kernel/connector.py].
- A queued event takes 832 bytes of the buffer, or a little more or less with the kernel's version.
- What SO_RCVBUF sets without CAP_NET_ADMIN is at most rmem_max, which the kernel doubles [socket(7)].
"""

from __future__ import annotations

import os
import socket
import zlib
from collections.abc import Iterator

from procwatchd.ctl.health.system import CAPABILITIES, Finding, System, fail, ok, warn
from procwatchd.ctl.show.figures import size
from procwatchd.errors import DeniedError, KernelError
from procwatchd.kernel import netlink, recorder
from procwatchd.kernel.accounting import Accounting
from procwatchd.kernel.connector import RECEIVE_BUFFER_BYTES, Connector
from procwatchd.kernel.libbpf import check_library

# Without these there is nothing, and what is missing without the others.
NEEDED = ("CONNECTOR", "PROC_EVENTS")
HELPFUL = {
    "TASKSTATS": "exits have no CPU time and no memory, and some no status",
    "TASK_XACCT": "exits have no peak of memory",
    "TASK_IO_ACCOUNTING": "exits have no I/O",
    "BPF_SYSCALL": "arguments of short processes may be missed, and who killed a process",
    "DEBUG_INFO_BTF": "arguments of short processes may be missed, and who killed a process",
}
OPTION_FILES = ("/proc/config.gz", "/boot/config-{release}", "/lib/modules/{release}/config")
OPTIONS_LIMIT_BYTES = 4 << 20

OLDEST, RECORDER_OLDEST = (5, 10), (5, 17)

# PROC_USER_INIT_INO, PROC_PID_INIT_INO
INITIAL = {"user": 0xEFFFFFFD, "pid": 0xEFFFFFFC}
# NET_NS_INIT_INO, and since when it is that
INITIAL_NETWORK, NETWORK_NUMBERED = 0xEFFFFFF9, (6, 18)

EVENT_BYTES = 832
FEW_EVENTS = 10_000

_ON_HOST = (
    "run procwatchd on the host, not in a container, without PrivateUsers=, PrivateNetwork=, PrivatePIDs="
)
_AS_ROOT = "run this as root to have it looked at"


def kernel(system: System) -> Iterator[Finding]:
    """The version, and what was compiled in."""
    text = f"Linux {system.release}"
    if system.kernel < OLDEST:
        yield warn(
            "kernel", f"{text} is older than what is tested, {OLDEST[0]}.{OLDEST[1]}", "use a newer kernel"
        )
    options, path = _options(system)
    if not options:
        has_events = "cn_proc" in _or_empty(system, "/proc/net/connector")
        if not has_events:
            yield _no_events(text)
        else:
            yield ok("kernel", f"{text}, with process events; no list of its options can be read")
        return
    if any(name not in options for name in NEEDED):
        yield _no_events(f"{text} ({path})")
        return
    missing = {name: cost for name, cost in HELPFUL.items() if name not in options}
    for name, cost in missing.items():
        yield warn("kernel", f"{text} is without CONFIG_{name}: {cost}", "use a kernel that has it")
    if not missing:
        names = ", ".join((*NEEDED, *HELPFUL))
        yield ok("kernel", f"{text} has all options: {names} ({path})", release=system.release)


def _no_events(text: str) -> Finding:
    advice = "use a kernel with CONFIG_CONNECTOR=y and CONFIG_PROC_EVENTS=y, as distributions' own are"
    return fail("kernel", f"{text} has no process events", advice)


def _options(system: System) -> tuple[frozenset[str], str]:
    """The options that are on, or may be loaded, and the file that says so."""
    for pattern in OPTION_FILES:
        path = pattern.format(release=system.release)
        try:
            with open(system.root + path, "rb") as file:
                text = file.read(OPTIONS_LIMIT_BYTES)
            if path.endswith(".gz"):
                text = zlib.decompressobj(wbits=31).decompress(text, OPTIONS_LIMIT_BYTES)
        except (OSError, zlib.error):
            continue
        lines = text.decode("ascii", "replace").splitlines()
        on = {line[7:-2] for line in lines if line.startswith("CONFIG_") and line.endswith(("=y", "=m"))}
        if on:
            return frozenset(on), path
    return frozenset(), ""


def _or_empty(system: System, path: str) -> str:
    try:
        return system.read(path)
    except OSError:
        return ""


def namespaces(system: System) -> Iterator[Finding]:
    """Whether whoever is to listen is where the kernel tells of processes: the daemon, or else this command."""
    who = "self" if system.daemon_pid is None else str(system.daemon_pid)
    others = [name for name, number in INITIAL.items() if _namespace(system, who, name) not in (number, None)]
    mine, inits = _namespace(system, who, "net"), _namespace(system, "1", "net") or INITIAL_NETWORK
    is_network_known = inits != INITIAL_NETWORK or system.kernel >= NETWORK_NUMBERED
    if is_network_known and mine not in (inits, None):
        others.append("network")
    whose = "this command" if who == "self" else f"the daemon, process {who},"
    if others:
        yield fail(
            "namespaces",
            f"{whose} is in another {' and '.join(others)} namespace than the machine's first one: the kernel tells "
            "of no events there",
            _ON_HOST,
        )
    elif None in [_namespace(system, who, name) for name in INITIAL]:
        yield warn("namespaces", f"those of process {who} cannot be seen", _AS_ROOT)
    else:
        yield ok(
            "namespaces", f"the initial ones: user, pid{', network' if is_network_known and mine else ''}"
        )


def _namespace(system: System, pid: str, name: str) -> int | None:
    try:
        target = os.readlink(f"{system.root}/proc/{pid}/ns/{name}")
    except OSError:
        return None
    number = target.partition("[")[2].rstrip("]")
    return int(number) if number.isdecimal() else None


def capabilities(system: System) -> Iterator[Finding]:
    """Those of the daemon; without one, those that a service can be given."""
    if system.daemon_pid is not None:
        found, whose = system.capabilities(system.daemon_pid, "CapEff"), "the daemon has"
    else:
        found, whose = system.capabilities(1, "CapBnd"), "a service can have"
    if found is None:
        yield warn("capabilities", "those of the daemon cannot be seen", _AS_ROOT)
        return
    missing = [name for name in CAPABILITIES if name not in found]
    if not missing:
        yield ok("capabilities", f"{whose} {', '.join(CAPABILITIES)}")
        return
    advice = "see which drop-in takes them away: systemctl cat procwatchd; or a container does"
    text = f"{whose} no {', no '.join(missing)}: {'; '.join(_COSTS[name] for name in missing)}"
    is_vital = "CAP_NET_ADMIN" in missing and system.kernel < (6, 6)
    yield fail("capabilities", text, advice) if is_vital else warn("capabilities", text, advice)


_COSTS = {
    "CAP_NET_ADMIN": "no big receive buffer, no accounting, and up to Linux 6.5 no events at all",
    "CAP_SYS_PTRACE": "no executables and working directories of others' processes",
    "CAP_PERFMON": "no recorder",
    "CAP_BPF": "no recorder",
}


def events(system: System) -> Iterator[Finding]:
    """Whether the kernel answers who subscribes. A daemon that runs is asked by its metrics instead."""
    if system.daemon_pid is not None:
        yield ok("events", "the daemon runs and listens itself: see 'blindness'")
        return
    if not system.is_root or not system.is_real:
        yield warn("events", "not tried: to subscribe needs root", _AS_ROOT)
        return
    try:
        connector = Connector(1 << 16)
        try:
            # Not once more than that: to try again would change the kernel's counter.
            connector.subscribe(timeout_seconds=0)
        finally:
            connector.close()
    except (KernelError, DeniedError) as error:
        yield fail("events", str(error), _ON_HOST)
    else:
        yield ok("events", "the kernel acknowledged a subscription to process events")


def receive_buffer(system: System) -> Iterator[Finding]:
    """How much of a burst fits before anybody reads it."""
    wanted = RECEIVE_BUFFER_BYTES if system.config is None else system.config.capture.receive_buffer_bytes
    if system.daemon_pid is not None:
        return  # what it was granted is in its start entry
    if system.is_root and system.is_real:
        with netlink.open_socket(socket.NETLINK_ROUTE) as sock:
            granted, why = netlink.grow_buffer(sock, wanted), "CAP_NET_ADMIN is missing here"
    elif _can_be_forced(system):
        yield ok(
            "receive buffer", f"{size(wanted)} with the CAP_NET_ADMIN that the service has", wanted=wanted
        )
        return
    else:
        granted = min(wanted, 2 * int(system.read("/proc/sys/net/core/rmem_max")))
        why = "CAP_NET_ADMIN is missing, and net.core.rmem_max says so"
    yield buffer_finding(granted, wanted, why)


def _can_be_forced(system: System) -> bool:
    return "CAP_NET_ADMIN" in (system.capabilities(1, "CapBnd") or ())


def buffer_finding(granted: int, wanted: int, why: str) -> Finding:
    """What is to be said of a receive buffer of this size."""
    values = {"granted": granted, "wanted": wanted, "fits": granted // EVENT_BYTES}
    text = f"{size(granted)}, which holds {granted // EVENT_BYTES} events"
    if granted < wanted:
        return warn(
            "receive buffer",
            f"{text}; {size(wanted)} are configured: {why}; bursts may be lost",
            "give the service CAP_NET_ADMIN, or raise the sysctl net.core.rmem_max",
            **values,
        )
    if granted < FEW_EVENTS * EVENT_BYTES:
        return warn("receive buffer", f"{text}: bursts may be lost", "raise capture.receive-buffer", **values)
    return ok("receive buffer", text, **values)


def accounting(system: System) -> Iterator[Finding]:
    """Whether the kernel tells how tasks ended, and what they took."""
    if system.config is not None and system.config.capture.accounting == "off":
        yield ok("accounting", "not asked for: capture.accounting is off")
        return
    if not system.is_root or not system.is_real:
        yield warn("accounting", "not tried: taskstats needs root", _AS_ROOT)
        return
    try:
        Accounting(1 << 16).close()
    except (KernelError, DeniedError) as error:
        yield warn("accounting", f"{error}: exits lack CPU time and memory", "see 'kernel' and 'namespaces'")
    else:
        yield ok("accounting", "taskstats answers")


def recording(system: System) -> Iterator[Finding]:
    """Whether the recorder could be loaded, as far as that can be said without loading it."""
    if system.config is not None and system.config.capture.arguments == "proc":
        yield ok("recorder", "not asked for: capture.arguments is proc")
        return
    why = _why_no_recorder(system)
    if why:
        found, advice = why
        yield warn(
            "recorder",
            f"{found}: arguments come from /proc alone, and short processes' may be missed",
            advice,
        )
    else:
        yield ok(
            "recorder", "BTF, libbpf and the compiled programs are there, and the kernel is not locked down"
        )


def _why_no_recorder(system: System) -> tuple[str, str] | None:
    """What is missing, and what to do."""
    if system.kernel < RECORDER_OLDEST:
        return f"Linux {system.release} is older than 5.17", "use a newer kernel"
    if not system.exists(recorder.BTF):
        return f"the kernel does not describe its types, there is no {recorder.BTF}", "use a kernel with BTF"
    if "[confidentiality]" in _or_empty(system, recorder.LOCKDOWN):
        return "the kernel is locked down to confidentiality", "boot with lockdown=integrity, or live without"
    if not os.path.exists(recorder.OBJECT):
        return "its programs were not compiled", "install clang and libbpf-dev, then install procwatchd again"
    if not recorder.is_64_bit(os.uname().machine):
        return "this machine has less than 64 bits", ""
    try:
        check_library()
    except OSError as error:
        return f"libbpf cannot be used: {error}", "install libbpf1 (Fedora, Arch: libbpf), 1.0 or later"
    return None


def sysctls(system: System) -> Iterator[Finding]:
    """Settings of the kernel that make what it does for us slower."""
    value = _or_empty(system, "/proc/sys/net/core/bpf_jit_enable").strip()
    if value == "0":
        yield warn(
            "sysctl",
            "net.core.bpf_jit_enable is 0: filters and the recorder are interpreted, which slows every program down",
            "sysctl net.core.bpf_jit_enable=1, and the same in /etc/sysctl.d",
        )
    elif value:
        yield ok("sysctl", f"net.core.bpf_jit_enable is {value}")
