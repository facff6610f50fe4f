# SPDX-License-Identifier: MIT
"""procwatchctl's commands, from the command line to what is printed."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import shtab

from procwatchd.config import load_config
from procwatchd.ctl import arguments
from procwatchd.ctl.main import main
from procwatchd.ctl.rules.check import useless
from procwatchd.process.fields import EVENTS

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "packaging/man/procwatchctl.1").read_text()
HOSTILE = "\x1b[31mred\x07\u202e[bold]:smile:\udcff"

EXEC = {
    "PROCWATCH_EVENT": "exec",
    "PROCWATCH_PID": "5",
    "PROCWATCH_PROCESS_ID": "5-1",
    "PROCWATCH_MONOTONIC_USEC": "1",
    "PROCWATCH_IDENTITY": "same",
    "PROCWATCH_SOURCE": "proc",
    "PROCWATCH_EXE": "/bin/sh",
    "PROCWATCH_CWD": "/",
    "PROCWATCH_CMDLINE": "sh -c id",
}
EXIT = EXEC | {"PROCWATCH_EVENT": "exit", "PROCWATCH_EXIT_CODE": "3"}
SECRET = EXEC | {"PROCWATCH_PID": "6", "PROCWATCH_CMDLINE": "curl -u '<redacted:password:0a0b0c0d>'"}

RULES = """
rules:
  - {name: tagging, match: {exe: /bin/sh}, action: tag, tags: [shell]}
  - {name: failed, match: {event: exit, exit-code|gt: 0}, priority: warning}
  - {name: fetching, match: {cmdline|contains: evil}, priority: alert}
  - {name: shells, match: {tags: shell}, action: drop}
