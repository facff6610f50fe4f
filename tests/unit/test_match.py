# SPDX-License-Identifier: MIT
"""The language of matches, against records as the worker makes them."""

from __future__ import annotations

import time
from typing import Any

import pytest

from procwatchd.process.fields import FIELDS
from procwatchd.process.model import ANCESTOR_LIMIT, Context, Image, Killer, Process, Record
from procwatchd.rules.match import Match, MatchError, compile_match
from procwatchd.rules.names import key_of
from procwatchd.rules.pattern import Wild, parse_pattern

HOST = Context(host_mounts=True)
ELSEWHERE = Context(host_mounts=False, mount_namespace=7)


def process(
    exe: bytes | None = b"/usr/bin/env",
    *argv: bytes,
    parent: Process | None = None,
    context: Context = HOST,
    comm: bytes | None = b"env",
    pid: int = 5,
) -> Process:
    joined = b"".join(arg + b"\0" for arg in argv) if argv else None
    return Process(
        pid, 9, parent, 4, comm, Image(exe, joined, len(joined or b""), b"", "same"), context, None
    )


def record(of: Process | None = None, event: str = "exec", **rest: Any) -> Record:
    return Record(event, of or process(), 0, rest.pop("source", "proc"), "same", **rest)


def holds(tree: Any, of: Record, *tags: str, **options: Any) -> bool:
    return compile_match(tree, **options).holds(of, tags)


def problems(tree: Any) -> list[tuple[tuple[str | int, ...], str]]:
    with pytest.raises(MatchError) as caught:
        compile_match(tree)
    return caught.value.problems


@pytest.mark.parametrize(
    ("tree", "cmdline", "expected"),
    [
        ({"cmdline": "a b"}, (b"a", b"b"), True),
        ({"cmdline": "a"}, (b"a", b"b"), False),
        ({"cmdline": "A B"}, (b"a", b"b"), False),
        ({"cmdline|cased": "a b"}, (b"a", b"b"), True),
        ({"cmdline": ["x", "a b"]}, (b"a", b"b"), True),
        ({"cmdline": ["x", "a*"]}, (b"a", b"b"), True),
        ({"cmdline": "a*"}, (b"a", b"\xff\n"), True),
        ({"cmdline": "*\n"}, (b"a", b"\xff\n"), True),
        ({"cmdline": "?a"}, (b"\xffa",), True),
        ({"cmdline": "?a"}, (b"\na",), True),
        ({"cmdline": "a?c*e"}, (b"abcdde",), True),
        ({"cmdline": "a?c*e"}, (b"abcdd",), False),
        ({"cmdline": r"a\*"}, (b"a*",), True),
        ({"cmdline": r"a\*"}, (b"ab",), False),
        ({"cmdline": r"C:\x"}, (rb"C:\x",), True),
        ({"cmdline": r"a\\*"}, (rb"a\b",), True),
        ({"cmdline": "*"}, (b"",), True),
        ({"cmdline": "a.c"}, (b"abc",), False),
        ({"cmdline": "?.[c]-&~#*x"}, (b"b.[c]-&~#  x",), True),
        ({"cmdline|contains": "b"}, (b"abc",), True),
        ({"cmdline|contains": ["x", "c"]}, (b"abc",), True),
        ({"cmdline|contains|all": ["a", "c"]}, (b"abc",), True),
        ({"cmdline|contains|all": ["a", "x"]}, (b"abc",), False),
        ({"cmdline|contains": "a*c"}, (b"xabcx",), True),
        ({"cmdline|startswith": "a?c"}, (b"abcx",), True),
        ({"cmdline|startswith": ["x", "ab"]}, (b"abc",), True),
        ({"cmdline|endswith": "bc"}, (b"abc",), True),
        ({"cmdline|endswith": "ab"}, (b"abc",), False),
        ({"cmdline|endswith": "a*c"}, (b"xabbc",), True),
        ({"cmdline|all": ["a*", "*c", "*b*"]}, (b"abc",), True),
        ({"cmdline|re": "b+$"}, (b"abb",), True),
        ({"cmdline|re": "^b"}, (b"abb",), False),
        ({"cmdline|re": ["x", "\ufffd"]}, (b"a\xff",), True),
        ({"cmdline|re": r"a\n\x1b"}, (b"a\n\x1b",), True),
        ({"cmdline": "ä"}, ("ä".encode(),), True),
        ({"cmdline": "?"}, ("ä".encode(),), True),
    ],
)
def test_texts(tree: Any, cmdline: tuple[bytes, ...], expected: bool) -> None:
    assert holds(tree, record(process(b"/x", *cmdline))) is expected


