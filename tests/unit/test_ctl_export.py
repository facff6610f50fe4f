# SPDX-License-Identifier: MIT
"""procwatchctl export: what other programs are given, held against what their makers have published."""

from __future__ import annotations

import csv
import errno
import io
import itertools
import json
import os
import re
import stat
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from procwatchd.ctl.export import command
from procwatchd.ctl.export.csvlines import COLUMNS, csv_line
from procwatchd.ctl.export.ecs import ecs
from procwatchd.ctl.export.ocsf import ocsf
from procwatchd.ctl.export.perfetto import Trace
from procwatchd.ctl.export.typed import LeftOutError
from procwatchd.ctl.main import main
from procwatchd.ctl.past.entries import as_json
from procwatchd.ctl.past.unquote import is_cut
from procwatchd.journal.kinds import MESSAGE_IDS
from procwatchd.journal.quote import cut_argv, printable, quote_argv
from procwatchd.process.fields import EVENTS, FIELDS, Kind

DATA = Path(__file__).parents[1] / "data"
ECS = json.loads((DATA / "ecs-fields.json").read_text())
OCSF = json.loads((DATA / "ocsf-process-activity.json").read_text())

BOOT = "813f2d21f3bf4b15b683653bb20ed907"
SECOND = 1_000_000
BEGUN = 1_795_283_588 * SECOND
Entry = dict[str, Any]


def entry(event: str, pid: int = 26738, at: int = 0, /, **fields: object) -> Entry:
    """An entry as journalctl -o json has it; `at` is in µs."""
    own = {
        "PID": str(pid),
        "PROCESS_ID": f"{pid}-{3_000_000 + pid}",
        "IDENTITY": "same",
        "SOURCE": "recorder",
    }
    named = {"EVENT": event, "MONOTONIC_USEC": str(5_000_000_000 + at), **(own if event in EVENTS else {})}
    return {
        "__REALTIME_TIMESTAMP": str(BEGUN + at),
        "_BOOT_ID": BOOT,
        "_HOSTNAME": "vm",
        "_MACHINE_ID": "b" * 32,
        "MESSAGE": f"{event} of {pid}",
        "MESSAGE_ID": MESSAGE_IDS[event],
        "PRIORITY": "6",
        **{f"PROCWATCH_{name}": value for name, value in (named | fields).items() if value is not None},
    }


PLACE = {
    "PPID": "7", "PARENT_PROCESS_ID": "7-70", "PARENT_COMM": "bash", "PARENT_EXE": "/usr/bin/bash",
    "PARENT_CMDLINE": "bash -c 'a b'", "ANCESTORS": "bash[7] ?[3] systemd[1]", "UID": "1000", "EUID": "0",
    "GID": "100", "EGID": "5", "USER": "ann", "LOGINUID": "1000", "AUDIT_SESSION": "4", "SESSION": "12", "SID": "7",
    "CGROUP": "/x", "UNIT": "cron.service", "SLICE": "system.slice", "CONTAINER_ID": "c0ffee", "TTY": "pts/3",
    "CWD": "/root", "COMM": "curl", "EXE": "/usr/bin/curl", "CMDLINE": "curl -u '<redacted:password:0a>' $'x\\xff'",
    "TAGS": "net shell", "RULE": "all", "MOUNT_NAMESPACE": "4026531840", "ENV_LANG": "C", "TICKET": "7",
}  # fmt: skip
END = {
    "EXIT_CODE": "3", "EXIT_SOURCE": "taskstats", "DURATION_USEC": "2000000", "CPU_USEC": "1583",
    "MEMORY_PEAK": "1736704",
}  # fmt: skip
KILLED = {
    "EXIT_SIGNAL": "SIGKILL", "CORE_DUMPED": "1", "KILLER_PID": "9", "KILLER_COMM": "kill", "KILLER_EXE": "/bin/kill",
    "KILLER_UID": "0",
}  # fmt: skip
DETECTED = {
    "SIGMA_ID": ["a-1", "b-2"], "SIGMA_TITLE": ["Reverse Shell", "Curl"], "SIGMA_LEVEL": ["low", "high"],
    "SIGMA_TAGS": ["attack.execution attack.t1059.004 attack.g0032", "attack.command_and_control attack.t1105"],
    "SIGMA_AUTHOR": ["Ann", ""],
}  # fmt: skip
ALL = [
    entry("fork", 26738, 1, **PLACE),
    entry("exec", 26738, 2, **PLACE, FILENAME="./curl", SHA256="ab" * 32),
    entry("exec", 26739, 3, **PLACE, **DETECTED),
    entry("exec", 26740, 4, PROCESS_ID=None, IDENTITY=None),
    entry("exec", 26741, 5, **PLACE | {"CMDLINE": "cat a […2093056 bytes…] b", "ARGV_TRUNCATED": "1"}),
    entry("uid", 26738, 6, **PLACE, OLD_UID="0", OLD_EUID="0"),
    entry("gid", 26738, 7, **PLACE, OLD_GID="0"),
    entry("sid", 26738, 8, **PLACE),
    entry("comm", 26738, 9, **PLACE, OLD_COMM="x"),
    entry("ptrace", 26738, 10, **PLACE, TRACER_PID="12", TRACER_COMM="gdb", TRACER_EXE="/usr/bin/gdb"),
    entry("ptrace", 26738, 11, **PLACE),
    entry("coredump", 26738, 12, **PLACE),
    entry("fork", 26738, 13, **PLACE, TID="26800"),
    entry("exit", 26738, 14, **PLACE, **END, TID="26800"),
    entry("exit", 26738, 2 * SECOND, **PLACE, **END),
    entry("exit", 26739, 3 * SECOND, **PLACE, **END | KILLED | {"EXIT_CODE": None}),
    entry("exit", 26741, 4 * SECOND, **PLACE, RESYNC="1"),
    entry("start", VERSION="0.1.0", PROCESSES="77"),
    entry("loss", COUNT="5", LOST_WHERE="kernel", CPUS="0,2-3"),
    entry("summary", COUNT="9", GROUP="exe=/bin/cc", SAMPLE=["123", "cc -c"], RULE="7"),
    entry("statistics", RECEIVED="99"),
    entry("blind", COUNT="1"),
    entry("reload"),
]