"""


def config(directory: Path, text: str) -> str:
    path = directory / "rules.yaml"
    path.write_text(text)
    return str(path)


def entries(directory: Path, *of: object) -> str:
    path = directory / "entries"
    path.write_text("".join((one if isinstance(one, str) else json.dumps(one)) + "\n" for one in of))
    return str(path)


def as_json(capsys: pytest.CaptureFixture[str], *words: str, status: int = 0) -> Any:
    capsys.readouterr()
    assert main([*words, "--json"]) == status
    return json.loads(capsys.readouterr().out)


def warnings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], rules: Sequence[str], more: str = ""
) -> list[str]:
    file = config(tmp_path, more + "rules:\n" + "".join(f"  - {{{rule}}}\n" for rule in rules))
    (found,) = as_json(capsys, "check", file, status=1)
    assert found["problems"] == []
    return [warning.removeprefix(file) for warning in found["warnings"]]


@pytest.mark.parametrize(
    ("rules", "told"),
    [
        (["name: a, match: {event: exec, exit-code: 1}"], "asks for 'exit-code', which exec events do not have"),
        (["name: a, match: {event: fork}"], "capture.events has no fork"),
        (["name: a, match: {event: comm, old-comm: x}"], "capture.events has no comm"),
        (["name: a, match: {tags: x}"], "no rule before it gives the tag that 'tags' asks for"),
        (
            ["name: b, match: {tags: x}", "name: a, match: {pid: 1}, action: tag, tags: [x]"],
            "no rule before it gives the tag",
        ),
        (["name: b, match: {event: exec}", "name: a, match: {event: exec, uid: 0}"], "never tried: rule 'b'"),
        (["name: b, match: {pid|exists: true}", "name: a, match: {uid: 0}"], "never tried: rule 'b'"),
        (
            ["name: c, match: {event: exec}", "name: b, match: {event: exit}", "name: a, match: {event: [exec, exit]}"],
            "never tried: rule 'b'",
        ),
        (["name: b, match: {uid: 0}", "name: a, match: {uid: 0}, action: drop"], "rule 'b', before it, decides the"),
    ],
)  # fmt: skip
def test_check_warns_of_what_is_of_no_use(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], rules: list[str], told: str
) -> None:
    (found,) = warnings(tmp_path, capsys, rules)
    assert re.match(r":\d+:6: rule [ab]: ", found)
    assert told in found


@pytest.mark.parametrize(
    "rules",
    [
        ["name: a, match: {event: [exec, exit], exit-code: 1}"],
        ["name: a, match: {event: exec, exit-code|exists: false}"],
        ["name: a, match: {pid: 1}, action: tag, tags: [x]", "name: b, match: {tags: x}"],
        ["name: b, match: {tags: x}", "name: a, match: {pid: 1}, action: tag, tags: [x], inherit: true"],
        ["name: a, match: {pid: 1}, action: tag, tags: [x]", "name: b, match: {tags|exists: no}"],
        ["name: a, match: {event: exec}, action: tag, tags: [x]", "name: b, match: {event: exec}"],
        ["name: a, match: {event: exec}", "name: b, match: {uid: 0}"],
        ["name: a, match: {exe: /bin/a}, action: drop", "name: b, match: {exe: /bin/a}"],
        ["name: a, match: {not: {event: exec}}", "name: b, match: {any: [{exit-code: 1}, {event: exec}]}"],
    ],
)
def test_check_is_silent_on_what_may_be_of_use(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], rules: list[str]
) -> None:
    file = config(tmp_path, "rules:\n" + "".join(f"  - {{{rule}}}\n" for rule in rules))
    (found,) = as_json(capsys, "check", file)
    assert (found["warnings"], found["rules"], found["files"]) == ([], len(rules), [file])


def test_what_is_shipped_is_all_of_use(tmp_path: Path) -> None:
    """The files to choose from build upon the main one."""
    for path in (ROOT / "etc").rglob("*.yaml"):
        copy = tmp_path / path.relative_to(ROOT / "etc")
        copy.parent.mkdir(mode=0o755, exist_ok=True)
        copy.write_bytes(path.read_bytes())
        copy.chmod(0o644)
    shipped = load_config(
        main_file=str(tmp_path / "procwatchd.yaml"), drop_in_directory=str(tmp_path / "procwatchd.d")
    )
    assert len(shipped.files) > 1
    assert list(useless(shipped)) == []


def test_check_tells_all_problems_of_all_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = config(tmp_path, "rules: [{name: a, match: {no: 1}}, {name: b, match: {uid: x}}]")
    assert main(["check", bad, str(tmp_path / "missing")]) == 1
    out = capsys.readouterr().out
    assert out.count(f"{bad}:1:") == 2
    assert "missing:1:1: file: cannot be opened" in out
    assert "2 problems; the daemon would not take it" in out


def test_check_tells_of_sigma_rules_that_cannot_be_loaded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = config(tmp_path, f"sigma: {{paths: [{tmp_path}/none.yml]}}")
    (found,) = as_json(capsys, "check", file, status=1)
    assert found["warnings"] == [
        f"{tmp_path}/none.yml:1:1: file: cannot be opened: No such file or directory"
    ]


def test_what_other_rules_would_have_done(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = entries(tmp_path, EXEC, EXIT, SECRET, {"PROCWATCH_EVENT": "summary", "PROCWATCH_COUNT": "9"}, "{")
    found = as_json(capsys, "test", config(tmp_path, RULES), "--file", file)
    rules = {rule["name"]: rule for rule in found["rules"]}
    counts = {name: (rule["matched"], rule["decided"], rule["undecidable"]) for name, rule in rules.items()}
    assert counts == {"tagging": (3, 0, 0), "failed": (1, 1, 0), "fetching": (0, 0, 1), "shells": (1, 1, 0)}
    assert rules["tagging"]["samples"] == ["sh -c id", "curl -u '<redacted:password:0a0b0c0d>'"]
    assert rules["fetching"]["why"] == ["cmdline|contains a secret in it is hidden"]
    assert found["outcomes"] == {"log": 1, "drop": 1, "count": 0, "undecidable": 1}
    assert (found["events"], found["unmatched"]["decided"]) == (3, 0)
    assert found["absent"] == {
        "dropped": None,
        "dropped_since_usec": None,
        "dropped_until_usec": None,
        "summarised": 9,
        "lost": 0,
    }
    assert found["skipped"] == {"count": 1, "first": [f"{file}:5: not JSON, or cut off"]}


def test_how_much_rules_dropped_is_said_with_the_time_of_which_it_is_known(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def account(at: int, dropped: int) -> dict[str, str]:
        return {
            "PROCWATCH_EVENT": "statistics",
            "PROCWATCH_DROPPED": str(dropped),
            "__REALTIME_TIMESTAMP": str(at * 1_000_000),
        }

    told = [account(86400 * 365, 100), account(86400 * 366, 107)]
    for of, words in (
        (told[:1], "how many rules dropped is not told"),
        (told, "dropped by rules at least 7, those"),
    ):
        assert main(["test", config(tmp_path, RULES), "--file", entries(tmp_path, *of)]) == 0
        assert words in capsys.readouterr().out


TAGGING = """
rules:
  - {name: tagging, match: {exe: /bin/sh}, action: tag, tags: [shell], inherit: true}
  - {name: shells, match: {tags: shell, event: exit}, action: drop}
