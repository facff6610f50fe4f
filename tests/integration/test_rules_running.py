# SPDX-License-Identifier: MIT
"""Rules on the running daemon: what is silenced, labelled, hidden and detected on a real kernel, and hashed beside."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

from tests.integration.actor import Actor
from tests.integration.journald import PrivateJournald
from tests.integration.ledger import check_end, check_sums, terms_of
from tests.integration.running import Entry, FdStore, RunningDaemon, Wanted, of

NOBODY, QUIET = 65534, 65533
FLOOD = 300

OURS = f"match: {{not: {{any: [{{ancestor.pid: {os.getpid()}}}, {{tags: job}}]}}}}"
CONFIG = f"""
capture: {{events: [exec]}}
rules:
  - name: job
    match: {{cmdline|contains: tagged-by-a-rule}}
    action: tag
    tags: [job]
    inherit: true
  - name: others
    {OURS}
    action: drop
"""


def get(entry: Entry, name: str) -> str:
    value = entry.get(f"PROCWATCH_{name}", "")
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def execed(cmdline: str) -> Wanted:
    """Tells execs with this in their command line."""
    return lambda entry: of("exec")(entry) and cmdline in get(entry, "CMDLINE")


def as_user(uid: int, *command: str) -> None:
    subprocess.run(["setpriv", f"--reuid={uid}", "--clear-groups", *command], check=True)


def test_a_flood_hides_nobody_else_and_is_told(tmp_path: Path) -> None:
    config = CONFIG + "log: {limit: 100/30s, fields: all}\n"
    script = f"i=0; while [ $i -lt {FLOOD} ]; do /bin/true flood-$i; i=$((i+1)); done"
    with RunningDaemon(tmp_path, config) as daemon:
        flood = subprocess.Popen(["setpriv", f"--reuid={NOBODY}", "--clear-groups", "sh", "-c", script])
        for n in range(10):
            as_user(QUIET, "/bin/true", f"quiet-{n}")
        assert flood.wait() == 0
        as_user(QUIET, "/bin/true", "quiet-after")
        assert daemon.stop() == 0
    quiet = [get(entry, "CMDLINE").split()[-1] for entry in daemon.having(of("exec", uid=QUIET))]
    assert quiet == [*(f"quiet-{n}" for n in range(10)), "quiet-after"]
    (told,) = daemon.having(of("summary"))
    logged = daemon.having(of("exec", uid=NOBODY))
    assert f"uid={NOBODY}" in get(told, "GROUP")
    assert len(logged) + int(get(told, "COUNT")) == FLOOD + 1  # and the shell
    assert len(logged) >= 100 // 3
    samples = told["PROCWATCH_SAMPLE"]
    assert len(set(samples)) == 5
    assert all(sample.startswith("/bin/true flood-") for sample in samples)
    last = max(int(get(entry, "MONOTONIC_USEC")) for entry in logged)
    assert int(get(told, "SINCE_USEC")) < int(get(told, "UNTIL_USEC"))
    assert int(get(told, "UNTIL_USEC")) > last
    terms = check_end(daemon.entries[-1])
    assert (terms["LIMITED"], terms["COUNTED"]) == (int(get(told, "COUNT")), 0)


def test_what_is_counted_is_told_at_a_reload_and_at_the_end(tmp_path: Path) -> None:
    config = CONFIG + "  - {name: calls, match: {comm: 'true'}, action: count, every: 1h, by: [uid]}\n"
    with RunningDaemon(tmp_path, config) as daemon:
        for n in range(5):
            as_user(0, "/bin/true", f"of-root-{n}")
        for n in range(3):
            as_user(NOBODY, "/bin/true", f"of-nobody-{n}")
        # They are pending until they are told.
        terms = terms_of(daemon.statistics())
        check_sums(terms)
        assert terms["COUNTED"] == 0
        assert terms["PENDING"] >= 8
        daemon.process.send_signal(signal.SIGHUP)
        by_group = {
            get(entry, "GROUP"): (get(entry, "RULE"), get(entry, "COUNT"), entry["PROCWATCH_SAMPLE"])
            for entry in daemon.wait_entries(of("summary"), 2)
        }
        as_user(0, "/bin/true", "after")
        assert daemon.stop() == 0
    assert by_group == {
        "uid=0": ("calls", "5", [f"/bin/true of-root-{n}" for n in range(5)]),
        f"uid={NOBODY}": ("calls", "3", [f"/bin/true of-nobody-{n}" for n in range(3)]),
    }
    last = daemon.having(of("summary"))[-1]
    assert (get(last, "COUNT"), get(last, "SAMPLE")) == ("1", "/bin/true after")
    assert [entry["MESSAGE"] for entry in daemon.having(of("exec", comm="true"))] == []
    assert check_end(daemon.entries[-1])["COUNTED"] == 9


def test_labels_follow_the_tree(tmp_path: Path, steps: str) -> None:
    """Through forks, execs, and the end of whoever stood between; and nobody else's."""
    daemonised = ("setsid", "child", "exec", "/bin/sh", "-c", "/bin/true below; exit 0")
    with RunningDaemon(tmp_path, CONFIG) as daemon:
        with Actor(steps, "note", "tagged-by-a-rule", "child", "orphan", *daemonised) as actor:
            assert actor.end() == 0
        with Actor("/bin/true", "beside") as actor:
            actor.end()
        entries = {
            name: daemon.wait_entry(execed(name)) for name in ("tagged-by", "/bin/sh -c", "true below")
        }
        beside = daemon.wait_entry(execed("beside"))
    assert {name: get(entry, "TAGS") for name, entry in entries.items()} == dict.fromkeys(entries, "job")
    assert get(beside, "TAGS") == ""


