# SPDX-License-Identifier: MIT
"""Configuration files: where they are found, what may stand in them, how problems are told."""

from __future__ import annotations

import os
import pwd
import re
from pathlib import Path

import pytest

from procwatchd.config import MODELS, PRIORITIES, Config, default_config, keys_of, load_config
from procwatchd.errors import ConfigError
from procwatchd.process.model import Context, Image, Process, Record
from procwatchd.rules.match import MODIFIERS

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
MANUAL = Path(__file__).parents[2] / "packaging/man/procwatchd.yaml.5"


class Places:
    """The default places, in a directory of the test's own."""

    def __init__(self, root: Path) -> None:
        self.main = root / "procwatchd.yaml"
        self.directory = root / "procwatchd.d"
        self.directory.mkdir(mode=0o755)

    def drop_in(self, name: str, text: str) -> Path:
        path = self.directory / name
        path.write_text(text)
        path.chmod(0o644)
        return path

    def load(self) -> Config:
        return load_config(main_file=str(self.main), drop_in_directory=str(self.directory))

    def problems(self) -> list[str]:
        with pytest.raises(ConfigError) as caught:
            self.load()
        return caught.value.problems


@pytest.fixture
def places(tmp_path: Path) -> Places:
    return Places(tmp_path)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "c.yaml"


def problems_of(file: Path, text: str) -> list[str]:
    """What is wrong with a file of this text; its path is left out."""
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_config(str(file))
    return [problem.removeprefix(f"{file}:") for problem in caught.value.problems]


def loaded(file: Path, text: str) -> Config:
    file.write_text(text)
    return load_config(str(file))


def exiting(exe: bytes = b"/bin/a", *, on_host: bool = True) -> Record:
    context = Context(host_mounts=on_host)
    of = Process(5, 2, None, 4, b"a", Image(exe, None, 0, b"", "same"), context, None)
    return Record("exit", of, 0, "proc", "same", wait_status=0)


def test_defaults() -> None:
    config = default_config()
    assert config.capture.events == frozenset({"exec", "exit", "uid", "gid", "ptrace", "coredump"})
    assert (config.capture.threads, config.capture.receive_buffer_bytes) == (False, 64 << 20)
    assert (config.capture.arguments, config.capture.accounting, config.capture.hash) == (
        "auto",
        "auto",
        "off",
    )
    assert config.capture.environment == ()
    assert (config.log.unmatched, config.log.priority, config.log.fields) == ("log", 6, "standard")
    assert (config.log.max_argv_bytes, config.log.limit) == (4096, None)
    assert (config.redact.is_builtin, config.redact.patterns) == (True, ())
    assert config.rules.rules == ()
    assert config.files == ()


def test_every_key_is_read(file: Path) -> None:
    config = loaded(
        file,
        """
capture: {events: all, threads: yes, receive-buffer: 1G, arguments: proc, accounting: off, hash: sha256,
          environment: [PATH, _x]}
log: {unmatched: drop, priority: warn, fields: [exe, tags, rule, argv-bytes], max-argv: 512, limit: off}
redact: {builtin: off, patterns: [{name: own, regex: 'x[0-9]+'}]}
rules:
  - {name: r, match: {event: exit, exe: /bin/a}, priority: 1, tags: x, message: '{exe}', fields: {T: a b}}
""",
    )
    assert len(config.capture.events) == 9
    assert (config.capture.threads, config.capture.receive_buffer_bytes) == (True, 1 << 30)
    assert (config.capture.arguments, config.capture.accounting, config.capture.hash) == (
        "proc",
        "off",
        "sha256",
    )
    assert config.capture.environment == ("PATH", "_x")
    assert (config.log.unmatched, config.log.priority, config.log.max_argv_bytes) == ("drop", 4, 512)
    assert config.log.fields == frozenset({"EXE", "TAGS", "RULE", "ARGV_BYTES"})
    assert (config.redact.is_builtin, config.redact.patterns) == (False, (("own", "x[0-9]+"),))
    assert config.files == (str(file),)
    decision = config.rules.decide(exiting())
    assert (decision.action, decision.rule, decision.priority) == ("log", "r", 1)
    assert (decision.tags, decision.fields) == (("x",), (("T", "a b"),))
    assert config.rules.decide(exiting(b"/bin/b")).action == "drop"