"""
OTHER = EXIT | {"PROCWATCH_EXE": "/bin/other"}


@pytest.mark.parametrize(
    ("between", "later", "dropped"),
    [
        ({}, {}, 1),
        ({}, {"_BOOT_ID": "2"}, 0),
        ({}, {"_MACHINE_ID": "b"}, 0),
        ({"PROCWATCH_EVENT": "start"}, {}, 0),
        ({"PROCWATCH_EVENT": "start", "_MACHINE_ID": "b"}, {}, 1),
        ({"PROCWATCH_EVENT": "start", "_BOOT_ID": "2"}, {}, 1),
    ],
)
def test_tags_are_of_one_process_and_one_daemon(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    between: dict[str, str],
    later: dict[str, str],
    dropped: int,
) -> None:
    """PIDs and starts are the same on many machines, and a daemon that was started again may know nothing of before."""
    where = {"_BOOT_ID": "1", "_MACHINE_ID": "a"}
    of = [where | EXEC, *([where | between] if between else []), where | OTHER | later]
    found = as_json(capsys, "test", config(tmp_path, TAGGING), "--file", entries(tmp_path, *of))
    assert (found["outcomes"]["drop"], found["outcomes"]["undecidable"]) == (dropped, 1 - dropped)


def test_sigma_rules_are_tried_as_well(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rule = (
        "title: Shell\nid: '1'\nlevel: high\nlogsource: {product: linux, category: process_creation}\n"
        "detection: {selection: {Image|endswith: /SH}, other: {CommandLine|contains: x}, condition: %s}\n"
    )
    (tmp_path / "a.yml").write_text(rule % "selection")
    (tmp_path / "b.yml").write_text(rule.replace("'1'", "'2'") % "selection and other")
    (tmp_path / "c.yml").write_text(rule.replace("'1'", "'3'") % "selection")
    text = f"""
sigma:
  paths: [{tmp_path}/a.yml, {tmp_path}/b.yml, {tmp_path}/c.yml]
  exclude: [{{id: '3', match: {{uid|exists: no}}}}]