def test_labels_outlive_a_restart(tmp_path: Path, steps: str) -> None:
    """Of those whose own arguments, and whose living ancestors', say nothing of them."""
    anew = ("exec", steps, "wait", "exec", "/bin/true", "after-the-restart")
    with contextlib.closing(FdStore()) as store:
        with RunningDaemon(tmp_path, CONFIG, store=store) as daemon:
            actor = Actor(steps, "note", "tagged-by-a-rule", "orphan", *anew)
            actor.reached()
            actor.end()
            daemon.wait_entry(execed("wait exec"))
            assert daemon.stop() == 0
        with RunningDaemon(tmp_path, CONFIG, store=store) as daemon, actor:
            actor.go()
            found = daemon.wait_entry(execed("after-the-restart"))
            assert daemon.wait_entry(of("start"))["PROCWATCH_KEPT"]
    assert get(found, "TAGS") == "job"


def test_secrets_are_in_no_file_of_the_journal(tmp_path: Path, journald: PrivateJournald) -> None:
    """Neither of who was given them, nor of its children, nor in summaries; in no field at all."""
    config = (
        CONFIG.replace("events: [exec]", "events: [exec, fork, exit], environment: [PGPASSWORD, SHOWN]")
        + "  - {name: calls, match: {comm: 'true'}, action: count, by: [cmdline]}\n"
        + "log: {fields: all}\n"
    )
    secrets = {name: f"s3cret{name}{os.urandom(6).hex()}" for name in ("mysql", "curl", "env", "url", "true")}
    for name in ("mysql", "curl"):
        script = tmp_path / name
        script.write_text('#!/bin/sh\n/bin/ls /dev/null >&2; /bin/true --password="$1"; read line\n')
        script.chmod(0o755)
    commands = (
        (str(tmp_path / "mysql"), f"-p{secrets['mysql']}", "harmless"),
        (str(tmp_path / "curl"), "-u", f"user:{secrets['curl']}", f"https://user:{secrets['url']}@host/"),
    )
    variables = {**os.environ, "PGPASSWORD": secrets["env"], "SHOWN": "as it is"}
    with RunningDaemon(tmp_path / "d", config, journald=journald) as daemon:
        for command in commands:
            with Actor(*command, env=variables) as actor:
                entry = daemon.wait_entry(of("exec", pid=actor.pid))
                actor.go()
                actor.end()
            assert "<redacted:" in get(entry, "CMDLINE")
            assert "<redacted:" in entry["MESSAGE"]
            assert get(entry, "ENV_PGPASSWORD").startswith("<redacted:password:")
            assert get(entry, "ENV_SHOWN") == "as it is"
        subprocess.run(["/bin/true", f"--token={secrets['true']}"], check=True)
        assert daemon.stop() == 0
    assert any("<redacted:" in get(entry, "PARENT_CMDLINE") for entry in daemon.entries)
    assert any("<redacted:" in get(entry, "SAMPLE") for entry in filter(of("summary"), daemon.entries))
    shown = repr(daemon.entries)
    stored = b"".join(path.read_bytes() for path in journald.logs.rglob("*.journal"))
    assert b"harmless" in stored
    for secret in secrets.values():
        assert secret not in shown
        assert secret.encode() not in stored