def test_texts_that_are_str() -> None:
    on_terminal = record(process(context=Context(tty="pts/3")))
    for value in (
        {"tty": "pts/3"},
        {"tty": "pts/*"},
        {"tty|endswith": "3"},
        {"tty|contains": "s"},
        {"tty|re": "^p"},
    ):
        assert holds(value, on_terminal)
    assert holds({"tty|re": "^p.$"}, record(process(context=Context(tty="pä"))))
    assert not holds({"tty|re": "^q"}, record(process(context=Context(tty="p\udcff"))))


def test_absent_matches_nothing_but_exists_false() -> None:
    nameless = record(process(None, comm=None))
    for key in ("exe", "exe|contains", "exe|startswith", "exe|endswith", "exe|re"):
        assert not holds({key: "x"}, nameless)
    assert not holds({"exe": "*"}, nameless)
    assert not holds({"exit-code|lt": "1"}, nameless)
    assert not holds({"exit-code": ["1", "2"]}, nameless)
    assert holds({"exe|exists": "false"}, nameless)
    assert not holds({"exe|exists": "on"}, nameless)
    assert holds({"not": {"exe": "x"}}, nameless)


def test_numbers_compare_as_numbers() -> None:
    ended = record(event="exit", wait_status=9 << 8)
    for tree in (
        {"exit-code": "9"},
        {"exit-code": ["9", "10"]},
        {"exit-code|gt": "8"},
        {"exit-code|gte": "9"},
        {"exit-code|lt": "10"},
        {"exit-code|lte": "9"},
    ):
        assert holds(tree, ended)
    for tree in ({"exit-code": "0"}, {"exit-code|gt": "9"}, {"exit-code|lt": "9"}):
        assert not holds(tree, ended)


def test_groups_nest() -> None:
    of = record(process(b"/bin/a", b"a", b"b"))
    yes, no = {"exe": "/bin/a"}, {"exe": "/bin/b"}
    assert holds({"any": [no, yes]}, of)
    assert holds({"any": [no, no, yes]}, of)
    assert not holds({"any": [no, no, no]}, of)
    assert holds({"all": [yes, yes, yes]}, of)
    assert not holds({"all": [yes, no, yes]}, of)
    assert holds({"not": no}, of)
    assert holds({"not": [no, no]}, of)
    assert not holds({"not": [no, yes]}, of)
    assert holds({"not": {"not": {"any": [no, {"all": [yes, {"not": no}]}]}}, "comm": "env"}, of)


def test_parent_and_ancestors() -> None:
    top = process(b"/sbin/init", comm=b"init", pid=1)
    web = process(b"/usr/sbin/nginx", b"nginx", parent=top, comm=b"nginx")
    shell = process(b"/bin/sh", b"sh", parent=web, comm=b"sh")
    of = record(process(b"/bin/id", b"id", parent=shell))
    assert holds({"parent.exe": "/bin/sh", "parent-comm": "sh", "parent.pid": "5"}, of)
    assert holds({"ancestor.exe": "/usr/sbin/nginx"}, of)
    assert not holds({"ancestor.exe": "/bin/id"}, of)
    assert holds({"ancestor.exe": "/usr/sbin/nginx", "ancestor.comm": "nginx"}, of)
    # Each holds for one, but not both for the same one.
    assert not holds({"ancestor.exe": "/usr/sbin/nginx", "ancestor.comm": "sh"}, of)
    assert holds({"ancestor.exe": "/usr/sbin/nginx", "any": [{"ancestor.comm": "sh"}]}, of)
    assert not holds({"parent.exe": "*"}, record(top))
    assert holds({"parent.exe|exists": "no"}, record(top))
    assert not holds({"ancestor.pid|gte": "0"}, record(top))


def test_ancestors_are_looked_up_so_far_and_no_farther() -> None:
    top = process(comm=b"top")
    chain = top
    for _ in range(ANCESTOR_LIMIT):
        chain = process(parent=chain)
    assert holds({"ancestor.comm": "top"}, record(chain))
    assert not holds({"ancestor.comm": "top"}, record(process(parent=chain)))