rules: [{{name: none, match: {{pid|gt: 0}}, action: drop}}]
"""
    file = entries(tmp_path, EXEC, SECRET, EXIT)
    found = as_json(capsys, "test", config(tmp_path, text), "--file", file)
    assert [(one["matched"], one["undecidable"]) for one in found["sigma"]] == [(2, 0), (0, 1)]
    assert found["outcomes"] == {"log": 2, "drop": 1, "count": 0, "undecidable": 0}


def test_sigma_rules_that_could_not_be_loaded_are_not_kept_quiet(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rules = config(tmp_path, f"sigma: {{paths: [{tmp_path}/none.yml]}}")
    for words in (("test", rules), ("explain", "-c", rules)):
        assert main([*words, "--file", entries(tmp_path, EXEC)]) == 0
        assert (
            "problems with Sigma rules, which are not tried: 1; 'procwatchctl check'"
            in capsys.readouterr().out
        )
        (problem,) = as_json(capsys, *words, "--file", entries(tmp_path, EXEC))["sigma_problems"]
        assert problem.startswith(f"{tmp_path}/none.yml:1:1: file: cannot be opened")


@pytest.mark.parametrize(
    ("last", "told", "absent"),
    [
        ({"end": {"unwritten": 0, "lost": 0, "gaps": 0}}, None, [0, 0, 0]),
        (
            {"end": {"unwritten": 4, "lost": 5, "gaps": 0}},
            "not in it, and so not tried: 4 for which it had no room, 5 lost; other gaps: 0",
            [4, 5, 0],
        ),
        ({"end": {"unwritten": 0, "lost": 0, "gaps": 6}}, "0 lost; other gaps: 6", [0, 0, 6]),
        (
            {"end": {"unwritten": 0, "lost": 0}},
            "nothing tells whether the recording is whole",
            [None, None, None],
        ),
        ({"process": 0}, "nothing tells whether the recording is whole", [None, None, None]),
    ],
)
def test_what_is_not_in_a_recording_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], last: object, told: str | None, absent: list[object]
) -> None:
    file = entries(tmp_path, {"procwatchd-recording": 1}, last)
    words = ("test", config(tmp_path, RULES), "--file", file)
    assert main([*words]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert ("not in it" in out or "nothing tells" in out) is (told is not None)
    assert told is None or told in out
    found = as_json(capsys, *words)["absent"]
    assert [found["unwritten"], found["lost"], found["gaps"]] == absent


def test_what_decided_on_an_event(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("explain", "-c", config(tmp_path, RULES), "--file", entries(tmp_path, EXEC, EXIT, SECRET))
    found = as_json(capsys, *words, "--event", "exit")
    assert (found["action"], found["rule"]) == ("log", "failed")
    assert [(rule["name"], rule["holds"]) for rule in found["rules"]] == [("tagging", True), ("failed", True)]
    condition = {"condition": "exit-code|gt: 0", "holds": True, "value": "3", "why": ""}
    assert found["rules"][1]["conditions"][1] == condition
    found = as_json(capsys, *words, "--pid", "6")
    assert (found["action"], found["rule"]) == ("undecidable", "fetching")
    assert found["unknown"]["CMDLINE"] == "a secret in it is hidden"
    found = as_json(capsys, *words, "--process-id", "5-1")
    assert (found["event"], found["action"], found["rule"]) == ("exec", "drop", "shells")
    failed = [rule for rule in found["rules"] if rule["name"] == "fetching"]
    assert failed[0]["conditions"] == [
        {"condition": "cmdline|contains: evil", "holds": False, "value": "sh -c id", "why": ""}
    ]


def test_explain_in_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = entries(tmp_path, EXEC)
    assert main(["explain", "-c", config(tmp_path, RULES), "--file", file]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "exec of process 5: sh -c id",
        "matches tagging (tag)",
        "          exe: /bin/sh: holds: /bin/sh",
        "no      fetching (log)",
        "          cmdline|contains: evil: does not hold: sh -c id",
        "matches shells (drop, decides)",
        "          tags: shell: holds: shell",
        "drop: rule shells",
    ]
    assert main(["explain", "-c", config(tmp_path, RULES), "--file", file, "--pid", "77"]) == 2
    assert "no event in" in capsys.readouterr().err
    assert main(["explain", "-c", config(tmp_path, RULES), "--file", file, "--cursor", "x"]) == 2


def test_sigma_rules_are_listed_and_checked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = str(ROOT / "tests/data/sigma/brackets.yml")
    found = as_json(capsys, "sigma", "list", data)
    assert [(rule["title"], rule["file"]) for rule in found["rules"]] == [("Brackets in Brackets", data)]
    assert main(["sigma", "check", data]) == 0
    assert "1 rules, 0 problems" in capsys.readouterr().out
    bad = tmp_path / "bad.yml"
    bad.write_text("title: A\nlogsource: {product: linux, category: process_creation}\ndetection: 1\n")
    assert main(["sigma", "check", str(bad)]) == 1
    assert f"{bad}:3:" in capsys.readouterr().out


def test_nothing_of_a_process_reaches_a_terminal_as_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bytes_ = list(HOSTILE.encode("utf-8", "surrogateescape"))
    hostile = EXEC | {"PROCWATCH_EXE": bytes_, "PROCWATCH_CMDLINE": bytes_, "PROCWATCH_COMM": HOSTILE}
    file = entries(tmp_path, hostile, {HOSTILE: HOSTILE})
    rules = config(tmp_path, "rules: [{name: hit, match: {comm|contains: red}}]")
    for words in (("test", rules), ("explain", "-c", rules)):
        assert main([*words, "--file", file]) == 0
        out = capsys.readouterr().out
        assert [line for line in out.split("\n") if not (line.isprintable() and line.isascii())] == []
        assert "[bold]:smile:\\xff" in out


def test_what_cannot_be_read_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rules = config(tmp_path, RULES)
    for file in (tmp_path / "none", tmp_path):
        assert main(["test", rules, "--file", str(file)]) == 2
        assert capsys.readouterr().err.startswith("procwatchctl: cannot ")
    assert main(["test", str(tmp_path / "none"), "--file", "-"]) == 1


def run(*words: str, **environment: str) -> tuple[str, int]:
    """Run procwatchctl on a terminal; gives what that has got, and the exit status."""
    leader, follower = pty.openpty()
    command = [sys.executable, "-m", "procwatchd.ctl.main", *words]
    kept = {name: value for name, value in os.environ.items() if "PAGER" not in name and name != "NO_COLOR"}
    with subprocess.Popen(
        command,
        stdin=follower,
        stdout=follower,
        stderr=follower,
        cwd=ROOT,
        env=kept | {"TERM": "xterm"} | environment,
    ) as process:
        os.close(follower)
        shown = b""
        try:
            while data := os.read(leader, 1 << 16):
                shown += data
        except OSError:  # nobody has the other end any more
            pass
    os.close(leader)
    return shown.decode(), process.returncode


def in_shell(script: str, *words: str, **environment: str) -> tuple[int, str, str]:
    """Run procwatchctl where a shell's `script` has it as "$@"; gives the exit status, and what was written."""
    command = ["bash", "-c", script, "bash", sys.executable, "-m", "procwatchd.ctl.main", *words]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_streams_that_are_closed_are_done_without(tmp_path: Path, closed: str) -> None:
    rules = config(tmp_path, RULES)
    for words in (("check", rules), ("test", rules, "--file", entries(tmp_path, EXEC))):
        status, _, told = in_shell(f'"$@" {closed}', *words)
        assert (status, told) == (0, "")