@pytest.mark.parametrize("word", ["auto", "on", "off"])
def test_accounting(file: Path, word: str) -> None:
    assert loaded(file, f"capture: {{accounting: {word}}}").capture.accounting == word


@pytest.mark.parametrize(
    ("word", "number"), [("emerg", 0), ("0", 0), ("error", 3), ("err", 3), ("warn", 4), ("info", 6), ("7", 7)]
)
def test_priorities(word: str, number: int) -> None:
    assert PRIORITIES[word] == number


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            "capture: {events: [exec, exti]}",
            "1:26: capture.events\\[2\\]: 'exti' is none of: .*did you mean 'exit'?",
        ),
        ("capture: {events: }", "1:11: capture.events: has no value"),
        ("capture: {threads: maybe}", "neither on nor off"),
        ("capture: {receive-buffer: 63K}", "not between 65536 and 1073741824 bytes"),
        ("capture: {receive-buffer: 2G}", "not between"),
        ("capture: {receive-buffer: 64 M}", "is no size"),
        ("capture: {receive-buffer: -1}", "is no size"),
        ("capture: {receive-buffer: [1M]}", "must be a single value, not a list"),
        (
            "capture: {arguments: recorded}",
            "'recorded' is none of: auto, recorder, proc; did you mean 'recorder'?",
        ),
        ("capture: {accounting: taskstats}", "accounting: 'taskstats' is none of: auto, on, off"),
        ("capture: {hash: md5}", "none of: off, sha256"),
        ("capture: {environment: [A=B]}", r"environment\[1\]: 'A=B' is not the name"),
        (
            "capture: {receive_buffer: 1M}",
            "1:11: capture.receive_buffer: unknown key; did you mean 'receive-buffer'?",
        ),
        ("capture: [exec]", "1:1: capture: must be a mapping"),
        ("capure: {}", "1:1: capure: unknown key; did you mean 'capture'?"),
        ("log: {unmatched: tag}", "none of: log, drop"),
        ("log: {priority: 8}", "'8' is no priority"),
        ("log: {fields: [exe, foo]}", r"1:21: log.fields\[2\]: unknown field 'foo'"),
        ("log: {fields: [sigma-idd]}", "unknown field"),
        ("log: {fields: [exe, all]}", "stands alone"),
        ("capture: {events: []}", "1:11: capture.events: is empty"),
        ("log: {max-argv: 255}", "not between 256 and 131072"),
        ("log: {max-argv: 129K}", "not between"),
        ("log: {limit: 20000/30}", "1:7: log.limit: '20000/30' is no rate: write N/s"),
        ("log: {limit: 0/s}", "log.limit: 0 is not between 1 and 1000000 events"),
        ("log: {limit: 1/25h}", "log.limit: 90000 is not between 1 and 86400 seconds"),
        ("redact: {builtin: maybe}", "1:10: redact.builtin: 'maybe' is neither on nor off"),
        ("redact: {patern: []}", "1:10: redact.patern: unknown key; did you mean 'patterns'?"),
        ("redact: {patterns: [{name: a}]}", r"1:21: redact.patterns\[1\].regex: is missing"),
        ("redact: {patterns: [{name: a, regx: b}]}", r"regx: unknown key; did you mean 'regex'?"),
        ("redact: {patterns: [{name: A, regex: b}]}", r"1:22: redact.patterns\[1\].name: 'A' is not a name"),
        ("redact: {patterns: [{name: a, regex: '('}]}", r"1:31: redact.patterns\[1\].regex: is no regular"),
        ("redact: {patterns: [{name: a, regex: '(?=b)'}]}", "is no regular expression: look-around"),
        ("redact: {patterns: [{name: a, regex: 'b*'}]}", "regex: is found in every argument"),
        ("sigma: {path: /x}", "1:9: sigma.path: unknown key; did you mean 'paths'?"),
        ("sigma: {paths: [/x, y]}", r"1:21: sigma.paths\[2\]: 'y' is no path from the root"),
        ("{capture: {events: exit}, sigma: {paths: /x}}", "sigma.paths: .*capture.events must have exec"),
        ("sigma: {min-level: urgent}", "sigma.min-level: 'urgent' is none of: informational"),
        ("sigma: {status: [new]}", r"sigma.status\[1\]: 'new' is none of: stable"),
        ("sigma: {exclude: [{id: x}]}", r"sigma.exclude\[1\].match: is missing"),
        ("sigma: {exclude: [{id: x, macht: {}}]}", r"exclude\[1\].macht: unknown key; did you mean 'match'"),
        (
            "sigma: {exclude: [{id: x, match: {exee: y}}]}",
            r"1:35: sigma.exclude\[1\].match.exee: unknown field 'exee'; did you mean 'exe'",
        ),
        ("rules: {}", "1:1: rules: must be a list of rules"),
        ("rules: [x]", r"1:9: rules\[1\]: must be a mapping"),
        ("rules: [{match: {pid: 1}}]", r"1:9: rules\[1\].name: is missing"),
        ("rules: [{name: a}]", r"1:9: rules\[1\] \(a\).match: is missing"),
        ("rules: [{name: a b, match: {pid: 1}}]", r"rules\[1\] \(a b\).name: 'a b' is not a name"),
        ("rules: [{name: a, match: {}}]", r"1:19: rules\[1\] \(a\).match: is empty"),
        (
            "rules: [{name: a, match: {any: [{pid: x}]}}]",
            r"1:34: rules\[1\] \(a\).match.any\[1\].pid: 'x' is not",
        ),
        (
            "rules: [{name: a, match: {pid: 1}, action: count, tags: x}]",
            "tags: means nothing where the action is",
        ),
        (
            "rules: [{name: a, match: {pid: 1}, action: count, limit: 1/s}]",
            "limit: means nothing where the act",
        ),
        ("rules: [{name: a, match: {pid: 1}, limit: off}]", "limit: 'off' is no rate"),
        ("rules: [{name: a, match: {pid: 1}, every: 1s}]", "every: needs the action count, or a limit"),
        (
            "rules: [{name: a, match: {pid: 1}, action: tag, tags: x, by: exe}]",
            "by: needs the action count, or a",
        ),
        ("rules: [{name: a, match: {pid: 1}, action: count, every: 1}]", "every: '1' is no time"),
        (
            "rules: [{name: a, match: {pid: 1}, action: count, every: 61min}]",
            "every: 3660 is not between 1 and",
        ),
        (
            "rules: [{name: a, match: {pid: 1}, action: count, by: [pid, exee]}]",
            r"by\[2\]: unknown field 'exee'",
        ),
        ("rules: [{name: a, match: {pid: 1}, action: count, by: [tags]}]", r"by\[1\]: unknown field 'tags'"),
        (
            "rules: [{name: a, match: {pid: 1}, action: count, by: [uid, uid]}]",
            r"by\[2\]: 'uid' is here twice",
        ),
        ("rules: [{name: a, match: {pid: 1}, action: count, by: ancestor.exe}]", "may be many ancestors"),
        (
            "rules: [{name: a, match: {pid: 1}, action: count, by: [pid, tid, ppid, comm, exe, uid, gid, sid, tty]}]",
            "by: has more than 8 fields",
        ),
        (
            "rules: [{name: a, match: {pid: 1}, tags: x, inherit: on}]",
            "inherit: needs the action tag, and tags",
        ),
        (
            "rules: [{name: a, match: {pid: 1}, action: tag, priority: 3, inherit: on}]",
            "inherit: needs the action",
        ),
        ("rules: [{name: a, match: {pid: 1}, priority: }]", "priority: has no value"),
        ("rules: [{name: a, match: {pid: 1}, tags: [a, 'b c']}]", r"tags\[2\]: 'b c' is not a tag"),
        ("rules: [{name: a, match: {pid: 1}, message: '{usr}'}]", "message: .*did you mean 'user'?"),
        ("rules: [{name: a, match: {pid: 1}, fields: {x: y}}]", "'x' is no name for a field"),
        ("rules: [{name: a, match: {pid: 1}, fields: {EXE: y}}]", "procwatchd's own"),
        ("rules: [{name: a, match: {pid: 1}, fields: {ENV_X: y}}]", "procwatchd's own"),
        ("rules: [{name: a, match: {pid: 1}, fields: {X: [y]}}]", "must be a text"),
        ("rules: [{name: a, match: {pid: 1}, namespaces: some}]", "none of: host, any"),
        ("rules: [{name: a, match: {pid: 1}, action: drop, priority: 3}]", "priority: means nothing"),
        ("rules: [{name: a, match: {pid: 1}, action: drop, message: x}]", "message: means nothing"),
        ("rules: [{name: a, match: {pid: 1}, action: tag}]", "needs tags, fields, a priority or a message"),
        ("rules: [{name: a, match: {pid: 1}, nme: b}]", "1:36: .*nme: unknown key; did you mean 'name'?"),
        ("a: 1\na: 2", "2:1: file: key 'a' is here twice"),
        ("a: [", "yaml: "),
        ("\x00", "1:1: file: character U[+]0000"),
    ],
)
def test_a_problem_says_where_and_what(file: Path, text: str, problem: str) -> None:
    found = problems_of(file, text)
    assert any(re.search(problem.replace("?", r"\?"), line) for line in found), found
    assert all(re.match(r"\d+:\d+: [^:]+: ", line) for line in found), found