def test_tags_match_singly() -> None:
    of = record()
    assert holds({"tags": "web"}, of, "ssh", "web")
    assert not holds({"tags": "web"}, of, "webshell")
    assert not holds({"tags": "web"}, of)
    assert holds({"tags|startswith": "web"}, of, "webshell")
    assert holds({"tags|all": ["a", "b"]}, of, "b", "a")
    assert not holds({"tags|all": ["a", "b"]}, of, "a")
    assert holds({"tags|re": "^s.h$"}, of, "ssh")
    assert holds({"tags|exists": "no"}, of)
    assert holds({"tags|exists": "yes"}, of, "a")


@pytest.mark.parametrize(
    ("tree", "presence"),
    [
        ({"tags": ["web", "x"]}, True),
        ({"tags|exists": "yes"}, True),
        ({"tags|exists": "no"}, False),
        ({"not": {"tags": "w*"}}, False),
        ({"not": [{"any": [{"tags|exists": "no"}]}]}, True),
        ({"not": {"all": [{"not": {"tags": "web"}}]}}, True),
    ],
)
def test_a_match_tells_what_it_asks_of_tags(tree: Any, presence: bool) -> None:
    [(test, is_presence)] = compile_match(tree).tag_tests
    assert test("web")
    assert is_presence is presence


def test_events_are_told_apart_before_the_test() -> None:
    found = compile_match({"event": ["exec", "exit"], "exe": "/bin/a"})
    assert found.events == frozenset({"exec", "exit"})
    assert found.needs == {"EVENT", "EXE"}
    assert compile_match({"not": {"event": "exec"}}).events is None
    assert holds({"event": "exec"}, record())
    assert not holds({"event": "exit"}, record())
    assert not holds({"not": {"event": ["exec", "exit"]}}, record())
    assert holds({"event": ["exec"], "source": ["proc", "table"]}, record())


def silencing(tree: Any) -> Match:
    return compile_match(tree, silences=True)


@pytest.mark.parametrize(
    "tree",
    [
        {"exe": "/usr/bin/env"},
        {"exe": "*"},
        {"parent.exe": "/usr/bin/env"},
        {"parent-exe": "/usr/bin/env"},
        {"ancestor.exe": "/usr/bin/env"},
        {"any": [{"exe|endswith": "/env"}]},
        {"not": {"exe": "/usr/bin/evil"}},
        {"not": {"parent.exe": "/usr/bin/evil"}},
        {"not": {"parent-exe": "/usr/bin/evil"}},
        {"not": {"not": {"exe": "/usr/bin/env"}}},
        {"not": [{"exe": "/usr/bin/evil"}, {"comm": "evil"}]},
    ],
)
def test_a_faked_executable_never_silences(tree: Any) -> None:
    honest = record(process(parent=process()))
    faked = record(process(parent=process(context=ELSEWHERE), context=ELSEWHERE))
    assert silencing(tree).holds(honest)
    assert not silencing(tree).holds(faked)
    assert compile_match(tree).holds(faked)


def test_a_faked_ancestor_does_not_silence_by_being_another() -> None:
    tree = {"not": {"ancestor.exe": "/usr/sbin/sshd"}}
    assert silencing(tree).holds(record(process(parent=process())))
    assert not silencing(tree).holds(record(process(parent=process(context=ELSEWHERE))))


def test_a_faked_tracer_does_not_silence() -> None:
    tree = {"tracer-exe": "/usr/bin/env"}
    assert silencing(tree).holds(record(event="ptrace", tracer=process()))
    assert not silencing(tree).holds(record(event="ptrace", tracer=process(context=ELSEWHERE)))


@pytest.mark.parametrize("scope", ["", "parent.", "ancestor."])
@pytest.mark.parametrize("key", [key_of(name) for name in FIELDS if name.endswith("EXE")])
def test_no_way_to_name_an_executable_evades_the_guard(scope: str, key: str) -> None:
    """Where all are elsewhere, a rule that silences holds for none, or cannot be."""
    of = process(context=ELSEWHERE)
    for _ in range(3):
        of = process(parent=of, context=ELSEWHERE)
    killer = Killer(1, b"env", b"/usr/bin/env", 0, host_mounts=False)
    faked = record(of, "ptrace", tracer=of, killer=killer)
    tree = {scope + key: "/usr/bin/env"}
    if scope and key != "exe":
        [(where, what)] = problems(tree)
        assert where == (scope + key,)
        assert "cannot stand after" in what or "belongs to the event" in what
        return
    assert compile_match(tree).holds(faked)
    assert silencing(tree).is_guarded
    assert not silencing(tree).holds(faked)
    assert not silencing({"not": {scope + key: "/usr/bin/evil"}}).holds(faked)