def test_standard_input_that_is_closed_has_nothing(tmp_path: Path) -> None:
    status, out, told = in_shell('"$@" <&-', "test", config(tmp_path, RULES), "--file", "-", "--json")
    assert (status, json.loads(out)["events"], told) == (0, 0, "")


@pytest.mark.parametrize("more", [(), ("--json",)])
def test_a_full_disk_is_said(tmp_path: Path, more: tuple[str, ...]) -> None:
    status, _, told = in_shell('"$@" >/dev/full', "check", config(tmp_path, RULES), *more)
    assert (status, told) == (2, "procwatchctl: [Errno 28] No space left on device\n")


def test_a_file_that_cannot_be_read_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["test", config(tmp_path, RULES), "--file", "/proc/self/mem"]) == 2
    assert capsys.readouterr().err == "procwatchctl: [Errno 5] Input/output error\n"


def test_what_the_locale_has_no_character_for_is_written_by_its_number(tmp_path: Path) -> None:
    words = ("explain", "-c", config(tmp_path, RULES))
    file = entries(tmp_path, EXEC | {"PROCWATCH_CMDLINE": "echo ä"})
    status, out, told = in_shell('"$@"', *words, "--file", file, PYTHONIOENCODING="ascii")
    assert (status, told) == (0, "")
    assert "echo \\xe4" in out


@pytest.mark.parametrize("more", [(), ("--json",)])
def test_who_has_seen_enough_is_not_told_of_an_error(tmp_path: Path, more: tuple[str, ...]) -> None:
    """The reader is gone before anything is written."""
    many = "rules:\n" + "".join(f"  - {{name: r{n}, match: {{pid: {n}}}}}\n" for n in range(2000))
    words = ("test", config(tmp_path, many), "--file", entries(tmp_path, EXEC), *more)
    status, _, told = in_shell('{ sleep 0.1; "$@"; echo $? >&2; } | true', *words)
    assert (status, told) == (0, "0\n")


