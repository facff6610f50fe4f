# SPDX-License-Identifier: MIT
"""The configuration as shipped: every rule has samples that it must decide, and such that it must not."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest

from procwatchd.config import Config, default_config, load_config
from procwatchd.process.cgroup import Place
from procwatchd.process.model import Context, Creds, Image, Process, Record
from procwatchd.process.users import Users
from procwatchd.rules.limit import Rate
from procwatchd.rules.ruleset import Decision

SHIPPED = Path(__file__).parents[2] / "etc/procwatchd.yaml"

USERS = Users(lambda _: None, passwd_path="/nonexistent")


@pytest.fixture(scope="module")
def config() -> Config:
    return load_config(str(SHIPPED))


def life(
    exe: str,
    cmdline: str = "",
    *,
    parent: Process | None = None,
    uid: int = 1000,
    euid: int | None = None,
    ppid: int = 77,
    unit: str = "",
) -> Process:
    place = Place(b"/", unit.encode() or None, None, None, None, None)
    argv = b"".join(word.encode() + b"\0" for word in (cmdline or exe).split(" "))
    image = Image(exe.encode(), argv, len(argv), b"", "same")
    creds = Creds(uid, uid if euid is None else euid, uid, uid, USERS)
    context = Context(place=place, host_mounts=True)
    return Process(99, 1, parent, ppid, exe.rpartition("/")[2].encode()[:15], image, context, creds)


def execed(of: Process) -> Record:
    return Record("exec", of, 0, "proc", "same")


def ended(of: Process, status: int, source: str = "proc") -> Record:
    return Record("exit", of, 0, source, "same", wait_status=status)


def became(of: Process, before: Process) -> Record:
    return Record("uid", of, 0, "table", "same", before=before)


SSH = life("/usr/lib/openssh/sshd-session", uid=0)
NGINX = life("/usr/sbin/nginx", uid=0)
PHP = life("/usr/sbin/php-fpm8.4", uid=33)
SHIM = life("/usr/bin/containerd-shim-runc-v2", uid=0)
RUNC = "/memfd:runc_cloned:/proc/self/exe (deleted)"
DOWNLOAD = "sh -c curl -s https://example.org/x|sudo bash"

# rule: what it must decide, what it must not
SAMPLES: dict[str, tuple[list[Record], list[Record]]] = {
    "forks-that-end-well": (
        [ended(life("/bin/bash"), 0, "inherited"), ended(life("/bin/sh", unit="a.service", ppid=1), 0, "inherited")],
        [
            ended(life("/bin/bash"), 0),
            ended(life("/bin/bash"), 1 << 8, "inherited"),
            ended(life("/bin/bash"), 11, "inherited"),
            Record("exit", life("/bin/bash"), 0, "inherited", "same"),
            Record("exec", life("/bin/bash"), 0, "inherited", "same"),
        ],
    ),
    "root-shell-below-web-server": (
        [
            execed(life("/usr/bin/dash", "sh -c id", parent=life("/usr/bin/env", parent=NGINX), uid=0)),
            execed(life("/usr/bin/bash", parent=PHP, uid=33, euid=0)),
        ],
        [
            execed(life("/usr/bin/dash", parent=NGINX, uid=33)),
            execed(life("/usr/bin/dash", parent=SSH, uid=0)),
            execed(life("/usr/sbin/nginx", parent=NGINX, uid=0)),
        ],
    ),
    "shell-below-web-server": (
        [execed(life("/usr/bin/dash", "sh -c convert a b", parent=PHP, uid=33))],
        [execed(life("/usr/bin/convert", parent=PHP, uid=33)), execed(life("/usr/bin/dash", parent=SSH))],
    ),
    "program-in-temporary-directory": (
        [execed(life("/tmp/x")), execed(life("/dev/shm/.x/y")), execed(life("/var/tmp/x (deleted)"))],
        [execed(life("/usr/bin/tmp/x")), execed(life("/tmpx")), execed(life("/bin/sh", "sh /tmp/x"))],
    ),
    "program-without-file": (
        [
            execed(life("/memfd:x (deleted)")),
            execed(life(RUNC)),
            execed(life("/memfd:x (deleted)", parent=SHIM)),
        ],
        [execed(life(RUNC, parent=life(RUNC, parent=SHIM))), execed(life("/usr/bin/memfd:"))],
    ),
    "download-into-shell": (
        [
            execed(life("/usr/bin/dash", DOWNLOAD)),
            execed(life("/usr/bin/bash", "bash -c wget -qO- http://a/b | sh -s x")),
        ],
        [
            execed(life("/usr/bin/curl", "curl -s https://example.org/x")),
            execed(life("/usr/bin/bash", "bash -c wget -qO- http://a/b | shuf")),
            execed(life("/usr/bin/bash", "bash -c date | sh; curl a")),
        ],
    ),
    "root-by-the-usual-means": (
        [became(life("/usr/bin/sudo", uid=0), life("/usr/bin/sudo", euid=0))],
        [
            became(life("/usr/bin/sudo", euid=0), life("/usr/bin/sudo")),
            became(life("/usr/bin/sudo", uid=0), life("/usr/bin/sudo", uid=0)),
            became(life("/tmp/sudo", uid=0), life("/tmp/sudo")),
        ],
    ),
    "setuid-program-in-unusual-place": (
        [became(life("/srv/rootbash", euid=0), life("/bin/sh"))],
        [
            became(life("/usr/bin/passwd", euid=0), life("/bin/sh")),
            became(life("/srv/rootbash", uid=0), life("/srv/rootbash")),
            became(life("/srv/x", uid=1000), life("/srv/x", uid=0)),
        ],
    ),
    "root-by-other-means": (
        [became(life("/tmp/sudo", uid=0), life("/tmp/sudo"))],
        [
            became(life("/usr/sbin/sshd", uid=1000), life("/usr/sbin/sshd", uid=0)),
            became(life("/usr/lib/systemd/systemd-executor", uid=0), life("/usr/lib/systemd/systemd-executor")),
        ],
    ),
    "debugger-attached": (
        [Record("ptrace", life("/bin/a"), 0, "table", "same", tracer_pid=7, tracer=life("/usr/bin/gdb"))],
        [Record("ptrace", life("/bin/a"), 0, "table", "same")],
    ),
    "crashes": (
        [ended(life("/bin/a"), 11), ended(life("/bin/a"), 6 | 0x80), ended(life("/bin/a"), 11, "inherited")],
        [ended(life("/bin/a"), 15), ended(life("/bin/a"), 9), ended(life("/bin/a"), 139 << 8)],
    ),
    "killed": (
        [ended(life("/bin/a"), 9)],
        [ended(life("/bin/a"), 15), ended(life("/bin/a"), 137 << 8)],
    ),
    "failed-services": (
        [ended(life("/usr/bin/a", unit="a.service", ppid=1), 3 << 8)],
        [
            ended(life("/usr/bin/grep", unit="a.service"), 1 << 8),
            ended(life("/usr/bin/a", unit="a.service", ppid=1), 0),
            ended(life("/usr/bin/a", unit="session-2.scope", ppid=1), 1 << 8),
        ],
    ),
}  # fmt: skip
TAGGED: dict[str, tuple[str, list[Record], list[Record]]] = {
    "from-ssh": (
        "ssh",
        [
            execed(SSH),
            execed(life("/usr/sbin/sshd", parent=life("/usr/sbin/sshd", uid=0), uid=0)),
        ],
        [
            execed(life("/usr/sbin/sshd", parent=life("/usr/lib/systemd/systemd", uid=0), uid=0)),
            execed(life("/usr/bin/notsshd-session")),
            ended(SSH, 0),
        ],
    )
}


def test_every_rule_has_samples(config: Config) -> None:
    assert {rule.name for rule in config.rules.rules} == SAMPLES.keys() | TAGGED.keys()


@pytest.mark.parametrize("name", SAMPLES)
def test_samples(config: Config, name: str) -> None:
    must, must_not = SAMPLES[name]
    assert [config.rules.decide(of).rule for of in must] == [name] * len(must)
    assert name not in [config.rules.decide(of).rule for of in must_not]


@pytest.mark.parametrize("name", TAGGED)
def test_tagging_samples(config: Config, name: str) -> None:
    tag, must, must_not = TAGGED[name]
    assert all(tag in config.rules.decide(of).tags for of in must)
    assert not any(tag in config.rules.decide(of).tags for of in must_not)


def test_an_ordinary_program_is_logged_with_its_end(config: Config) -> None:
    expected = Decision("log", None, 6)
    assert config.rules.decide(execed(life("/usr/bin/ls", "ls -l"))) == expected
    assert config.rules.decide(ended(life("/usr/bin/ls"), 0)) == expected
    assert config.rules.decide(ended(life("/usr/bin/grep"), 1 << 8)) == expected


def test_only_one_rule_silences(config: Config) -> None:
    assert [rule.name for rule in config.rules.rules if rule.action in ("drop", "count")] == [
        "forks-that-end-well"
    ]
    assert config.rules.by_event["exit"][0].name == "forks-that-end-well"


def test_what_is_written_out_is_the_default(config: Config) -> None:
    assert config.capture == default_config().capture
    assert config.log == dataclasses.replace(default_config().log, limit=Rate(20_000, 30 * 10**9))


def uncommented(text: str) -> str:
    """The file with the settings and rules switched on that it shows in comments."""
    settings, rules, rest = text.partition("\n# Rules are tried")
    shipped, title, examples = rest.partition("  # Some to start from:\n")
    assert title
    settings = re.sub(r"^  # (?=[a-z-]+: )", "  ", settings, flags=re.MULTILINE)
    return settings + rules + shipped + re.sub(r"^  # ?", "  ", examples, flags=re.MULTILINE)


def test_the_examples_in_its_comments_are_valid(tmp_path: Path) -> None:
    path = tmp_path / "examples.yaml"
    path.write_text(uncommented(SHIPPED.read_text(encoding="utf-8")), encoding="utf-8")
    names: list[Any] = [rule.name for rule in load_config(str(path)).rules.rules]
    assert names[-5:] == [
        "nightly-backup",
        "compiler-noise",
        "backup",
        "failed-logins",
        "unexpected-people",
    ]


@pytest.mark.parametrize("exe", ["/usr/sbin/sshd", "/usr/lib/openssh/sshd-session"])
def test_the_example_for_failed_logins_has_those_of_either_openssh(tmp_path: Path, exe: str) -> None:
    path = tmp_path / "examples.yaml"
    path.write_text(uncommented(SHIPPED.read_text(encoding="utf-8")), encoding="utf-8")
    assert load_config(str(path)).rules.decide(ended(life(exe, uid=0), 255 << 8)).rule == "failed-logins"