def test_all_problems_are_reported_in_order(file: Path) -> None:
    found = problems_of(
        file,
        "log: {priority: 9}\nrules:\n  - {name: a, match: {pid: x, foo: y}, limit: 3}\n  - {nme: b}\n"
        "capture: {hash: 1}",
    )
    assert [line.split(": ")[1] for line in found] == [
        "log.priority",
        "rules[1] (a).match.pid",
        "rules[1] (a).match.foo",
        "rules[1] (a).limit",
        "rules[2].match",
        "rules[2].name",
        "rules[2].nme",
        "capture.hash",
    ]


def test_a_problem_is_one_printable_line(file: Path) -> None:
    found = problems_of(file, 'rules: [{name: "a\\e[31m\\n", match: {"x\\n\\0": 1}, "y\\n": 2}]')
    assert len(found) == 3
    assert all(line.isprintable() for line in found)


def test_no_files_are_the_defaults(places: Places) -> None:
    assert places.load().capture == default_config().capture
    places.directory.rmdir()
    assert places.load().files == ()


def test_drop_ins_are_laid_over_in_order_of_name(places: Places) -> None:
    places.main.write_text("log: {priority: err, max-argv: 1K}\nrules: [{name: a, match: {pid: 1}}]\n")
    second = places.drop_in("20.yaml", "log: {priority: debug}\nrules: [{name: c, match: {pid: 1}}]\n")
    first = places.drop_in(
        "10.yaml", "log: {priority: crit}\ncapture:\nrules: [{name: b, match: {pid: 1}}]\n"
    )
    places.drop_in("30.yml", "nonsense")
    places.drop_in(".40.yaml", "nonsense")
    config = places.load()
    assert (config.log.priority, config.log.max_argv_bytes) == (7, 1024)
    assert [rule.name for rule in config.rules.rules] == ["a", "b", "c"]
    assert config.files == (str(places.main), str(first), str(second))