def write(directory: Path, *of: object) -> str:
    path = directory / "entries"
    path.write_text("".join((one if isinstance(one, str) else json.dumps(one)) + "\n" for one in of))
    return str(path)


def export(
    capsys: pytest.CaptureFixture[str], directory: Path, form: str, *of: object, words: tuple[str, ...] = ()
) -> tuple[str, str]:
    """What is exported of entries, and what is said of the rest."""
    capsys.readouterr()
    assert main(["export", "--format", form, "--file", write(directory, *of), *words]) == 0
    return capsys.readouterr()


def test_json_is_what_the_journal_has(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hostile = entry("exec", COMM=[0xFF, 10], EXE="\x1b[31m\n\u202e", TAGS=None, SIGMA_ID=["a", [0xFE]])
    out, err = export(capsys, tmp_path, "json", *ALL, hostile)
    assert [json.loads(line) for line in out.splitlines()] == [*ALL, hostile]
    assert out.isascii()
    assert err == ""
    of_reader = {"PRIORITY": 6, "__REALTIME_TIMESTAMP": 7, "A": b"\xff", "B": ["x", b"\xfe"], "C": "ä"}
    wanted = {"PRIORITY": "6", "__REALTIME_TIMESTAMP": "7", "A": [255], "B": ["x", [254]], "C": "ä"}
    assert as_json(of_reader) == wanted


def test_csv_is_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, err = export(capsys, tmp_path, "csv", *ALL)
    rows = list(csv.DictReader(io.StringIO(out, newline=""), strict=True))
    assert out.count("\r\n") == out.count("\n") == len(rows) + 1
    assert len(rows) == len([one for one in ALL if one["PROCWATCH_EVENT"] in EVENTS])
    assert list(rows[0]) == list(COLUMNS)
    assert len(set(COLUMNS)) == len(COLUMNS) > len(FIELDS)
    assert rows[1]["time"] == "2026-11-21T17:53:08.000002Z"
    assert (rows[1]["host"], rows[1]["exe"], rows[1]["exit-code"]) == ("vm", "/usr/bin/curl", "")
    assert (rows[2]["sigma-title"], rows[14]["exit-code"]) == ("Reverse Shell; Curl", "3")
    assert "csv: 6 entries are left out, as they are of the daemon's own" in err


@pytest.mark.parametrize("begin", ["=", "+", "-", "@", "'=", "\t=", "\r="])
def test_no_cell_is_a_formula(begin: str) -> None:
    line = csv_line(entry("exec", COMM=begin + 'cmd|"x",\n1'))
    (row,) = csv.reader(io.StringIO(line, newline=""), strict=True)
    cell = row[COLUMNS.index("comm")]
    assert cell.isprintable()
    assert cell[0] in "'\\"
    assert cell.removeprefix("'") == printable(begin + 'cmd|"x",\n1')


@pytest.mark.parametrize("text", ["2-25", "12-1999", "1234567890e5", "1E9"])
def test_no_cell_is_a_date_or_another_number(text: str) -> None:
    assert cell_of(text) == f"'{text}"


@pytest.mark.parametrize("text", ["26738-3026738", "0e5x", "1-2-3", "12", "a;b", "a; b -c"])
def test_a_plain_cell_is_as_it_is(text: str) -> None:
    assert cell_of(text) == text


@pytest.mark.parametrize("text", ["x;=cmd|' /C calc'!A0", "x; -1", 'x;"=1"', "x;;@a"])
def test_no_cell_begins_a_formula_after_a_semicolon(text: str) -> None:
    cell = cell_of(text)
    assert not re.search(r';[ "]*[=+@-]', cell)
    assert cell.replace("\\x3b", ";") == text


def cell_of(text: str) -> str:
    line = csv_line(entry("exec", COMM=text))
    (row,) = csv.reader(io.StringIO(line, newline=""), strict=True)
    return row[COLUMNS.index("comm")]


def leaves(document: dict[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in document.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{above}{name}.")
        else:
            yield above + name, value


def is_of_ecs_type(path: str, value: object) -> bool:
    kind, *normal = ECS["fields"][path]
    each = value if isinstance(value, list) else [value]
    # Several detections have several rules.
    if isinstance(value, list) != bool(normal) and not (path.startswith("rule.") and len(each) > 1):
        return False
    if kind == "long":
        return all(type(one) is int and 0 <= one < 1 << 63 for one in each)
    if kind == "date":
        date = re.compile(r"\d{4,}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")
        return all(isinstance(one, str) and date.fullmatch(one) for one in each)
    return all(isinstance(one, str) and one.encode() is not None for one in each)


def check_ecs(document: dict[str, Any]) -> None:
    found = dict(leaves(document))
    assert found.keys() >= set(ECS["required"])
    for path, value in found.items():
        if path.startswith("procwatchd."):
            assert re.fullmatch(r"procwatchd\.[a-z0-9_]+", path)
            assert value not in (None, [])
        else:
            assert is_of_ecs_type(path, value), (path, value)
    for path, values in ECS["values"].items():
        each = found.get(path, [])
        assert set([each] if isinstance(each, str) else each) <= set(values)
    expected = [set(ECS["expected_types"][category]) for category in found.get("event.category", [])]
    # Each category has a type of its own, and no type is of none.
    assert all(of & set(found["event.type"]) for of in expected)
    assert not expected or set(found["event.type"]) <= set().union(*expected)


def test_ecs_has_published_fields_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, err = export(capsys, tmp_path, "ecs", *ALL)
    documents = [json.loads(line) for line in out.splitlines()]
    assert (len(documents), err) == (len(ALL), "")
    for document in documents:
        check_ecs(document)
    assert len({document["event"]["id"] for document in documents}) == len(ALL)


def test_ecs_says_all_that_the_entry_says() -> None:
    found = dict(leaves(ecs(ALL[1])))
    assert found["@timestamp"] == "2026-11-21T17:53:08.000002Z"
    assert found["process.entity_id"] == f"{BOOT}-26738-3026738"
    assert found["process.parent.entity_id"] == f"{BOOT}-7-70"
    assert found["process.args"] == ["curl", "-u", "<redacted:password:0a>", "x\\xff"]
    assert found["process.parent.args"] == ["bash", "-c", "a b"]
    assert (found["user.id"], found["user.effective.id"], found["process.user.id"]) == ("1000", "0", "0")
    assert (found["tags"], found["event.type"], found["event.action"]) == (
        ["net", "shell"],
        ["start"],
        "exec",
    )
    assert (found["procwatchd.ticket"], found["procwatchd.loginuid"]) == ("7", 1000)
    assert found["host.boot.id"] == "813f2d21-f3bf-4b15-b683-653bb20ed907"
    end = dict(leaves(ecs(ALL[14])))
    assert (end["process.exit_code"], end["process.uptime"], end["event.type"]) == (3, 2, ["end"])
    assert end["process.start"] == "2026-11-21T17:53:08.000000Z"
    values = {
        str(one)
        for _, value in leaves(ecs(ALL[15]))
        for one in (value if isinstance(value, list) else [value])
    }
    missing = [
        name
        for name, value in ALL[15].items()
        if not name.startswith("__") and name not in ("_BOOT_ID", "PROCWATCH_TAGS") and value not in values
    ]
    assert missing == []


def test_ecs_makes_an_alert_of_detections() -> None:
    found = dict(leaves(ecs(ALL[2])))
    assert (found["event.kind"], found["event.category"]) == ("alert", ["process", "intrusion_detection"])
    assert (found["rule.id"], found["rule.author"]) == (["a-1", "b-2"], ["Ann"])
    assert found["threat.tactic.id"] == ["TA0002", "TA0011"]
    assert found["threat.technique.id"] == ["T1059", "T1105"]
    assert found["threat.technique.subtechnique.id"] == ["T1059.004"]
    assert found["procwatchd.sigma_level"] == ["low", "high"]
    one = dict(leaves(ecs(entry("exec", SIGMA_ID="a", SIGMA_TITLE="A", SIGMA_TAGS="", SIGMA_AUTHOR=""))))
    assert (one["rule.name"], one.keys() & {"threat.framework", "rule.author"}) == ("A", set())


def test_ecs_tells_of_the_daemon() -> None:
    documents = {one["PROCWATCH_EVENT"]: ecs(one) for one in ALL}
    assert [documents[event]["event"]["kind"] for event in ("start", "statistics", "summary", "exec")] == [
        *("state", "metric", "event", "event")
    ]
    assert documents["loss"]["event"]["type"] == ["error"]
    assert documents["loss"]["procwatchd"] | {"monotonic_usec": 0} == {
        "count": 5, "lost_where": "kernel", "cpus": "0,2-3", "monotonic_usec": 0,
    }  # fmt: skip
    assert documents["summary"]["procwatchd"]["sample"] == ["123", "cc -c"]
    assert documents["summary"]["procwatchd"]["rule"] == "7"


def test_who_it_acts_as_is_told_where_the_entry_leaves_it_out() -> None:
    same = entry("exec", UID="1000", USER="ann")
    document = ecs(same)
    assert document["user"] == {"id": "1000", "name": "ann", "effective": {"id": "1000", "name": "ann"}}
    assert document["process"]["user"] == {"id": "1000", "name": "ann"}
    assert ocsf(same)["process"]["euid"] == 1000
    # Of a list of fields nobody knows why EUID is not in it.
    listed = entry("exec", UID="1000", USER="ann", SOURCE=None)
    assert "effective" not in ecs(listed)["user"]
    assert "euid" not in ocsf(listed)["process"]
    assert ecs(entry("exec", UID="1000", USER="ann", EUID="0"))["process"]["user"] == {"id": "0"}


def test_what_was_found_late_was_not_seen() -> None:
    place = {"RESYNC": "1", "PPID": "1", "PARENT_PROCESS_ID": "1-3"}
    begun, gone = entry("fork", 5, **place), entry("exit", 5, **place)
    for one, name in ((begun, "Found"), (gone, "Found Gone")):
        event = ocsf(one)
        check_event(event)
        assert (event["activity_id"], event["activity_name"]) == (99, name)
        assert "launch_type" not in event
        assert event["actor"]["process"]["pid"] == 5
        assert ecs(one)["event"]["type"] == ["info"]
    # The accounting has its time.
    assert ocsf(gone | {"PROCWATCH_EXIT_SOURCE": "taskstats"})["activity_name"] == "Terminate"


@pytest.mark.parametrize("name", ["SIGMA_ID", "SIGMA_TITLE", "SIGMA_LEVEL", "SIGMA_TAGS", "SIGMA_AUTHOR"])
def test_any_field_of_a_detection_makes_an_alert(name: str) -> None:
    one = entry("exec", **{name: "high"})
    check_ecs(ecs(one))
    check_event(ocsf(one))
    assert (ecs(one)["event"]["kind"], ecs(one)["event"]["type"]) == ("alert", ["start", "info"])
    assert ocsf(one)["is_alert"] is True


@pytest.mark.parametrize("name", ["CMDLINE", "PARENT_CMDLINE"])
def test_nobody_hides_arguments_behind_one(name: str) -> None:
    argv = ["nc", "-e", "/bin/sh", "[…1 bytes…]", "it's […2 bytes…]"]
    shown = quote_argv("".join(f"{word}\0" for word in argv).encode())
    process = ecs(entry("exec", **{name: shown}))["process"]
    assert process.get("parent", process)["args"] == argv
    cut = cut_argv("\0".join([*argv, "x" * 99, ""]).encode(), 64, 200)
    assert "args" not in ecs(entry("exec", CMDLINE=cut))["process"]


@given(st.lists(st.one_of(st.text("[…1 bytes]'\\ \n"), st.just("[…1 bytes…]")), min_size=1, max_size=5))
@settings(deadline=None)
def test_only_what_is_cut_is_taken_for_it(argv: list[str]) -> None:
    raw = "".join(f"{word}\0" for word in argv).encode("utf-8")
    assert not is_cut(quote_argv(raw))
    assert is_cut(cut_argv(raw + bytes(8) + b"x" * 64, 32, len(raw) + 72))


def test_ids_tell_processes_apart() -> None:
    of = {"PROCESS_ID": None, "COMM": "x"}
    one, other = (entry("exec", pid, **of) | {"MESSAGE": "shell"} for pid in (5, 6))
    assert ecs(one)["event"]["id"] != ecs(other)["event"]["id"]


def test_what_is_cut_has_no_arguments() -> None:
    assert "args" not in ecs(ALL[4])["process"]
    assert ecs(ALL[4])["process"]["command_line"] == "cat a […2093056 bytes…] b"


def check_ocsf(found: dict[str, Any], published: dict[str, Any], of: str, profiles: set[str]) -> None:
    """Whether an object has what is published of it, and all that has to be there."""
    required = {name for name, one in published.items() if one.get("required")}
    assert found.keys() >= {name for name in required if not published[name].get("profile")}, of
    assert found.keys() & set(OCSF["at_least_one"].get(of, found.keys()))
    for name, value in found.items():
        one = published[name]
        assert one.get("profile") is None or one["profile"] in profiles
        assert isinstance(value, list) == one.get("array", False), (of, name)
        for each in value if isinstance(value, list) else [value]:
            check_ocsf_value(each, one, name, profiles)


def check_ocsf_value(value: Any, published: dict[str, Any], name: str, profiles: set[str]) -> None:
    kind = published["type"]
    if name == "unmapped":
        assert all(isinstance(one, str | int | list) for one in value.values())
    elif kind in OCSF["objects"]:
        check_ocsf(value, OCSF["objects"][kind], kind, profiles)
    elif kind in ("integer_t", "long_t", "timestamp_t"):
        assert type(value) is int
        assert 0 <= value < 1 << 63
    elif kind == "boolean_t":
        assert type(value) is bool
    else:
        assert value
        assert isinstance(value, str)
        assert value.encode()
    assert value in published.get("values", [value])


def check_event(event: dict[str, Any]) -> None:
    profiles = set(event["metadata"].get("profiles", ()))
    check_ocsf(event, OCSF["class"], "class", profiles)
    assert event["type_uid"] == 100 * event["class_uid"] + event["activity_id"]
    for name, captions in OCSF["captions"].items():
        caption = name.removesuffix("_id").removesuffix("_uid")
        caption = {"activity": "activity_name", "type": "type_name"}.get(caption, caption)
        if name in event and str(event[name]) != "99":
            assert event[caption] == captions[str(event[name])]


def test_ocsf_has_published_attributes_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, err = export(capsys, tmp_path, "ocsf", *ALL)
    events = [json.loads(line) for line in out.splitlines()]
    for event in events:
        check_event(event)
    assert len({event["metadata"]["uid"] for event in events}) == len(events) == len(ALL) - 6
    assert "ocsf: 6 entries are left out, as they are of the daemon's own" in err


def test_ocsf_says_who_did_what() -> None:
    events = [ocsf(one) for one in ALL if one["PROCWATCH_EVENT"] in EVENTS]
    assert [event["activity_name"] for event in events] == [
        *("Launch", "Launch", "Launch", "Launch", "Launch", "Set User ID", "Set Group ID", "Set Session ID"),
        *(
            "Set Name",
            "Open",
            "End Trace",
            "Dump Core",
            "Start Thread",
            "End Thread",
            "Terminate",
            "Terminate",
        ),
        "Found Gone",
    ]
    assert [event["actor"]["process"]["pid"] for event in events] == [
        *(7, 7, 7, 26740, 7, 26738, 26738, 26738, 26738, 12, 26738, 26738, 7, 26738, 26738, 9, 26741)
    ]
    assert [event.get("launch_type") for event in events[:3]] == ["Fork", "Exec", "Exec"]
    launched, ended, killed = events[1], events[14], events[15]
    assert (launched["time"], launched["metadata"]["original_time"]) == (
        BEGUN // 1000,
        "2026-11-21T17:53:08.000002Z",
    )
    assert launched["process"]["ancestry"] == [
        {"pid": 7, "name": "bash"},
        {"pid": 3},
        {"pid": 1, "name": "systemd"},
    ]
    assert launched["process"]["file"]["hashes"][0]["value"] == "ab" * 32
    assert launched["process"]["parent_process"]["uid"] == f"{BOOT}-7-70"
    assert launched["unmapped"]["TICKET"] == "7"
    assert (ended["exit_code"], ended["process"]["terminated_time"] - ended["process"]["created_time"]) == (
        3,
        2000,
    )
    assert killed["actor"]["process"]["user"] == {"uid": "0"}
    assert killed["unmapped"]["EXIT_SIGNAL"] == "SIGKILL"
    by_itself = ocsf(entry("exit", 9, **PLACE, **KILLED))["actor"]["process"]
    assert by_itself["uid"] == f"{BOOT}-9-3000009"
    # It was found to be gone: nobody knows since when.
    assert "terminated_time" not in events[16]["process"]


def test_ocsf_says_what_was_detected() -> None:
    found = ocsf(ALL[2])
    assert (found["is_alert"], found["severity"], found["disposition"]) == (True, "High", "Detected")
    assert found["attacks"] == [
        {"tactic": {"uid": "TA0002", "name": "Execution"}},
        {"tactic": {"uid": "TA0011", "name": "Command and Control"}},
        {"technique": {"uid": "T1105"}},
        {"technique": {"uid": "T1059"}, "sub_technique": {"uid": "T1059.004"}},
    ]
    assert found["unmapped"]["SIGMA_TITLE"] == ["Reverse Shell", "Curl"]
    assert "security_control" in found["metadata"]["profiles"]


def test_ocsf_leaves_out_what_it_cannot_say(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hostless = {name: value for name, value in ALL[0].items() if name not in ("_HOSTNAME", "_MACHINE_ID")}
    timeless = {name: value for name, value in ALL[0].items() if name != "__REALTIME_TIMESTAMP"}
    out, err = export(
        capsys, tmp_path, "ocsf", hostless, timeless, entry("exec", PID="x", PROCESS_ID=None), ALL[1]
    )
    assert out.count("\n") == 1
    for why in ("host", "time", "process"):
        assert f"ocsf: 1 entries are left out, as they are without a {why}" in err


def read_at(one: Entry, late_usec: int) -> Entry:
    """The same as journald has it, that late."""
    written = int(one["__REALTIME_TIMESTAMP"]) + late_usec
    read = int(one["PROCWATCH_MONOTONIC_USEC"]) + late_usec
    return one | {"__REALTIME_TIMESTAMP": str(written), "__MONOTONIC_TIMESTAMP": str(read)}


def time_and_id(form: str, one: Entry) -> tuple[str, str]:
    if form == "ecs":
        document = ecs(one)
        return document["@timestamp"], document["event"]["id"]
    metadata = ocsf(one)["metadata"]
    return metadata["original_time"], metadata["uid"]


@pytest.mark.parametrize("form", ["ecs", "ocsf"])
def test_the_time_is_the_kernel_s_and_ids_stay(form: str) -> None:
    one = entry("exec", 5, 100)
    when, uid = time_and_id(form, one)
    assert when == "2026-11-21T17:53:08.000100Z"
    assert time_and_id(form, read_at(one, 7000) | {"__CURSOR": "s=1", "PRIORITY": "1"}) == (when, uid)
    elsewhere = read_at(one, 7000) | {"__MONOTONIC_TIMESTAMP": "7"}
    assert time_and_id(form, elsewhere)[0] == "2026-11-21T17:53:08.007100Z"
    assert time_and_id(form, entry("exec", 5, 101))[1] != uid


def slices(trace: list[dict[str, Any]]) -> dict[int, list[dict[str, Any]]]:
    """By track, the slices in their order; checks what holds for every trace."""
    found: dict[int, list[dict[str, Any]]] = defaultdict(list)
    groups: dict[int, int] = {}
    named = {one["tid"] for one in trace if one["name"] == "thread_name"}
    hosts = {one["pid"] for one in trace if one["name"] == "process_name"}
    for one in trace:
        assert one["ph"] in ("M", "X", "i")
        assert one["tid"] in named
        assert one["pid"] in hosts
        assert groups.setdefault(one["tid"], one["pid"]) == one["pid"]
        if one["ph"] == "X":
            assert one["dur"] >= 0
            found[one["tid"]].append(one)
        if one["ph"] != "M":
            assert type(one["ts"]) is int
    assert not groups.keys() & hosts
    for track in found.values():
        track.sort(key=lambda one: (one["ts"], one["ts"] + one["dur"]))
        for before, after in itertools.pairwise(track):
            assert before["ts"] + before["dur"] <= after["ts"]
    return found


def names(trace: list[dict[str, Any]], what: str) -> dict[str, int]:
    key = "tid" if what == "thread_name" else "pid"
    return {one["args"]["name"]: one[key] for one in trace if one["name"] == what}


def test_perfetto_has_a_track_for_each_process(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, err = export(capsys, tmp_path, "perfetto", *ALL)
    trace = json.loads(out)
    tracks, of = slices(trace), names(trace, "thread_name")
    assert out.isascii()
    assert "perfetto: 3 entries are left out, as they are of the daemon's own" in err
    assert len(of) == len({one["tid"] for one in trace})
    killed = tracks[of["curl[26739]"]]
    assert [one["args"].get("status") for one in killed][-1] == "SIGKILL from kill[9]"
    instants = [(one["name"], one["tid"]) for one in trace if one["ph"] == "i"]
    assert ("SIGKILL", of["curl[26739]"]) in instants
    assert ("ptrace", of["curl[26738]"]) in instants
    assert ("loss", of["procwatchd"]) in instants


def test_perfetto_has_what_a_process_ran_one_after_the_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    life = [
        entry("exec", 5, 2 * SECOND, COMM="sh", EXE="/bin/sh", CMDLINE="sh -c x"),
        entry("exec", 5, 3 * SECOND, COMM="env", EXE="/bin/env", CMDLINE="env x"),
        entry(
            "exit", 5, 4 * SECOND, COMM="env", EXE="/bin/env", EXIT_CODE="1", DURATION_USEC=str(3 * SECOND)
        ),
    ]
    trace = json.loads(export(capsys, tmp_path, "perfetto", *life)[0])
    (track,) = slices(trace).values()
    assert [(one["name"], one["ts"] - BEGUN, one["dur"]) for one in track] == [
        ("forked", SECOND, SECOND),
        ("sh", 2 * SECOND, SECOND),
        ("env", 3 * SECOND, SECOND),
    ]
    assert ["status" in one["args"] for one in track] == [False, False, True]
    assert (track[-1]["args"]["exit_code"], track[-1]["args"]["command"]) == (1, "env x")


def test_perfetto_knows_only_an_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ended = entry("exit", 5, SECOND, EXE="/bin/a", EXIT_CODE="0", DURATION_USEC=str(9 * SECOND))
    (track,) = slices(json.loads(export(capsys, tmp_path, "perfetto", ended)[0])).values()
    assert [(one["name"], one["ts"], one["dur"]) for one in track] == [("a", BEGUN - 8 * SECOND, 9 * SECOND)]


def test_perfetto_has_the_kernel_s_times(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    of = {"COMM": "x", "EXE": "/bin/x"}
    life = [read_at(entry("exec", 5, 0, **of), 30_000), read_at(entry("exit", 5, 900, **of), 7)]
    (track,) = slices(json.loads(export(capsys, tmp_path, "perfetto", *life)[0])).values()
    assert [(one["ts"], one["dur"]) for one in track] == [(BEGUN, 900)]


def test_perfetto_tells_lives_of_one_pid_and_hosts_apart(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = {"_BOOT_ID": "0" * 32, "_HOSTNAME": "web", "_MACHINE_ID": "c" * 32}
    lives = [
        entry(event, 5, turn * SECOND + at, PROCESS_ID=f"5-{turn}", COMM=f"c{turn}", EXE="/bin/x") | host
        for turn in range(4)
        for at, event in enumerate(("exec", "exit"))
        for host in ({}, other)
    ]
    trace = json.loads(export(capsys, tmp_path, "perfetto", *lives)[0])
    assert len(slices(trace)) == 8
    assert set(names(trace, "process_name")) == {"vm, boot 813f2d21", "web, boot 00000000"}
    by_host = defaultdict(set)
    for track in slices(trace).values():
        by_host[track[0]["pid"]].add(track[0]["tid"])
    assert sorted(map(len, by_host.values())) == [4, 4]


def test_perfetto_keeps_hosts_apart_whose_processes_do_not_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    of = {"ANCESTORS": "init[1]", "EXE": "/bin/x"}
    other = {"_BOOT_ID": "0" * 32, "_HOSTNAME": "web", "_MACHINE_ID": "c" * 32}
    lines = [
        entry("exec", 5, 0, COMM="nginx", **of),
        entry("exec", 6, SECOND, COMM="postgres", **of) | other,
        entry("exec", 7, 99 * SECOND, COMM="late", **of) | other,
    ]
    trace = json.loads(export(capsys, tmp_path, "perfetto", *lines)[0])
    groups = {number: name for name, number in names(trace, "process_name").items()}
    tracks, of_name = slices(trace), names(trace, "thread_name")
    found = {name: tracks[of_name[name]][-1] for name in ("nginx[5]", "postgres[6]")}
    assert {name: groups[one["pid"]].partition(",")[0] for name, one in found.items()} == {
        "nginx[5]": "vm",
        "postgres[6]": "web",
    }
    # Each up to the last entry of its own boot.
    assert {name: one["dur"] for name, one in found.items()} == {"nginx[5]": 0, "postgres[6]": 98 * SECOND}


def test_perfetto_leaves_out_what_it_cannot_draw(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    of = {"COMM": "x", "EXE": "/bin/x"}
    begun, end = entry("exec", 5, 0, **of), entry("exit", 5, 900, **of)
    never = entry("exec", 6, 0, **of) | {"__REALTIME_TIMESTAMP": str(1 << 56)}
    out, err = export(capsys, tmp_path, "perfetto", begun, never, end, end, begun)
    assert [(one["name"], one["dur"]) for one in json.loads(out) if one["ph"] == "X"] == [("x", 900)]
    assert "perfetto: 2 entries are left out, as they are of a process that had ended, or there twice" in err
    assert "perfetto: 1 entries are left out, as they are of a time that is too late" in err


def test_perfetto_says_where_ends_are_not_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    err = {
        words: export(capsys, tmp_path, "perfetto", *ALL, words=words)[1]
        for words in ((), ("event=exec",), ("event!=exit",), ("event=exit",), ("pid=5",))
    }
    said = [words for words, text in err.items() if "leaves out the ends of processes" in text]
    assert said == [("event=exec",), ("event!=exit",)]


def test_perfetto_draws_when_nobody_heard(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def told(event: str, at: int, since: int, until: int) -> Entry:
        monotonic = {"SINCE_USEC": str(5_000_000_000 + since), "UNTIL_USEC": str(5_000_000_000 + until)}
        return entry(event, 0, at, **monotonic)

    lines = [
        told("loss", 50, 10, 40),
        told("blind", 70, 30, 60),
        told("loss", 80, 20, 50),
        told("loss", 90, 9, 10**17),
    ]
    trace = json.loads(export(capsys, tmp_path, "perfetto", *lines)[0])
    (track,) = slices(trace).values()
    assert [(one["name"], one["ts"] - BEGUN, one["dur"], one["args"]["lasted_usec"]) for one in track] == [
        ("events lost", 10, 30, 30),
        ("blind", 40, 20, 30),
    ]
    assert len([one for one in trace if one["ph"] == "i"]) == len(lines)


def test_perfetto_has_those_that_were_there_before_and_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # A PROCESS_ID tells when its process began.
    of = {"PPID": "2", "ANCESTORS": "bash[2] init[1]", "PROCESS_ID": None}
    child = entry("exec", 5, 0, **of, COMM="sleep", EXE="/bin/sleep")
    last = entry("exec", 6, 5 * SECOND, COMM="x", EXE="/bin/x")
    trace = json.loads(export(capsys, tmp_path, "perfetto", child, last)[0])
    tracks, of_name = slices(trace), names(trace, "thread_name")
    for name in ("sleep[5]", "bash[2]", "init[1]"):
        (one,) = tracks[of_name[name]]
        assert (one["ts"], one["dur"]) == (BEGUN, 5 * SECOND)
        assert one["args"]["status"] == "no end in these entries"
        assert one["args"]["started"].startswith("before")
    assert tracks[of_name["sleep[5]"]][0]["args"]["parent"] == "bash[2]"


def test_perfetto_writes_lives_as_they_end() -> None:
    trace = Trace()
    for number in range(3000):
        pid = 100 + number % 7
        of = {"PROCESS_ID": f"{pid}-{number}", "COMM": "x", "EXE": "/bin/x"}
        assert '"X"' not in trace.take(entry("exec", pid, 2 * number, **of))
        assert '"X"' in trace.take(entry("exit", pid, 2 * number + 1, **of, EXIT_CODE="0"))
    assert (trace.lives.living, list(trace.end())) == ({}, ["\n]\n"])


def test_perfetto_of_nothing_is_a_trace(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert json.loads(export(capsys, tmp_path, "perfetto")[0]) == []


_TEXTS: st.SearchStrategy[Any] = st.one_of(
    st.text(st.characters(codec=None), max_size=12),
    st.sampled_from(
        ["0", "7", "9" * 18, "9" * 19, "-1", "1e3", "٣", "", "\ud800", "=1", "a[1] b[2] c[99999999999]"]
    ),
    st.lists(st.integers(-1, 300), max_size=4),
    st.lists(st.one_of(st.text(max_size=4), st.none(), st.integers()), max_size=3),
    st.sampled_from([None, {}, True, -5, 1 << 70, 0.5, [[255], "x"]]),
)
_NAMES = st.sampled_from(
    [
        *(
            f"PROCWATCH_{name}"
            for name in (*FIELDS, "TAGS", "RULE", "SIGMA_TITLE", "SIGMA_TAGS", "SIGMA_LEVEL", "x.y")
        ),
        *(
            "__MONOTONIC_TIMESTAMP",
            "__REALTIME_TIMESTAMP",
            "_BOOT_ID",
            "_HOSTNAME",
            "_MACHINE_ID",
            "PRIORITY",
            "MESSAGE",
            "MESSAGE_ID",
        ),
    ]
)


@given(st.integers(0, 10**10), st.integers(0, 10**11))
@settings(deadline=None)
def test_no_time_is_before_1970(written: int, read: int) -> None:
    clocks = {"__REALTIME_TIMESTAMP": str(written), "__MONOTONIC_TIMESTAMP": str(read)}
    changed = entry("exec", COMM="x", MONOTONIC_USEC=str(max(0, read - 30 * SECOND))) | clocks
    check_ecs(ecs(changed))
    check_event(ocsf(changed))
    assert not ecs(changed)["@timestamp"].startswith("196")


@given(
    st.sampled_from(ALL),
    st.dictionaries(_NAMES.filter(lambda name: name != "PROCWATCH_EVENT"), _TEXTS, max_size=9),
)
@settings(max_examples=150, deadline=None)
def test_whatever_a_value_is_the_form_is_kept(one: Entry, hostile: Entry) -> None:
    changed = one | hostile
    try:
        check_ecs(json.loads(json.dumps(ecs(changed))))
        check_event(json.loads(json.dumps(ocsf(changed))))
    except LeftOutError:
        is_known = hostile.keys() & {"PROCWATCH_PID", "_HOSTNAME", "__REALTIME_TIMESTAMP"}
        assert is_known or changed["PROCWATCH_EVENT"] not in EVENTS


@given(st.lists(st.tuples(st.sampled_from(ALL), st.dictionaries(_NAMES, _TEXTS, max_size=4)), max_size=8))
@settings(max_examples=75, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_is_read_is_exported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], of: list[tuple[Entry, Entry]]
) -> None:
    lines = [one | hostile for one, hostile in of]
    slices(json.loads(export(capsys, tmp_path, "perfetto", *lines)[0]))
    out = export(capsys, tmp_path, "csv", *lines)[0]
    assert all(len(row) == len(COLUMNS) for row in csv.reader(io.StringIO(out, newline=""), strict=True))
    assert out.replace("\r\n", "").isprintable()
    for form in ("json", "ecs", "ocsf"):
        assert export(capsys, tmp_path, form, *lines)[0].isascii()


def test_a_number_is_always_one() -> None:
    """What a store has learned to be a number must not be a text some day."""
    numbers = {name.lower() for name, field in FIELDS.items() if field.kind is Kind.NUMBER}
    for one in ALL[:17]:
        found = ecs(one)["procwatchd"]
        assert {type(value) for name, value in found.items() if name in numbers} <= {int}
        assert {type(value) for name, value in found.items() if name not in numbers} <= {str, list, int}
        assert all(type(found[name]) is str for name in ("ticket", "env_lang") if name in found)


def test_only_what_is_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, _ = export(capsys, tmp_path, "json", *ALL, words=("event=exit", "pid=26739"))
    assert [json.loads(line) for line in out.splitlines()] == [ALL[15]]
    out, err = export(capsys, tmp_path, "ecs", ALL[0], "{", {"x": 1}, words=("--since", "2026-11-21"))
    assert out.count("\n") == 1
    assert "2 lines or entries passed over" in err


def test_what_journalctl_left_out_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, err = export(capsys, tmp_path, "ecs", ALL[0] | {"PROCWATCH_CMDLINE": None})
    assert "ecs: 1 entries lack what was too long for journalctl without --all" in err


def test_a_file_is_whole_or_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "out"
    target.write_text("before")
    target.chmod(0o644)
    (tmp_path / "link").symlink_to(target)
    words = ["export", "--file", write(tmp_path, *ALL), "-o"]
    assert main([*words, str(tmp_path / "link"), "--format", "csv"]) == 0
    assert target.read_bytes().startswith(b"time,host,")
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert (tmp_path / "link").is_symlink()
    before = target.read_bytes()
    assert main(["export", "--file", str(tmp_path / "none"), "-o", str(target)]) == 2
    assert target.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["entries", "link", "out"]
    capsys.readouterr()
    assert main([*words, str(tmp_path / "none" / "x")]) == 2
    assert "cannot write" in capsys.readouterr().err


def test_what_is_no_file_stays_what_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["export", "--file", write(tmp_path, *ALL), "-o"]
    assert main([*words, os.devnull]) == 0
    assert stat.S_ISCHR(os.stat(os.devnull).st_mode)
    assert main([*words, "-"]) == 0
    assert capsys.readouterr().out.count("\n") == len(ALL)


def test_a_file_that_is_open_is_added_to(tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.write_text("before\n")
    source = write(tmp_path, *ALL)
    with target.open("a") as file:
        assert main(["export", "--file", source, "-o", f"/proc/self/fd/{file.fileno()}"]) == 0
    lines = target.read_text().splitlines()
    assert (lines[0], len(lines)) == ("before", 1 + len(ALL))


def test_a_file_has_a_name_and_can_be_replaced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["export", "--file", write(tmp_path, *ALL), "-o"]
    assert main([*words, ""]) == 2
    assert "is empty" in capsys.readouterr().err

    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "replace", refuse)
    assert main([*words, str(tmp_path / "out")]) == 2
    assert f"cannot write {tmp_path}/out: Operation not permitted" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["entries"]


def test_no_progress_is_shown_within_the_output(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(command, "with_progress", refuse)
    words = ["export", "--file", write(tmp_path, *ALL)]
    with monkeypatch.context() as on_terminal:
        on_terminal.setattr(sys.stdout, "isatty", lambda: True)
        assert main([*words, "-o", "-"]) == 0
    assert capsys.readouterr().out.count("\n") == len(ALL)


def test_others_can_be_waited_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "out"
    words = ["export", "-f", "--file", write(tmp_path, *ALL), "-o", str(target)]
    assert main(words) == 0
    assert len(target.read_text().splitlines()) == len(ALL)
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert main([*words, "--format", "perfetto"]) == 2
    assert "a trace has an end" in capsys.readouterr().err