@pytest.mark.parametrize("key", ["exe", "parent.exe", "ancestor.exe", "parent-exe", "tracer-exe"])
def test_an_executable_that_was_replaced_matches_by_its_path(key: str) -> None:
    upgraded = process(b"/usr/sbin/nginx (deleted)")
    of = record(process(upgraded.image.exe, parent=upgraded), "ptrace", tracer=upgraded)
    for tree in ({key: "/usr/sbin/nginx"}, {f"{key}|endswith": ["/x", "/nginx"]}, {f"{key}|re": "nginx$"}):
        assert holds(tree, of)
    assert holds({f"{key}|endswith": " (deleted)"}, of)
    assert holds({key: ["/usr/sbin/nginx", "/usr/sbin/nginx (deleted)"]}, of)
    assert holds({f"{key}|exists": "yes"}, of)


@pytest.mark.parametrize(
    ("text", "near"),
    [
        ("SEGV", "SIGSEGV"),
        ("11", "SIGSEGV"),
        ("SIGSEVG", "SIGSEGV"),
        ("sigkill", "SIGKILL"),
        ("99", ""),
        ("SIGRTMIN+31", "SIGRTMIN+3"),
        ("", ""),
    ],
)
def test_what_is_no_signal_is_refused(text: str, near: str) -> None:
    [(path, what)] = problems({"exit-signal": ["SIGHUP", text]})
    assert path == ("exit-signal", 1)
    assert what.startswith(f"{text!r} is no signal's name")
    assert near in what
    assert ("did you mean" in what) is bool(near)


def test_signals_match_by_name_or_pattern() -> None:
    for text in ("SIGSEGV", "SIGSEG?", "*V"):
        assert holds({"exit-signal": text}, record(event="exit", wait_status=11))
    assert holds({"exit-signal": "SIGRTMIN+1"}, record(event="exit", wait_status=35))
    assert holds({"exit-signal|contains": "SEG"}, record(event="exit", wait_status=11))
    assert holds({"exit-signal": "sigsegv"}, record(event="exit", wait_status=11), cased=False)


def test_a_problem_with_an_item_is_the_items() -> None:
    assert [path for path, _ in problems({"uid": ["a", "1", "b"]})] == [("uid", 0), ("uid", 2)]
    assert [path for path, _ in problems({"event": ["exec", "x"]})] == [("event", 1)]
    assert [path for path, _ in problems({"exe|contains": ["a", ""]})] == [("exe|contains", 1)]
    found = problems({"exe|re": ["(a", "b", "c)"]})
    assert [path for path, _ in found] == [("exe|re", 0), ("exe|re", 2)]
    assert ["'(a'" in found[0][1], "'c)'" in found[1][1]] == [True, True]


def test_what_exists_cannot_be_faked() -> None:
    assert silencing({"exe|exists": "true"}).holds(record(process(context=ELSEWHERE)))
    assert "MOUNT_NAMESPACE" in silencing({"exe": "x"}).needs
    assert "MOUNT_NAMESPACE" not in compile_match({"exe": "x"}).needs


def test_without_case_as_sigma_wants_it() -> None:
    of = record(process(b"/Bin/\xc3\x84", b"A", b"B"))
    assert holds({"exe": "/bIN/ä"}, of, cased=False)
    assert holds({"exe|startswith": "/bin", "cmdline|re": "^a b$"}, of, cased=False)
    assert not holds({"exe|cased": "/bin/ä"}, of, cased=False)
    assert holds({"cmdline": ["x", "a b"]}, of, cased=False)