def test_drop_ins_are_read_without_a_main_file(places: Places) -> None:
    places.drop_in("a.yaml", "log: {priority: debug}")
    assert places.load().log.priority == 7


def test_problems_of_all_files_are_reported(places: Places) -> None:
    places.main.write_text("log: {priority: 9}\nrules: [{name: a, match: {pid: 1}}]\n")
    one = places.drop_in("1.yaml", "log: {priority: 1}\nfoo: 1\n")
    two = places.drop_in("2.yaml", "rules:\n  - {name: a, match: {pid: 2}}\n")
    found = places.problems()
    assert found == [
        f"{one}:2:1: foo: unknown key",
        f"{two}:2:6: rule a: name 'a' is taken by the rule at {places.main}:2",
        f"{places.main}:1:7: log.priority: '9' is no priority: 0 to 7, or emerg, alert, crit, err, error, warning, "
        "warn, notice, info, debug",
    ]


def test_a_named_file_stands_alone_and_must_be_there(places: Places, file: Path) -> None:
    places.drop_in("a.yaml", "log: {priority: debug}")
    assert loaded(file, "").log.priority == 6
    with pytest.raises(ConfigError) as caught:
        load_config(str(file.with_name("missing")))
    assert caught.value.problems == [
        f"{file.with_name('missing')}:1:1: file: cannot be opened: No such file or directory"
    ]


