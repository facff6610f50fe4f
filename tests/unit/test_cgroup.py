# SPDX-License-Identifier: MIT
"""Paths of cgroups in, units, sessions and containers out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from procwatchd.process.cgroup import (
    CACHED_PATH_LIMIT_BYTES,
    PLACES_LIMIT,
    Place,
    Places,
    parse_cgroup_file,
    parse_place,
)

ID = b"4f" * 32
OTHER_ID = b"0123456789abcdef" * 4
POD = b"pod1f6f2a4e-8c1d-4b44-9a3e-6d9d1b7f0c11"
POD_SLICE = b"kubepods-burstable-pod1f6f2a4e_8c1d_4b44_9a3e_6d9d1b7f0c11.slice"
SESSION_3 = b"/user.slice/user-1000.slice/session-3.scope"
MANAGER = b"/user.slice/user-1000.slice/user@1000.service"


@pytest.mark.parametrize(
    ("data", "path"),
    [
        (b"0::/system.slice/ssh.service\n", b"/system.slice/ssh.service"),
        (b"0::/\n", b"/"),
        (b"0::/system.slice/a:b c\xff.service\n", b"/system.slice/a:b c\xff.service"),
        (b"0::/system.slice/cron.service (deleted)\n", b"/system.slice/cron.service"),
        (b"0::/ (deleted)\n", b"/"),
        (b"0::/../../user.slice\n", b"/../../user.slice"),
        # v1
        (b"3:cpu,cpuacct:/x\n1:name=systemd:/system.slice/cron.service\n", b"/system.slice/cron.service"),
        (b"2:pids:/x:name=systemd:/y\n1:name=systemd:/init.scope\n", b"/init.scope"),
        # v1 with v2's hierarchy beside it, unused and used
        (b"4:pids:/\n1:name=systemd:/init.scope\n0::/\n", b"/init.scope"),
        (b"4:pids:/\n1:name=systemd:/\n0::/\n", b"/"),
        (b"4:pids:/\n1:name=systemd:/a.slice\n0::/b.slice\n", b"/b.slice"),
        (b"4:pids:/a.slice\n0::/b.slice\n", b"/b.slice"),
        (b"0::/b.slice\n1:name=systemd:/a.slice\n", b"/b.slice"),
        # no path of systemd's
        (b"4:pids:/docker\n3:name=elogind:/1\n", None),
        (b"", None),
        (b"\n\n", None),
        (b"0::\n", None),
        (b"0::relative\n", None),
        (b"1::/\n", None),
        (b":::::\n\x00\xff\n", None),
        # cut by whoever read it
        (b"0::/system.slice/ssh.serv", None),
        (b"1:name=systemd:/init.scope\n0::/a.sl", b"/init.scope"),
    ],
)
def test_picks_systemds_path(data: bytes, path: bytes | None) -> None:
    assert parse_cgroup_file(data) == path


@pytest.mark.parametrize(
    ("path", "unit", "user_unit", "slice_", "session"),
    [
        (b"/", None, None, b"-.slice", None),
        (b"/init.scope", b"init.scope", None, b"-.slice", None),
        (b"/system.slice", None, None, b"system.slice", None),
        (b"/system.slice/ssh.service", b"ssh.service", None, b"system.slice", None),
        (b"/system.slice/ssh.service/worker/7", b"ssh.service", None, b"system.slice", None),
        (b"/system.slice/ssh.service/a.slice/b.scope", b"ssh.service", None, b"system.slice", None),
        (b"/system.slice/home.mount", b"home.mount", None, b"system.slice", None),
        (
            b"/system.slice/system-getty.slice/getty@tty1.service",
            b"getty@tty1.service",
            None,
            b"system-getty.slice",
            None,
        ),
        (
            b"/system.slice/dev-disk-by\\x2duuid.swap",
            b"dev-disk-by\\x2duuid.swap",
            None,
            b"system.slice",
            None,
        ),
        # what a user runs
        (SESSION_3, b"session-3.scope", None, b"user-1000.slice", b"3"),
        (SESSION_3 + b"/a.scope", b"session-3.scope", b"a.scope", b"user-1000.slice", b"3"),
        (b"/user.slice/user-0.slice/session-c12.scope", b"session-c12.scope", None, b"user-0.slice", b"c12"),
        (b"/user.slice/session-a-b.scope/a.scope", b"session-a-b.scope", None, b"user.slice", None),
        (b"/user.slice/session-.scope", b"session-.scope", None, b"user.slice", None),
        (MANAGER, b"user@1000.service", None, b"user-1000.slice", None),
        (MANAGER + b"/init.scope", b"user@1000.service", b"init.scope", b"user-1000.slice", None),
        (
            MANAGER + b"/app.slice/app-gnome.slice/app-gnome-firefox-5.scope/child",
            b"user@1000.service",
            b"app-gnome-firefox-5.scope",
            b"user-1000.slice",
            None,
        ),
        (MANAGER + b"/app.slice", b"user@1000.service", None, b"user-1000.slice", None),
        (MANAGER + b"/session-9.scope", b"user@1000.service", b"session-9.scope", b"user-1000.slice", None),
        (
            b"/capsule.slice/capsule@kiosk.service/app.slice/web.service",
            b"capsule@kiosk.service",
            b"web.service",
            b"capsule.slice",
            None,
        ),
        (
            b"/capsule@" + b"x" * 30 + b".service/a.scope",
            b"capsule@" + b"x" * 30 + b".service",
            None,
            b"-.slice",
            None,
        ),
        # no user's manager
        (b"/user@01.service/a.scope", b"user@01.service", None, b"-.slice", None),
        (b"/user@65535.service/a.scope", b"user@65535.service", None, b"-.slice", None),
        (b"/user@4294967295.service/a.scope", b"user@4294967295.service", None, b"-.slice", None),
        (b"/user@9999999999.service/a.scope", b"user@9999999999.service", None, b"-.slice", None),
        (b"/user@0.service/a.scope", b"user@0.service", b"a.scope", b"-.slice", None),
        (b"/user@root.service/a.scope", b"user@root.service", None, b"-.slice", None),
        (b"/web.service/a.scope", b"web.service", None, b"-.slice", None),
        # escaped
        (b"/_cpu.slice/_cgroup.service", b"cgroup.service", None, b"cpu.slice", None),
        (b"/__a.service", b"_a.service", None, b"-.slice", None),
        (b"/_session-3.scope/a.scope", b"session-3.scope", None, b"-.slice", b"3"),
        # a machine's own units are not the host's
        (
            b"/machine.slice/systemd-nspawn@web.service/payload/system.slice/x.service",
            b"systemd-nspawn@web.service",
            None,
            b"machine.slice",
            None,
        ),
        (
            b"/machine.slice/machine-web.scope/payload/user.slice/user-0.slice/session-1.scope",
            b"machine-web.scope",
            None,
            b"machine.slice",
            None,
        ),
        (b"/lxc.payload.web/system.slice/x.service", None, None, b"-.slice", None),
        (b"/docker/" + ID + b"/system.slice/x.service", None, None, b"-.slice", None),
        # nobody's units
        (b"", None, None, None, None),
        (b"system.slice/x.service", None, None, None, None),
        (b"/../../system.slice/x.service", None, None, None, None),
        (b"/system.slice/../x.service", None, None, b"system.slice", None),
        (b"//system.slice///x.service//", b"x.service", None, b"system.slice", None),
        (b"/garbage/x.service", None, None, b"-.slice", None),
        (b"/a@b.slice/x.service", None, None, b"-.slice", None),
        (b"/x@.service", None, None, b"-.slice", None),
        (b"/@x.service", None, None, b"-.slice", None),
        (b"/.service", None, None, b"-.slice", None),
        (b"/_.slice/x.service", None, None, b"-.slice", None),
        (b"/x.service ", None, None, b"-.slice", None),
        (b"/x.service\n", None, None, b"-.slice", None),
        (b"/x.Service", None, None, b"-.slice", None),
        (b"/x.snapshot", None, None, b"-.slice", None),
        (b"/a b.service", None, None, b"-.slice", None),
        (b"/\xff\xfe.service", None, None, b"-.slice", None),
        (b"/a\x00.service", None, None, b"-.slice", None),
        (b"/" + b"a" * 247 + b".service", b"a" * 247 + b".service", None, b"-.slice", None),
        (b"/" + b"a" * 248 + b".service", None, None, b"-.slice", None),
        (b"/_" + b"a" * 247 + b".service", b"a" * 247 + b".service", None, b"-.slice", None),
        (b"/" + b"a" * 250 + b".slice/x.service", None, None, b"-.slice", None),
        (b"/a.slice" * 12_500 + b"/x.service", b"x.service", None, b"a.slice", None),
        (b"/" + b"a" * 100_000, None, None, b"-.slice", None),
    ],
)
def test_names_the_hosts_units(
    path: bytes, unit: bytes | None, user_unit: bytes | None, slice_: bytes | None, session: bytes | None
) -> None:
    place = parse_place(path)
    assert place.cgroup == path
    assert (place.unit, place.user_unit, place.slice, place.session) == (unit, user_unit, slice_, session)


@pytest.mark.parametrize(
    ("path", "container_id"),
    [
        # docker
        (b"/docker/" + ID, ID),
        (b"/docker/" + ID + b"/init.scope", ID),
        (b"/system.slice/docker-" + ID + b".scope", ID),
        (b"/system.slice:docker:" + ID, ID),
        (b"/own-parent/" + ID, ID),
        (b"/docker/" + ID + b"/docker/" + OTHER_ID, OTHER_ID),
        (
            b"/system.slice/docker-" + ID + b".scope/kubelet.slice/cri-containerd-" + OTHER_ID + b".scope",
            OTHER_ID,
        ),
        (b"/system.slice/docker.service", None),
        (b"/system.slice/docker-" + ID + b".mount", None),
        # podman
        (b"/machine.slice/libpod-" + ID + b".scope", ID),
        (b"/machine.slice/libpod-" + ID + b".scope/container", ID),
        (MANAGER + b"/user.slice/libpod-" + ID + b".scope/container", ID),
        (b"/libpod_parent/libpod-" + ID, ID),
        (b"/libpod_parent/" + OTHER_ID + b"/libpod-" + ID, ID),
        (b"/libpod_parent/" + OTHER_ID + b"/conmon", None),
        (b"/system.slice/web.service/libpod-payload-" + ID, ID),
        (b"/system.slice/web.service/runtime", None),
        (b"/machine.slice/libpod-conmon-" + ID + b".scope", None),
        (b"/libpod_parent/libpod-conmon-" + ID, None),
        (b"/docker/" + ID + b"/libpod-conmon-" + OTHER_ID + b".scope", ID),
        (b"/machine.slice/machine-libpod_pod_" + OTHER_ID + b".slice/libpod-" + ID + b".scope", ID),
        (b"/machine.slice/machine-libpod_pod_" + OTHER_ID + b".slice", None),
        # containerd
        (b"/kubepods.slice/kubepods-burstable.slice/" + POD_SLICE + b"/cri-containerd-" + ID + b".scope", ID),
        (b"/kubepods.slice/" + POD_SLICE, None),
        (b"/kubepods/burstable/" + POD + b"/" + ID, ID),
        (b"/kubepods/burstable/" + POD, None),
        (b"/kubepods.slice/" + POD_SLICE + b":cri-containerd:" + ID, ID),
        (b"/system.slice/containerd.service/" + POD_SLICE + b":cri-containerd:" + ID, ID),
        (b"/../../" + POD + b"/" + ID, ID),
        (b"/default/" + ID, ID),
        (b"/default/web", None),
        (b"/system.slice/nerdctl-" + ID + b".scope", ID),
        # CRI-O
        (b"/kubepods.slice/" + POD_SLICE + b"/crio-" + ID + b".scope", ID),
        (b"/kubepods.slice/" + POD_SLICE + b"/crio-" + ID + b".scope/container", ID),
        (b"/kubepods/besteffort/" + POD + b"/crio-" + ID, ID),
        (b"/kubepods.slice/" + POD_SLICE + b"/crio-conmon-" + ID + b".scope", None),
        # nspawn and machined
        (b"/machine.slice/machine-web.scope/payload/init.scope", b"web"),
        (b"/machine.slice/machine-web\\x2d1.example.scope", b"web-1.example"),
        (b"/machine.slice/systemd-nspawn@my-web.service/payload/system.slice/x.service", b"my-web"),
        (b"/machine.slice/systemd-nspawn@web.service/supervisor", None),
        (b"/machine.slice/machine-web.scope/supervisor", None),
        (b"/machine.slice/machine-web.scope/payload/docker/" + ID, ID),
        (b"/machine.slice/machine-web.scope/payload/machine.slice/machine-in.scope", b"in"),
        (b"/machine.slice/machine-qemu\\x2d3\\x2dvm.scope/libvirt/emulator", None),
        (b"/machine.slice/machine-lxc\\x2d3\\x2dweb.scope", b"lxc-3-web"),
        (b"/machine-a-b.scope", None),
        (b"/machine-a\\x2fb.scope", None),
        (b"/machine-a\\x00b.scope", None),
        (b"/machine-a\\xZZ.scope", None),
        (b"/machine-\\x.scope", None),
        (b"/machine-" + b"a" * 65 + b".scope", None),
        (b"/machine-\xff.scope", None),
        (b"/machine-.scope", None),
        (b"/systemd-nspawn@.service", None),
        (b"/systemd-nspawn@a\\x2db.service", None),
        # LXC
        (b"/lxc.payload.web", b"web"),
        (b"/lxc.payload.web/system.slice/x.service", b"web"),
        (b"/lxc.payload/web/init.scope", b"web"),
        (b"/lxc/101/ns/system.slice/ssh.service", b"101"),
        (b"/lxc/101/ns/docker/" + ID, ID),
        (SESSION_3 + b"/lxc.payload.mine", b"mine"),
        (b"/lxc.monitor.web", None),
        (b"/lxc.monitor/101", None),
        (b"/lxc", None),
        (b"/lxc/..", None),
        (b"/lxc.payload.", None),
        (b"/lxc.payload.\xff\n", b"\xff\n"),
        # none
        (b"/", None),
        (b"", None),
        (b"/docker/" + ID[:-1], None),
        (b"/docker/" + ID + b"0", None),
        (b"/docker/" + ID.upper(), None),
        (b"/docker-" + ID + b".scope\n", None),
        (b"/evil-" + ID + b".scope", None),
        (b"/:docker:" + ID, None),
        (b"/" + b"4" * 100_000, None),
        (b"/x" * 50_000, None),
    ],
)
def test_names_the_innermost_container(path: bytes, container_id: bytes | None) -> None:
    assert parse_place(path).container_id == container_id


PARTS = st.one_of(
    st.binary(max_size=12),
    st.sampled_from(
        [
            b"..",
            b"a.slice",
            b"_a.service",
            b"user@1000.service",
            b"session-1.scope",
            b"machine-\\x2",
            b"lxc",
            ID,
        ]
    ),
)


@given(st.binary())
def test_no_file_is_too_odd(data: bytes) -> None:
    path = parse_cgroup_file(data)
    assert path is None or path.startswith(b"/")


@given(st.lists(PARTS, max_size=8), st.booleans())
def test_no_path_is_too_odd(parts: list[bytes], absolute: bool) -> None:
    path = b"/" * absolute + b"/".join(parts)
    place = parse_place(path)
    assert place.cgroup == path
    for name in (place.unit, place.user_unit, place.slice, place.session):
        assert name in (None, b"-.slice") or (name in path and name.isascii() and len(name) <= 255)


@given(st.lists(PARTS, max_size=6).map(b"/".join))
def test_what_the_file_says_comes_back(names: bytes) -> None:
    path = b"/" + names.replace(b"\n", b"")
    expected = path.removesuffix(b" (deleted)") or b"/"
    assert parse_cgroup_file(b"0::" + path + b"\n") == expected


def test_remembers_places() -> None:
    places = Places()
    place = places.get(b"/system.slice/ssh.service")
    assert place == Place(
        b"/system.slice/ssh.service", b"ssh.service", None, b"system.slice", None, container_id=None
    )
    assert places.get(bytes(bytearray(b"/system.slice/ssh.service"))) is place
    assert (places.cleared, places.uncached) == (0, 0)


def test_a_full_cache_starts_again() -> None:
    places = Places()
    first = places.get(b"/0")
    for number in range(1, PLACES_LIMIT):
        places.get(b"/%d" % number)
    assert places.get(b"/0") is first
    places.get(b"/one-more.service")
    assert places.cleared == 1
    assert places.get(b"/0") == first
    assert places.get(b"/0") is not first
    assert len(places._known) == 2


def test_long_paths_are_not_kept() -> None:
    places = Places()
    longest = b"/" + b"a" * (CACHED_PATH_LIMIT_BYTES - 1)
    assert places.get(longest) is places.get(longest)
    assert places.get(longest + b"a") is not places.get(longest + b"a")
    assert places.uncached == 2