@pytest.mark.parametrize(
    ("tree", "path", "text"),
    [
        ({}, (), "empty"),
        (None, (), "mapping"),
        ("x", (), "mapping"),
        ({"exee": "x"}, ("exee",), "did you mean 'exe'?"),
        ({"exit_code": "1"}, ("exit_code",), "did you mean 'exit-code'?"),
        ({"EXE": "x"}, ("EXE",), "unknown field"),
        ({"": "x"}, ("",), "unknown field"),
        ({"sigma-id": "1"}, ("sigma-id",), "after all rules"),
        ({"env-path": "1"}, ("env-path",), "not supported yet"),
        ({"rule": "1"}, ("rule",), "after all rules"),
        ({"parent.exit-code": "1"}, ("parent.exit-code",), "belongs to the event"),
        ({"parent.parent-comm": "1"}, ("parent.parent-comm",), "cannot stand after 'parent'"),
        ({"ancestor.ancestors": "1"}, ("ancestor.ancestors",), "cannot stand after 'ancestor'"),
        ({"parent.parent.exe": "1"}, ("parent.parent.exe",), "unknown prefix"),
        ({"exe|foo": "1"}, ("exe|foo",), "unknown modifier"),
        ({"exe|start": "1"}, ("exe|start",), "did you mean 'startswith'?"),
        ({"exe|contains|contains": "1"}, ("exe|contains|contains",), "twice"),
        ({"exe|contains|re": "1"}, ("exe|contains|re",), "only one of"),
        ({"exe|lt": "1"}, ("exe|lt",), "this is text"),
        ({"uid|contains": "1"}, ("uid|contains",), "this is a number"),
        ({"uid|all": "1"}, ("uid|all",), "this is a number"),
        ({"uid|gt|all": ["1"]}, ("uid|gt|all",), "means nothing"),
        ({"uid|gt": ["1", "2"]}, ("uid|gt",), "not a list"),
        ({"uid": "root"}, ("uid",), "not a decimal number"),
        ({"uid": "0700"}, ("uid",), "not a decimal number"),
        ({"uid": "1*"}, ("uid",), "not a decimal number"),
        ({"uid": "\u0661"}, ("uid",), "not a decimal number"),
        ({"event": "exce"}, ("event",), "none of: fork, exec"),
        ({"source|contains": "p"}, ("source|contains",), "one of a few words"),
        ({"exe|exists": "maybe"}, ("exe|exists",), "true or false"),
        ({"exe|exists|all": "true"}, ("exe|exists|all",), "no other modifier"),
        ({"exe": None}, ("exe",), "has no value"),
        ({"exe": []}, ("exe",), "empty list"),
        ({"exe": ["a", None]}, ("exe", 1), "has no value"),
        ({"exe": {"a": "b"}}, ("exe",), "must be a text"),
        ({"exe": "x" * 4097}, ("exe",), "longer than"),
        ({"exe|contains": ""}, ("exe|contains",), "empty text"),
        ({"exe|re": "(a"}, ("exe|re",), "bad pattern: unclosed group"),
        ({"exe|re": r"(a)\1"}, ("exe|re",), "backreferences are not supported"),
        ({"exe|re": "(?=a)"}, ("exe|re",), "look-around"),
        ({"exe|re": r"\w{1000}{1000}"}, ("exe|re",), "size limit"),
        ({"any": {"exe": "x"}}, ("any",), "list of mappings"),
        ({"any": []}, ("any",), "empty"),
        ({"not": "x"}, ("not",), "mapping or a list"),
        ({"not": {"any": [{"exe": "x"}, "y"]}}, ("not", "any", 1), "must be a mapping"),
    ],
)
def test_problems_say_where_and_what(tree: Any, path: tuple[str | int, ...], text: str) -> None:
    [(where, what)] = problems(tree)
    assert where == path
    assert text in what
    assert "\n" not in what


def test_all_problems_are_found() -> None:
    assert len(problems({"exee": "x", "uid": ["a", "1", "b"], "any": [{"comm|lt": "1"}, {}]})) == 5


def test_groups_have_a_limit() -> None:
    tree: Any = {"exe": "x"}
    for _ in range(50):
        tree = {"not": tree}
    assert "in one another" in problems(tree)[0][1]


def test_wildcards_take_no_longer_than_the_text_is() -> None:
    evil = record(process(b"/x", b"a" * (128 << 10) + b"b"))
    started = time.monotonic()
    assert not holds({"cmdline": "*a*a*a*a*a*a*c"}, evil)
    # A backtracking engine would need longer than the universe has.
    assert time.monotonic() - started < 10


def test_patterns_come_apart() -> None:
    assert parse_pattern(r"a*\?\\?") == ["a", Wild.ANY, "?\\", Wild.ONE]
    assert parse_pattern("") == []
    assert parse_pattern("\\") == ["\\"]