def test_on_a_terminal_there_are_a_pager_and_colours(tmp_path: Path) -> None:
    file = config(tmp_path, RULES)
    paged, status = run("check", file, PAGER="sed s/^/paged:/")
    assert paged.startswith("paged:\x1b[")
    assert status == 0
    assert run("check", file, "--no-pager", PAGER="sed s/^/paged:/")[0].startswith("\x1b[32m")
    assert run("check", file, PAGER="sed s/^/paged:/", SYSTEMD_PAGER="cat")[0].startswith("\x1b[32m")
    assert run("check", file, PAGER="cat", NO_COLOR="1")[0].startswith(f"{file}: fine")
    assert run("check", file, PAGER="/none 'x")[0].startswith("\x1b[32m")
    assert run("check", file, PAGER="true")[1] == 0


def test_times_may_begin_with_a_dash(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    now = EXEC | {"__REALTIME_TIMESTAMP": "4000000000000000"}
    words = ("test", config(tmp_path, RULES), "--file", entries(tmp_path, now))
    assert as_json(capsys, *words, "--since", "-1h")["events"] == 1
    assert as_json(capsys, *words, "--until", "-1h")["events"] == 0


def commands() -> dict[str, Any]:
    """The parsers of all commands."""
    parser = arguments.make_parser()
    (action,) = [one for one in parser._actions if one.dest == "command"]
    found = dict(action.choices or {})
    (what,) = [one for one in found.pop("sigma")._actions if one.dest == "what"]
    return found | {f"sigma {name}": one for name, one in what.choices.items()}


@pytest.mark.parametrize("name", commands())
def test_each_command_has_an_example_that_parses(name: str) -> None:
    example = re.search(r"example:\n  procwatchctl (.*)", commands()[name].format_help())
    assert example is not None
    assert example[1].startswith(name)
    words = re.sub(
        r"(--since|-S) -", lambda found: f"{found[1]}=-" if found[1] != "-S" else "-S-", example[1]
    )
    assert arguments.make_parser().parse_args(words.split())


def test_a_recording_is_offered_by_those_that_read_it() -> None:
    reading = {name for name, one in commands().items() if "--file" in one.format_help()}
    assert reading > {"test", "explain", "top"}
    offered = {name for name in reading if "recording" in commands()[name].format_help()}
    assert offered == {"test", "explain"}


def test_the_manual_has_all_commands_and_options_and_no_other() -> None:
    options = {
        word for one in commands().values() for action in one._actions for word in action.option_strings
    }
    heads = re.findall(r"^\.It (Fl .*)$", PAGE, re.MULTILINE)
    assert {f"-{name}" for head in heads for name in re.findall(r"Fl (-?[a-zA-Z-]+)", head)} == options | {
        "--version"
    }
    listed = PAGE.partition("The options are:")[0]
    described = [
        head.partition(" Op")[0].partition(" Ar")[0] for head in re.findall(r"^\.It Cm (.*)$", listed, re.M)
    ]
    assert sorted(described) == sorted(commands())


def test_the_events_are_those_that_there_are() -> None:
    assert arguments.EVENTS == EVENTS


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_shells_complete_commands_and_files(shell: str) -> None:
    text = shtab.complete(arguments.make_parser(), shell=shell)
    assert all(word in text for word in ("explain", "--process-id", "coredump"))
    assert arguments._FILE[shell] in text


def test_filters_and_files_stand_on_both_sides_of_an_option(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [{"PROCWATCH_EVENT": "exec", "PROCWATCH_PID": str(pid), "MESSAGE": f"<{pid}>"} for pid in (1, 2)]
    file = tmp_path / "entries"
    file.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    assert main(["log", "event=exec", "--file", str(file), "pid=2"]) == 0
    out = capsys.readouterr().out
    assert ("<1>" in out, "<2>" in out) == (False, True)
    with pytest.raises(SystemExit):
        main(["log", "event=exec", "--bogus", "pid=2"])
    assert "unrecognized arguments: --bogus" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["doctor", "--json", "more"])


def test_a_list_says_where_its_problems_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sigma", "list", "/nonexistent"]) == 0
    assert "'procwatchctl sigma check' names the problems" in capsys.readouterr().out
