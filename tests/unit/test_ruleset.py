# SPDX-License-Identifier: MIT
"""Which rule decides, and what its decision says."""

from __future__ import annotations

from typing import Any

import pytest

from procwatchd.process.model import Context, Image, Process, Record
from procwatchd.rules.match import compile_match
from procwatchd.rules.names import UnknownNameError, getter_of
from procwatchd.rules.ruleset import Decision, Rule, RuleSet
from procwatchd.rules.template import TemplateError, parse_template


def record(event: str = "exec", comm: bytes = b"a") -> Record:
    parent = Process(
        4, 1, None, 1, b"sh", Image(b"/bin/sh", None, 0, b"", "same"), Context(tty="pts/1"), None
    )
    of = Process(5, 2, parent, 4, comm, Image(b"/bin/a", b"a\0", 2, b"", "same"), Context(), None)
    return Record(event, of, 0, "proc", "same")


def rule(name: str, tree: dict[str, Any], **rest: Any) -> Rule:
    return Rule(name, compile_match(tree), **rest)


def test_what_no_rule_decides() -> None:
    assert RuleSet([]).decide(record()) == Decision("log", None, 6)
    assert RuleSet([], unmatched="drop", priority=3).decide(record()) == Decision("drop", None, 3)
    assert RuleSet([]).decide(record("of-tomorrow")) == Decision("log", None, 6)


def test_the_first_that_matches_decides() -> None:
    rules = RuleSet(
        [
            rule("no", {"comm": "b"}, action="drop"),
            rule("first", {"comm": "a"}, priority=2),
            rule("second", {"comm": "a"}, action="drop"),
        ]
    )
    assert rules.decide(record()) == Decision("log", "first", 2)
    assert rules.decide(record()) is rules.decide(record())
    assert rules.decide(record(comm=b"b")) == Decision("drop", "no", 6)


def test_tags_add_up_and_the_decider_wins() -> None:
    early, late = parse_template("early"), parse_template("late")
    rules = RuleSet(
        [
            rule("t1", {"comm": "a*"}, action="tag", tags=("x", "y"), fields=(("A", "1"), ("B", "1"))),
            rule("t2", {"tags": "x"}, action="tag", tags=("y", "z"), priority=4, message=early),
            rule("no", {"tags": "w"}, action="drop"),
            rule("d", {"tags|all": ["x", "z"], "comm": "a"}, priority=1, tags=("w",), message=late,
                 fields=(("A", "2"),)),
        ],
        priority=5,
    )  # fmt: skip
    assert rules.decide(record()) == Decision(
        "log", "d", 1, ("x", "y", "z", "w"), late, (("A", "2"), ("B", "1"))
    )
    assert rules.decide(record(comm=b"ab")) == Decision(
        "log", None, 4, ("x", "y", "z"), early, (("A", "1"), ("B", "1"))
    )
    assert rules.decide(record(comm=b"b")) == Decision("log", None, 5)


def test_tags_of_the_process_are_there_from_the_start() -> None:
    rules = RuleSet(
        [
            rule("d", {"tags": "old", "comm": "b"}, action="drop"),
            rule("t", {"tags": "old"}, action="tag", tags=("new", "old"), inherit=True),
            rule("u", {"tags": "new"}, action="tag", tags=("last",)),
        ]
    )
    assert rules.inherited == {"new", "old"}
    tagged = record()
    tagged.process.tags = ("old",)
    assert rules.decide(tagged) == Decision("log", None, 6, ("old", "new", "last"), inherited=("new", "old"))
    tagged.process.comm = b"b"
    assert rules.decide(tagged) == Decision("drop", "d", 6, ("old",))
    assert rules.decide(record()) == Decision("log", None, 6)


def test_rules_are_tried_only_for_their_events() -> None:
    rules = RuleSet(
        [
            rule("exits", {"event": "exit"}),
            rule("both", {"event": ["exec", "exit"]}),
            rule("all", {"comm": "a"}),
        ]
    )
    names = {event: [r.name for r in tried] for event, tried in rules.by_event.items()}
    assert names["exit"] == ["exits", "both", "all"]
    assert names["exec"] == ["both", "all"]
    assert names["fork"] == ["all"]
    assert rules.decide(record("exec")).rule == "both"
    assert rules.decide(record("exit")).rule == "exits"


def test_many_rules_are_tried_in_order_and_for_their_events() -> None:
    rules = [
        rule(f"comm-{n}", {"event": "exit" if n < 50 else "exec", "comm": f"c{n % 50}"}) for n in range(100)
    ]
    rules.insert(30, rule("tags", {"comm|contains": "c", "tty|exists": "no"}, action="tag", tags=("c",)))
    rules.insert(60, rule("tagged", {"tags": "c", "comm": ["c8", "c9", "c40"]}, action="drop"))
    of = RuleSet(rules)
    assert of.decide(record("exit", b"c7")) == Decision("log", "comm-7", 6)
    assert of.decide(record("exit", b"c40")) == Decision("log", "comm-40", 6, ("c",))
    assert of.decide(record("exec", b"c40")) == Decision("drop", "tagged", 6, ("c",))
    assert of.decide(record("exec", b"c41")) == Decision("log", "comm-91", 6, ("c",))
    assert of.decide(record("uid", b"c41")) == Decision("log", None, 6, ("c",))
    assert of.decide(record("exec", b"c99")) == Decision("log", None, 6, ("c",))
    assert of.decide(record("exec", b"x")) == Decision("log", None, 6)


def test_needs_are_what_matches_and_messages_look_at() -> None:
    rules = RuleSet(
        [rule("r", {"event": "exec", "parent.uid": "0"}, message=parse_template("{tty}{parent.cwd}"))]
    )
    assert rules.needs == {"EVENT", "UID", "TTY", "CWD"}


def test_a_template_is_filled_in() -> None:
    template = parse_template("{{{user}}} {exit-code}{parent.exe}{parent.tty}{tags}{rule}!")
    assert template.names == ("USER", "EXIT_CODE", "PARENT_EXE", "PARENT.TTY", "TAGS", "RULE")
    assert template.render(lambda name: f"<{name}>" if name != "EXIT_CODE" else "") == (
        "{<USER>} <PARENT_EXE><PARENT.TTY><TAGS><RULE>!"
    )
    assert parse_template("plain").render(lambda _: "no") == "plain"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{usr}", "did you mean 'user'?"),
        ("{}", "unknown field"),
        ("{user", "single '{'"),
        ("user}", "single '}'"),
        ("{a{b}}", "single '{'"),
        ("{sigma-id}", "after all rules"),
        ("{ancestor.exe}", "many ancestors"),
        ("{user.__class__}", "unknown prefix"),
        ("{user!r}", "unknown field"),
        ("a\nb", "one line"),
        ("x" * 1025, "longer"),
    ],
)
def test_bad_templates(text: str, why: str) -> None:
    with pytest.raises(TemplateError, match=why.replace("?", r"\?")):
        parse_template(text)


def test_all_problems_of_a_template_are_found() -> None:
    with pytest.raises(TemplateError) as caught:
        parse_template("{usr} {user} } {ancestor.exe}\n{")
    assert len(caught.value.problems) == 5


def test_getters_for_names_in_templates() -> None:
    assert getter_of("CMDLINE")(record()) == b"a"
    assert getter_of("PARENT.TTY")(record()) == "pts/1"
    with pytest.raises(UnknownNameError):
        getter_of("TAGS")