def test_a_detection_is_logged_whatever_rules_and_limits_say(tmp_path: Path) -> None:
    (tmp_path / "rule.yml").write_text(
        "{title: Marked, id: 0-1, level: critical, logsource: {product: linux, category: process_creation},"
        " detection: {marked: {Image|endswith: /true, CommandLine|contains: sigma-marker}, condition: marked}}"
    )
    config = (
        "log: {limit: 1/1h}\n"
        f"sigma: {{paths: [{tmp_path}/rule.yml]}}\n"
        "rules: [{name: nothing, match: {pid|gt: 0}, action: drop}]\n"
    )
    with RunningDaemon(tmp_path / "d", config) as daemon:
        for n in range(5):
            subprocess.run(["/bin/true", f"sigma-marker-{n}"], check=True)
        found = daemon.wait_entries(of("exec"), 5)
        assert daemon.stop() == 0
    told = [(get(entry, "SIGMA_TITLE"), get(entry, "RULE"), entry["PRIORITY"]) for entry in found]
    assert told == [("Marked", "nothing", "2")] * 5
    assert {get(entry, "EVENT") for entry in daemon.entries} <= {"start", "exec", "stop", "statistics"}
    assert check_end(daemon.entries[-1])["LOGGED"] == 5


def test_a_big_executable_keeps_no_entry_waiting(tmp_path: Path) -> None:
    """Its first one is marked, those beside it are as fast as ever, and later it has its checksum."""
    big = shutil.copy("/bin/true", tmp_path / "big")
    os.truncate(big, 256 << 20)
    config = CONFIG.replace("events: [exec]", "events: [exec], hash: sha256")

    calls = itertools.count()

    def once_hashed(*command: str) -> Entry:
        """The entry of the first one to have a checksum in time."""
        for _ in range(100):
            n = next(calls)
            subprocess.run([*command, f"call-{n}."], check=True)
            entry = daemon.wait_entry(execed(f" call-{n}."))
            if get(entry, "SHA256"):
                return entry
            time.sleep(0.1)
        raise AssertionError("none had")

    with RunningDaemon(tmp_path / "d", config) as daemon:
        known = once_hashed("/bin/sh", "-c", "exit 0")
        subprocess.run([big, "first"], check=True)
        with contextlib.ExitStack() as living:
            for n in range(20):
                living.enter_context(Actor("/bin/sh", "-c", "read line", f"beside-{n}"))
            beside = daemon.wait_entries(execed("beside"), 20)
        first = daemon.wait_entry(execed("big first"))
        last = once_hashed(str(big))
        assert daemon.stop() == 0
    for entry, path in [*((each, "/bin/sh") for each in (known, *beside)), (last, str(big))]:
        with open(path, "rb") as file:
            assert get(entry, "SHA256") == hashlib.file_digest(file, "sha256").hexdigest()
    assert (get(first, "SHA256"), get(first, "HASH_LATE")) == ("", "1")
    assert get(daemon.entries[-1], "HASHES_SKIPPED") == "0"
    check_end(daemon.entries[-1])
