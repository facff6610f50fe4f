# SPDX-License-Identifier: MIT
r"""Where a process belongs: unit, slice, session and container, from its cgroup's path alone.

Facts:
- A cgroup's name has no "\n" and no NUL, else any byte: mkdir and rename refuse them (kernel, cgroup_mkdir,
  cgroup1_rename). Nothing in /proc/PID/cgroup is escaped, and every line ends in "\n".
- A cgroup v2 line of a process whose cgroup was removed ends in " (deleted)" (kernel, proc_cgroup_show).
- Paths are as the reader's cgroup namespace sees them: outside of it they start with "/.."
  (cgroup_namespaces(7)).
- A path is at most 4095 bytes; a longer one makes the read fail (kernel, proc_cgroup_show).
- systemd puts "_" before a name that the kernel or itself might take for its own (systemd, cg_escape).
- A unit's name: at most 255 of `0-9A-Za-z:-_.\@`, then a type; "@" not first, and not right before the type
  (systemd, unit_name_is_valid). Slices have no instances.
- A path starts with slices; what follows is the unit, whatever is below it is the unit's own business. Under
  user@UID.service, capsule@NAME.service and session-ID.scope the same starts again, for the user's units
  (systemd, cg_path_get_unit, cg_path_get_user_unit, cg_path_get_slice, cg_path_get_session).
- Container managers: 64 hex digits, alone or in one of few forms; conmon's own cgroups carry the id of a
  container that conmon is not in. Of a podman pod `/libpod_parent/ID` is the pod. nspawn's own process is in
  `supervisor`, next to the `payload`. A machine's name is a host name (systemd, hostname_is_valid).

So: UNIT, SLICE and SESSION are the host's and cannot be forged by who owns a delegated cgroup; USER_UNIT is
as honest as the user, and CONTAINER_ID as whoever may make cgroups there.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

# Limits.
PLACES_LIMIT = 4096  # paths in the cache
CACHED_PATH_LIMIT_BYTES = 4096  # the kernel shows none that is longer
UNIT_NAME_LIMIT_BYTES = 255

_ROOT_SLICE = b"-.slice"
_OUTSIDE = b".."

_CHARACTERS = rb"0-9A-Za-z:_.\\-"
_TYPES = rb"service|socket|target|device|mount|automount|swap|timer|path|slice|scope"
_UNIT = re.compile(rb"[%b]+(?:@[@%b]+)?\.(?:%b)" % (_CHARACTERS, _CHARACTERS, _TYPES))
_SLICE = re.compile(rb"[%b]+\.slice" % _CHARACTERS)
_SESSION = re.compile(rb"session-([0-9A-Za-z]+)\.scope")
# A capsule's name is the rest of the name of its user, c-NAME, of at most 31 bytes.
_MANAGER = re.compile(rb"(?:user@(0|[1-9][0-9]{0,9})|capsule@[0-9A-Za-z_-]{1,29})\.service")
_NO_UIDS = (0xFFFF, 0xFFFFFFFF)  # (uid_t) -1, and the one from when uids had 16 bits

_RUNTIMES = rb"docker|cri-containerd|crio|libpod|nerdctl"
_CONTAINER = re.compile(
    rb"(?:(?:%b|libpod-payload)-|[^:]+:(?:%b):)?(?P<id>[0-9a-f]{64})(?:\.scope)?"
    rb"|systemd-nspawn@(?P<nspawn>[^@]+)\.service"
    rb"|machine-(?P<machine>.+)\.scope"
    rb"|lxc\.payload\.(?P<lxc>.+)" % (_RUNTIMES, _RUNTIMES),
    re.DOTALL,
)
_LXC_PARENTS = (b"lxc", b"lxc.payload")
_MACHINE_NAME = re.compile(rb"[0-9A-Za-z._-]{1,64}")
_VIRTUAL_MACHINE = re.compile(rb"qemu-[0-9]+-")  # libvirt's: what runs there is the emulator, on the host
_ESCAPE = re.compile(rb"\\x([0-9a-fA-F]{2})")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a process belongs, None for what the path does not say.

    Each but `user_unit` and `container_id` is what journald has in _SYSTEMD_UNIT, _SYSTEMD_SLICE and
    _SYSTEMD_SESSION for a sender from there, except that a path from outside the reader's cgroup namespace
    has no slice here. `container_id` is the innermost container's: 64 hex digits, or a machine's or an LXC
    container's name.
    """

    cgroup: bytes
    unit: bytes | None
    user_unit: bytes | None
    slice: bytes | None
    session: bytes | None
    container_id: bytes | None