def test_files_that_others_may_change_are_refused(places: Places) -> None:
    places.main.write_text("")
    path = places.drop_in("a.yaml", "")
    os.chown(path, -1, os.getgid() or 4711)
    path.chmod(0o664)
    assert places.problems() == [f"{path}:1:1: file: has mode 0664: others than its owner may change it"]
    path.chmod(0o644)
    places.main.chmod(0o602)
    assert "0602" in places.problems()[0]
    places.main.chmod(0o600)
    places.directory.chmod(0o777)
    assert places.problems() == [
        f"{places.directory}:1:1: directory: has mode 0777: others than its owner may change it"
    ]
    places.directory.chmod(0o755)
    assert places.load().files == (str(places.main), str(path))


@needs_root
def test_the_group_root_may_change_files(places: Places) -> None:
    path = places.drop_in("a.yaml", "")
    os.chown(path, 0, 0)
    path.chmod(0o664)
    assert places.load().files == (str(path),)


@needs_root
def test_root_accepts_what_the_daemon_would(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    path = places.drop_in("a.yaml", "")
    os.chown(path, 4711, -1)
    assert "belongs to uid 4711" in places.problems()[0]
    daemon = pwd.struct_passwd(("procwatchd", "x", 4711, 4711, "", "/", "/bin/false"))
    monkeypatch.setattr(pwd, "getpwnam", lambda _name: daemon)
    assert places.load().files == (str(path),)


def test_links_lead_only_where_nobody_else_decides(places: Places, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    (shared / "good.yaml").write_text("")
    link = places.directory / "a.yaml"
    link.symlink_to(shared / "good.yaml")
    why = f"is reached through {shared}, which has mode 0777: others than its owner may change it"
    assert places.problems() == [f"{link}:1:1: file: {why}"]
    # By way of a link that others may replace, to where it is good.
    (tmp_path / "good.yaml").write_text("")
    (shared / "link").symlink_to(tmp_path / "good.yaml")
    link.unlink()
    link.symlink_to("../shared/link")
    assert places.problems() == [f"{link}:1:1: file: {why}"]
    shared.chmod(0o1777)
    assert places.load().files == (str(link),)


def test_the_directory_may_be_a_link_only_to_a_safe_place(places: Places, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    (shared / "d").mkdir(parents=True)
    places.directory.rmdir()
    places.directory.symlink_to(shared / "d")
    assert places.load().files == ()
    shared.chmod(0o777)
    assert [line.split(": ", 2)[2] for line in places.problems()] == [
        f"is reached through {shared}, which has mode 0777: others than its owner may change it"
    ]


@needs_root
def test_a_link_of_somebody_else_is_refused(places: Places, file: Path) -> None:
    file.write_text("")
    link = places.directory / "a.yaml"
    link.symlink_to(file)
    os.lchown(link, 4711, -1)
    assert "which belongs to uid 4711" in places.problems()[0]


def test_links_in_a_circle_are_one_problem(places: Places) -> None:
    link = places.directory / "a.yaml"
    link.symlink_to(link)
    assert len(places.problems()) == 1


def test_a_named_file_may_be_anybodys(file: Path) -> None:
    file.write_text("")
    file.chmod(0o666)
    assert load_config(str(file)).files == (str(file),)


def test_files_of_other_users_are_refused(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    places.main.write_text("")
    owner = os.stat(places.main).st_uid
    if owner == 0:
        os.chown(places.main, 4711, -1)
        owner = 4711
    else:
        monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    assert f"belongs to uid {owner}" in "\n".join(places.problems())


def test_what_is_no_file_is_refused_and_never_waited_for(places: Places, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo", 0o600)
    places.main.symlink_to(tmp_path / "fifo")
    (places.directory / "d.yaml").mkdir()
    (places.directory / "e.yaml").symlink_to("/nowhere")
    found = places.problems()
    assert [line.split(": ", 2)[2] for line in found] == [
        "is not a regular file",
        "cannot be opened: No such file or directory",
        "is not a regular file",
    ]


def test_a_link_to_a_good_file_is_fine(places: Places, file: Path) -> None:
    file.write_text("log: {priority: debug}")
    file.chmod(0o644)
    places.main.symlink_to(file)
    assert places.load().log.priority == 7


def test_a_huge_file_is_refused(file: Path) -> None:
    assert problems_of(file, "#" * (1 << 20) + "\n") == ["1:1: file: larger than 1048576 bytes"]


def test_exe_silences_on_the_host_only_unless_told(file: Path) -> None:
    rule = "rules: [{name: r, match: {exe: /bin/a}, action: drop%s}]"
    careful = loaded(file, rule % "").rules
    assert careful.decide(exiting()).action == "drop"
    assert careful.decide(exiting(on_host=False)).action == "log"
    assert loaded(file, rule % ", namespaces: any").rules.decide(exiting(on_host=False)).action == "drop"


def test_limits_and_counts(file: Path) -> None:
    config = loaded(
        file,
        """
log: {limit: 20000/30s}
rules:
  - {name: l, match: {uid: 1}, limit: 10/min, by: [exe, parent.tty]}
  - {name: h, match: {uid: 2}, limit: 5/2h}
  - {name: c, match: {uid: 3}, action: count}
  - {name: e, match: {uid: 4}, action: count, every: 5min}
  - {name: o, match: {uid: 5}}
""",
    )
    assert config.log.limit == (20_000, 30_000_000_000)
    found = [rule.suppression for rule in config.rules.rules]
    shown = [None if each is None else (each.rule, each.every_ns // 10**9, each.rate) for each in found]
    assert shown == [
        ("l", 60, (10, 60_000_000_000)),
        ("h", 7200, (5, 7_200_000_000_000)),
        ("c", 60, None),
        ("e", 300, None),
        None,
    ]
    assert found[0] is not None
    assert [(by.key, by.name) for by in found[0].by] == [("exe", "EXE"), ("parent.tty", "PARENT.TTY")]
    assert config.rules.needs == {"UID", "EXE", "TTY"}


def test_tags_that_go_from_process_to_process_are_limited(file: Path) -> None:
    tags = ", ".join(f"t{n}" for n in range(33))
    rule = "{name: %s, match: {pid: 1}, action: tag, tags: [%s], inherit: on}"
    text = f"rules:\n  - {rule % ('a', tags)}\n  - {rule % ('b', tags)}\n"
    assert len(loaded(file, text).rules.inherited) == 33
    (problem,) = problems_of(file, text + f"  - {rule % ('c', tags.replace('t', 'u'))}\n")
    assert problem.endswith("rules[3] (c).inherit: more than 64 tags of all rules do so")


def test_a_tag_that_silences_is_earned_on_the_host_only(file: Path) -> None:
    rules = loaded(
        file,
        """
rules:
  - {name: t, match: {exe: /bin/a}, action: tag, tags: [x, dull]}
  - {name: u, match: {exe: /bin/a}, action: tag, tags: y}
  - {name: d, match: {tags|startswith: du}, action: drop}
""",
    ).rules
    assert rules.decide(exiting()).action == "drop"
    elsewhere = rules.decide(exiting(on_host=False))
    assert (elsewhere.action, elsewhere.tags) == ("log", ("y",))


def test_a_tag_that_stays_is_earned_on_the_host_only_whatever_comes_first(file: Path) -> None:
    """It is there at later events, and so for the rules before it."""
    rules = """
rules:
  - {name: d, match: {tags: x}, action: count}
  - {name: u, match: {tags: y}, action: tag, tags: x, inherit: on}
  - {name: t, match: {exe: /bin/a}, action: tag, tags: y%s}
"""
    inherited = loaded(file, rules % ", inherit: on").rules
    assert inherited.decide(exiting()).inherited == ("y",)
    assert inherited.decide(exiting(on_host=False)).inherited == ()
    # What does not stay the rules before it never see.
    assert loaded(file, rules % "").rules.decide(exiting(on_host=False)).tags == ("y",)


def test_a_tag_that_silences_by_way_of_another_is_earned_on_the_host_only(file: Path) -> None:
    rules = loaded(
        file,
        """
rules:
  - {name: t1, match: {exe: /bin/a}, action: tag, tags: x}
  - {name: t2, match: {tags: x}, action: tag, tags: y}
  - {name: t3, match: {tags|exists: yes, comm: a}, action: tag, tags: z}
  - {name: d, match: {tags: z}, action: drop}
""",
    ).rules
    assert rules.decide(exiting()).action == "drop"
    assert rules.decide(exiting(on_host=False)).action == "log"


@pytest.mark.parametrize(
    "rest",
    [
        "{name: d, match: {not: {tags: x}}, action: drop}",
        "{name: t2, match: {not: {tags: x}}, action: tag, tags: y}, {name: d, match: {tags: y}, action: drop}",
        "{name: t2, match: {tags: x}, action: tag, tags: y}, {name: d, match: {tags|exists: no}, action: drop}",
    ],
)
def test_a_tag_that_prevents_silence_is_earned_everywhere(file: Path, rest: str) -> None:
    rules = loaded(file, f"rules: [{{name: t, match: {{exe: /bin/a}}, action: tag, tags: x}}, {rest}]").rules
    assert rules.decide(exiting(on_host=False)).action == "log"
    assert rules.decide(exiting(b"/bin/b")).action == "drop"


def test_a_path_cannot_earn_silence_and_prevent_it(file: Path) -> None:
    text = """rules:
  - {name: t, match: {exe: /bin/a}, action: tag, tags: [x, y]%s}
  - {name: d, match: {tags: x}, action: drop}
  - {name: e, match: {not: {tags: y}}, action: drop}
"""
    [problem] = problems_of(file, text % "")
    assert problem.startswith("2:15: rules[1] (t).match: looks at an executable and gives tags")
    loaded(file, text % ", namespaces: any")
    loaded(file, (text % "").replace("exe:", "comm:"))
    # Tags are given to later rules alone.
    loaded(
        file,
        """rules:
  - {name: e, match: {not: {tags: y}}, action: drop}
  - {name: t, match: {exe: /bin/a}, action: tag, tags: y}
  - {name: d, match: {tags: y}, action: drop}
""",
    )


def test_every_problem_of_a_key_is_named_where_it_is(file: Path) -> None:
    found = problems_of(
        file,
        """log: {fields: [exe, foo, all, bar]}
rules:
  - name: a
    match: {uid: [1, x], exe|re: [a, '(', ')']}
    message: '{usr} {commm}'
    fields: {OK: fine, x: y, EXE: z, Y: []}
""",
    )
    assert [line.split(": ")[0] for line in found] == [
        "1:21", "1:26", "1:31", "4:22", "4:38", "4:43", "5:5", "5:5", "6:24", "6:30", "6:38",
    ]  # fmt: skip


def test_all_events_may_be_a_list(file: Path) -> None:
    assert loaded(file, "capture: {events: [all]}").capture == loaded(file, "capture: {events: all}").capture


@pytest.mark.parametrize("what", ["priority: crit", "message: x"])
def test_a_rule_may_tag_with_a_priority_or_a_message_alone(file: Path, what: str) -> None:
    rules = loaded(file, f"rules: [{{name: t, match: {{exe: /bin/a}}, action: tag, {what}}}]").rules
    assert rules.decide(exiting()) != rules.decide(exiting(b"/bin/b"))


def test_the_manual_has_every_key() -> None:
    manual = MANUAL.read_text(encoding="utf-8")
    for model in MODELS:
        for key in keys_of(model):
            assert re.search(rf"^\.(It )?Cm {re.escape(key)}\b", manual, re.MULTILINE), (
                f"{key} of {model.__name__}"
            )
    for modifier in MODIFIERS:
        assert re.search(rf"^\.It Cm {modifier}\b", manual, re.MULTILINE), modifier


def test_the_examples_in_the_manual_are_valid(file: Path) -> None:
    manual = MANUAL.read_text(encoding="utf-8")
    examples = re.findall(
        r"^\.Bd [^\n]*\n((?:rules|log|redact|sigma):\n.*?)^\.Ed", manual, re.MULTILINE | re.DOTALL
    )
    assert len(examples) == 6
    for example in examples:
        loaded(file, example)


def test_a_main_file_that_leads_nowhere_is_not_a_missing_one(tmp_path: Path) -> None:
    main = tmp_path / "procwatchd.yaml"
    main.symlink_to(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match=r"procwatchd\.yaml:1:1: .*No such file"):
        load_config(main_file=str(main), drop_in_directory=str(tmp_path / "none"))