class Places:
    """The places of paths, remembered. `cleared` counts how often the cache was full, `uncached` long paths.

    For one thread.
    """

    __slots__ = ("_known", "cleared", "uncached")

    def __init__(self) -> None:
        self._known: dict[bytes, Place] = {}
        self.cleared = 0
        self.uncached = 0

    def get(self, path: bytes) -> Place:
        """The place that `path` names, as `parse_place` has it."""
        place = self._known.get(path)
        return self._parse(path) if place is None else place

    def _parse(self, path: bytes) -> Place:
        place = parse_place(path)
        if len(path) > CACHED_PATH_LIMIT_BYTES:
            self.uncached += 1
            return place
        if len(self._known) >= PLACES_LIMIT:
            # A parse costs microseconds; an order of use would cost every hit.
            self._known.clear()
            self.cleared += 1
        self._known[path] = place
        return place


def parse_cgroup_file(data: bytes) -> bytes | None:
    r"""The path that systemd goes by in the content of /proc/PID/cgroup; None where there is none.

    A line without its "\n" was cut by the reader and is not believed.
    """
    if data.startswith(b"0::/") and data.find(b"\n") == len(data) - 1:
        return _without_deleted(data[3:-1])
    unified = named = None
    for line in data.split(b"\n")[:-1]:
        fields = line.split(b":", 2)
        if len(fields) != 3 or not fields[2].startswith(b"/"):
            continue
        if fields[0] == b"0" and not fields[1]:
            unified = fields[2]
        elif fields[1] == b"name=systemd":
            named = fields[2]
    # Where systemd keeps its tree in cgroup v1, the v2 hierarchy exists, and everyone is in its root.
    path = named if named is not None and unified in (None, b"/") else unified
    return None if path is None else _without_deleted(path)


def parse_place(path: bytes) -> Place:
    """The place that `path` names, which is a cgroup's from the root of the hierarchy, starting with "/"."""
    if not path.startswith(b"/"):
        return Place(path, None, None, None, None, None)
    parts = [part for part in path.split(b"/") if part]
    at = _after_slices(parts, 0)
    unit = _unit_at(parts, at)
    session = None if unit is None else _SESSION.fullmatch(unit)
    return Place(
        cgroup=path,
        unit=unit,
        user_unit=_user_unit(parts, at),
        slice=_innermost_slice(parts, at),
        session=None if session is None else session[1],
        container_id=_innermost_container(parts),
    )


def _without_deleted(path: bytes) -> bytes:
    return path.removesuffix(b" (deleted)") or b"/"


def _after_slices(parts: list[bytes], start: int) -> int:
    at = start
    while at < len(parts) and _is_valid(_SLICE, parts[at].removeprefix(b"_")):
        at += 1
    return at


def _is_valid(pattern: re.Pattern[bytes], name: bytes) -> bool:
    return len(name) <= UNIT_NAME_LIMIT_BYTES and pattern.fullmatch(name) is not None


def _innermost_slice(parts: list[bytes], end: int) -> bytes | None:
    if end:
        return parts[end - 1].removeprefix(b"_")
    if parts and parts[0] == _OUTSIDE:
        return None  # which slices lie above is not to be seen from here
    return _ROOT_SLICE


def _unit_at(parts: list[bytes], at: int) -> bytes | None:
    if at >= len(parts):
        return None
    name = parts[at].removeprefix(b"_")
    # A slice with an instance gets here: it is none for systemd, and no unit of another type either.
    if name.endswith(b".slice") or not _is_valid(_UNIT, name):
        return None
    return name


def _user_unit(parts: list[bytes], at: int) -> bytes | None:
    if at >= len(parts):
        return None
    above = parts[at]
    if not _is_user_manager(above) and not _SESSION.fullmatch(above):
        return None
    return _unit_at(parts, _after_slices(parts, at + 1))


def _is_user_manager(name: bytes) -> bool:
    found = _MANAGER.fullmatch(name)
    if found is None:
        return False
    uid = found[1]
    return uid is None or (int(uid) <= 0xFFFFFFFF and int(uid) not in _NO_UIDS)


def _innermost_container(parts: list[bytes]) -> bytes | None:
    for at in range(len(parts) - 1, -1, -1):
        container_id = _container_at(parts, at)
        if container_id is not None:
            return container_id
    return None


def _container_at(parts: list[bytes], at: int) -> bytes | None:
    above = parts[at - 1] if at else b""
    found = _CONTAINER.fullmatch(parts[at])
    if found is None:
        return parts[at] if above in _LXC_PARENTS and parts[at] != _OUTSIDE else None
    name = found[found.lastgroup or 0]
    match found.lastgroup:
        case "id":
            is_pod = above == b"libpod_parent" and name == parts[at]
            return None if is_pod else name
        case "lxc":
            return name
        case "machine":
            name = _unescape(name)
    is_supervisor = parts[at + 1 : at + 2] == [b"supervisor"]
    if is_supervisor or not _MACHINE_NAME.fullmatch(name) or _VIRTUAL_MACHINE.match(name):
        return None
    return name


def _unescape(name: bytes) -> bytes:
    # In what systemd escaped, "-" stands for "/".
    return _ESCAPE.sub(lambda found: bytes.fromhex(found[1].decode()), name.replace(b"-", b"/"))
