# SPDX-License-Identifier: MIT
"""What is looked up instead of tried: never a rule that matches, and of the others few."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from procwatchd.process.cgroup import Place
from procwatchd.process.model import Context, Creds, Image, Process, Record
from procwatchd.process.users import Users
from procwatchd.rules.index import CROWD, FEW, ROOT, Index
from procwatchd.rules.literals import literals_of
from procwatchd.rules.match import Match, MatchError, compile_match
from procwatchd.rules.regex import RegexError, compile_literals, compile_regex
from procwatchd.rules.requirement import LITERAL_LIMIT, How
from procwatchd.rules.ruleset import Decision, Rule, RuleSet, Verdict
from procwatchd.rules.template import parse_template

USERS = Users(lambda _: None, passwd_path="/nonexistent")

# Pieces of values and of patterns: so few that they meet. The Kelvin sign is a k without case.
PIECES = ["/", "sh", "SH", "abc", "k", "K", "\u212a", "ä", "Ä", "\ufffd", "\u017fh", "ß"]
MARKS = [" (deleted)", "(deleted", " (DELETED)"]
WILD = ["*", "?", "\\*"]
TAGS = ["x", "y", "z"]

texts = st.lists(st.sampled_from([*PIECES, *MARKS]), max_size=5).map("".join)
paths = st.none() | st.lists(
    st.sampled_from([piece.encode() for piece in [*PIECES, *MARKS]] + [b"\xff", b"\xc3", b"\xe2\x84", b"\n"]),
    max_size=5,
).map(b"".join)
patterns = st.lists(st.sampled_from([*PIECES, *MARKS, *WILD]), min_size=1, max_size=5).map("".join)
REGEX_PIECES = [
    *PIECES,
    r"\.",
    ".",
    "[a-k]",
    "(",
    "(?:",
    ")",
    "|",
    "*",
    "+",
    "?",
    "{0}",
    "{2}",
    "^",
    "$",
    r"\b",
]


@st.composite
def processes(draw: st.DrawFn, parent: Process | None = None) -> Process:
    argv = draw(paths)
    uid = draw(st.none() | st.integers(0, 2))
    unit = draw(paths)
    context = Context(
        tty=draw(st.none() | texts | st.just("a\udcffbc")),
        place=None if unit is None else Place(b"/", unit, None, None, None, None),
        host_mounts=draw(st.booleans()),
    )
    creds = None if uid is None else Creds(uid, uid, uid, uid, USERS)
    image = Image(draw(paths), argv, len(argv or b""), b"", "same")
    return Process(5, 9, parent, 4, draw(paths), image, context, creds)


@st.composite
def records(draw: st.DrawFn) -> Record:
    parent = draw(st.none() | processes())
    of = draw(processes(parent))
    tracer = draw(st.none() | processes())
    status = draw(st.none() | st.sampled_from([0, 1 << 8, 2 << 8, 9, 11]))
    source = draw(st.sampled_from(["proc", "table"]))
    event = draw(st.sampled_from(["exec", "exit", "ptrace"]))
    return Record(event, of, 0, source, "same", wait_status=status, tracer=tracer)


def listed(values: st.SearchStrategy[str]) -> st.SearchStrategy[Any]:
    return values | st.lists(values, min_size=1, max_size=3)


regexes = st.lists(st.sampled_from(REGEX_PIECES), min_size=1, max_size=7).map("".join)
text_keys = st.sampled_from(
    [
        "exe",
        "parent.exe",
        "parent-exe",
        "tracer-exe",
        "ancestor.exe",
        "comm",
        "cmdline",
        "unit",
        "parent.unit",
        "tty",
    ]
)
modifiers = st.sampled_from(["", "|contains", "|startswith", "|endswith", "|all", "|contains|all"])
numbers = st.integers(0, 2).map(str)
keys = st.one_of(
    st.tuples(st.tuples(text_keys, modifiers, st.sampled_from(["", "|cased"])).map("".join), listed(patterns)),
    st.tuples(text_keys.map("{}|re".format), listed(regexes)),
    st.tuples(text_keys.map("{}|exists".format), st.sampled_from(["yes", "no"])),
    st.tuples(st.sampled_from(["uid", "exit-code", "parent.uid"]), listed(numbers)),
    st.tuples(st.sampled_from(["uid|gt", "exit-code|lte"]), numbers),
    st.tuples(st.just("source"), listed(st.sampled_from(["proc", "table"]))),
    st.tuples(st.just("event"), listed(st.sampled_from(["exec", "exit", "ptrace"]))),
    st.tuples(st.just("tags"), listed(st.sampled_from(TAGS))),
)  # fmt: skip


def mappings(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    lists = st.lists(inner, min_size=1, max_size=3)
    groups = st.one_of(
        st.tuples(st.sampled_from(["any", "all", "not"]), lists), st.tuples(st.just("not"), inner)
    )
    return st.lists(keys | groups, min_size=1, max_size=2).map(dict)


flat = st.lists(keys, min_size=1, max_size=3).map(dict)
trees = st.recursive(flat, mappings, max_leaves=4)


def compiled(tree: dict[str, Any], **options: Any) -> Match | None:
    try:
        return compile_match(tree, **options)
    except MatchError:  # a regular expression put together by chance
        return None


matches = st.builds(compiled, trees, silences=st.booleans(), cased=st.booleans()).filter(bool)


@st.composite
def rules(draw: st.DrawFn) -> list[Rule]:
    found = []
    for at, match in enumerate(draw(st.lists(matches, min_size=FEW, max_size=4 * FEW))):
        assert match is not None
        found.append(
            Rule(
                f"r{at}",
                match,
                draw(st.sampled_from(["log", "drop", "tag", "tag"])),
                draw(st.none() | st.integers(0, 7)),
                tuple(draw(st.lists(st.sampled_from(TAGS), max_size=2))),
                draw(st.none() | st.just(parse_template(f"{at}"))),
                ((draw(st.sampled_from("AB")), f"{at}"),),
            )
        )
    return found


def tried_one_by_one(rules: list[Rule], record: Record) -> Decision:
    priority, message, action, name = 6, None, "log", None
    tags: dict[str, None] = {}
    fields: dict[str, str] = {}
    for rule in rules:
        if not rule.match.holds(record, tags):
            continue
        priority = priority if rule.priority is None else rule.priority
        message = rule.message or message
        tags.update(dict.fromkeys(rule.tags))
        fields.update(rule.fields)
        if rule.action != "tag":
            action, name = rule.action, rule.name
            break
    verdict: Verdict = "drop" if action == "drop" else "log"
    return Decision(verdict, name, priority, tuple(tags), message, tuple(fields.items()))


@given(rules(), st.lists(records(), min_size=1, max_size=8))
@settings(max_examples=60, deadline=None)
def test_the_decision_is_that_of_rules_tried_one_by_one(of: list[Rule], about: list[Record]) -> None:
    ruleset = RuleSet(of)
    for record in about:
        assert ruleset.decide(record) == tried_one_by_one(of, record)


def tried(match: Match, record: Record) -> bool:
    """Whether the match is among those to try, where there are so many that all that can be is looked up."""
    assert record.event in (match.events or [record.event])
    number = len(Index([(n, match.requirements) for n in range(FEW)]).tried(record))
    assert number in (0, FEW)
    return number == FEW


@given(matches, records())
@settings(max_examples=600, deadline=None)
def test_what_matches_is_tried(match: Match, record: Record) -> None:
    if match.holds(record):
        assert tried(match, record)


@given(
    st.lists(st.sampled_from(REGEX_PIECES), min_size=1, max_size=12).map("".join),
    st.lists(st.sampled_from([*PIECES, "."]), max_size=8).map("".join),
)
@settings(max_examples=600, deadline=None)
def test_what_a_regex_finds_has_one_of_its_literals(regex: str, text: str) -> None:
    try:
        finds = compile_regex(regex)
    except RegexError:
        return
    literals = literals_of(regex)
    if literals and finds(text):
        assert any(literal in text for literal in literals)


@pytest.mark.parametrize(
    ("regex", "literals"),
    [
        ("abc", {"abc"}),
        (r"a\.b\/c", {"a.b/c"}),
        (r"^ab.*cde$", {"cde"}),
        ("ab?cd", {"abcd", "acd"}),
        ("b*acd{0,2}", {"ac"}),
        ("abc+d", {"ab"}),
        ("a(?:bcd|ef)g", {"abcdg", "aefg"}),
        ("(?P<name>abc)+x", {"abc"}),
        ("(abc)?x", {"abcx", "x"}),
        ("(abc|)x", {"abcx", "x"}),
        (r"\b(ab|cd)\b-(1|2)$", {"ab-1", "ab-2", "cd-1", "cd-2"}),
        ("(?:[ab]|cd)-123", {"-123"}),
        ("(abc|d[ef])+-1", {"-1"}),
        ("(a|b)(a|b)(a|b)(a|b)(c|d)efghi", {"cefghi", "defghi"}),
        ("(abc){0}x", {"x"}),
        ("(abc){2}x", {"abc"}),
        ("a+*", set()),
        ("ab.cde", {"cde"}),
        (r"ab\dcde", {"cde"}),
        (r"ab\bcd$", {"abcd"}),
        ("abc|de", {"abc", "de"}),
        ("abc|d*", set()),
        ("(abc|)", set()),
        ("[ab]c[]d]e", {"c"}),
        ("[[:alpha:]]abc", {"abc"}),
        ("[a[bc]]d", set()),
        (r"[\]]abc[^]]", {"abc"}),
        (r"\x41abc", set()),
        (r"\pLabc", set()),
        (r"\u{61}abc", set()),
        (r"\b{start}abc", set()),
        ("(?i)abc", set()),
        ("(?i:a)bcd", set()),
        (r"\b(curl|wget)\b.*\|\s*(sudo\s+)?(ba|z)?sh\b", {"curl", "wget"}),
    ],
)
def test_literals_of_a_regex(regex: str, literals: set[str]) -> None:
    compile_regex(regex)
    assert literals_of(regex) == literals


def life(
    exe: bytes | None = b"/usr/bin/env",
    comm: bytes = b"env",
    cmdline: bytes = b"env x",
    uid: int = 1000,
    parent_exe: bytes = b"/bin/sh",
    unit: bytes = b"a.service",
    tty: str = "pts/1",
) -> Record:
    parent = Process(4, 1, None, 1, b"sh", Image(parent_exe, None, 0, b"", "same"), Context(), None)
    context = Context(tty=tty, place=Place(b"/", unit, None, None, None, None))
    creds = Creds(uid, uid, uid, uid, USERS)
    image = Image(exe, cmdline, len(cmdline), b"", "same")
    return Record("exec", Process(5, 9, parent, 4, comm, image, context, creds), 0, "proc", "same")


def other() -> Record:
    """Nothing is as above."""
    return life(b"/opt/no", b"no", b"no", 2, b"/opt/no", b"no.scope", "tty1")


def unknown() -> Record:
    """Nothing is known of it."""
    image = Image(None, None, 0, b"", "gone")
    return Record("exec", Process(5, None, None, None, None, image, Context(), None), 0, "none", "gone")


@pytest.mark.parametrize(
    ("tree", "how"),
    [
        ({"exe": "/usr/bin/env"}, How.BASENAME),
        ({"exe": ["/bin/x", "/usr/bin/env", "/opt/env"]}, How.BASENAME),
        ({"exe|endswith": "/env"}, How.BASENAME),
        ({"exe|endswith": "/b?n/env"}, How.BASENAME),
        ({"exe": "/usr/*/env"}, How.BASENAME),
        ({"exe|startswith": "/usr/b"}, How.PART),
        ({"exe|endswith": "env"}, How.PART),
        ({"exe": ["/usr/bin/env", "/usr/bin/e*"]}, How.PART),
        ({"exe": ["/usr/bin/env", "/x (deleted)"]}, How.PART),
        ({"parent.exe": "/bin/sh"}, How.BASENAME),
        ({"parent-exe": "/bin/sh"}, How.BASENAME),
        ({"comm": "env"}, How.TEXT),
        ({"tty": "pts/1"}, How.TEXT),
        ({"unit": ["a.service", "b.service"]}, How.TEXT),
        ({"cmdline": "env*"}, How.PART),
        ({"cmdline|contains": ["abc", "nv x"]}, How.PART),
        ({"cmdline|contains|all": ["x", "env"]}, How.PART),
        ({"cmdline|re": r"\benv\s"}, How.PART),
        ({"cmdline|re": ["env", "abc"]}, How.PART),
        ({"uid": "1000"}, How.NUMBER),
        ({"uid": ["1000", "1"]}, How.NUMBER),
        ({"not": {"exe": "/x"}, "comm": "env"}, How.TEXT),
        ({"any": [{"comm": "env"}, {"comm": "x", "uid": "1"}]}, How.TEXT),
        ({"all": [{"uid|gt": "1"}, {"comm": "env"}]}, How.TEXT),
    ],
)
def test_what_is_required_is_looked_up(tree: Any, how: How) -> None:
    match = compile_match(tree)
    assert min(lookup.how for lookup in match.requirements) is how
    assert match.holds(life())
    assert tried(match, life())
    assert not tried(match, other())
    assert not tried(match, unknown())


@pytest.mark.parametrize(
    "tree",
    [
        {"not": {"comm": "x"}},
        {"comm": "*"},
        {"comm": "?n?"},
        {"cmdline|contains": "nv"},
        {"cmdline|contains": ["nv", "abc"]},
        {"cmdline|re": "e.v"},
        {"uid|gt": "1"},
        {"exe|exists": "yes"},
        {"source": "proc"},
        {"ancestor.exe": "/bin/sh"},
        {"any": [{"comm": "env"}, {"uid": "1"}]},
        {"any": [{"comm": "env"}, {"not": {"comm": "x"}}]},
        {"any": [{"tags": "x"}, {"comm": "env"}]},
    ],
)
def test_what_requires_nothing_is_always_tried(tree: Any) -> None:
    match = compile_match(tree)
    assert match.holds(life())
    assert match.requirements == {}
    assert tried(match, unknown())


def test_text_is_looked_up_without_case_where_it_is_matched_so() -> None:
    of = life(b"/Usr/Bin/\xe2\x84\xaaill", b"KILL", b"\xe2\x84\xaaill -9")
    for tree in (
        {"exe": "/usr/bin/kill"},
        {"exe|endswith": "/KILL"},
        {"comm": "kill"},
        {"cmdline|contains": "KIll"},
    ):
        match = compile_match(tree, cased=False)
        assert match.requirements
        assert match.holds(of)
        assert tried(match, of)
        assert not tried(match, life())
        assert not tried(compile_match(tree), of)
    assert compile_match({"comm": "ä"}, cased=False).requirements == {}


def test_a_path_is_looked_up_without_the_mark_of_the_deleted() -> None:
    of = life(b"/usr/sbin/nginx (deleted)")
    for tree in ({"exe": "/usr/sbin/nginx"}, {"exe|endswith": "/nginx"}):
        assert tried(compile_match(tree), of)
    assert tried(compile_match({"exe|endswith": "/nginx (deleted)"}), of)


def test_what_is_not_utf8_may_be_looked_up_as_its_replacement() -> None:
    of = life(b"/bin/\xff", b"\xffabc", b"\xffabc")
    for tree in (
        {"exe": "/?in/\ufffd"},
        {"comm": "?abc"},
        {"cmdline|startswith": "\ufffdab"},
        {"comm|re": "\ufffdabc"},
    ):
        match = compile_match(tree)
        assert match.holds(of) is ("startswith" not in str(tree))
        assert tried(match, of)


def test_few_are_tried_at_once() -> None:
    requirements = compile_match({"comm": "x"}).requirements
    assert Index([(n, requirements) for n in range(FEW - 1)]).tried(life()) == [*range(FEW - 1)]
    assert Index([(n, requirements) for n in range(FEW)]).tried(life()) == []


def test_beyond_a_crowd_others_are_told_apart_by_something_else() -> None:
    trees = [{"exe": "/bin/sh", "cmdline|contains": f"<{n:02}>"} for n in range(CROWD + 10)]
    index = Index([(n, compile_match(tree).requirements) for n, tree in enumerate(trees)])
    crowd = [*range(CROWD)]
    assert index.tried(life(b"/bin/sh", cmdline=b"sh <%02d>" % (CROWD + 3))) == [*crowd, CROWD + 3]
    assert index.tried(life(b"/bin/sh")) == crowd
    assert index.tried(life()) == []


def test_those_tried_are_in_order() -> None:
    trees: list[Any] = []
    for n in range(2 * FEW):
        trees += [{"comm": f"c{n}"}, {"cmdline|contains": f"<{n}>"}, {"uid|gt": "0"}]
    index = Index([(n, compile_match(tree).requirements) for n, tree in enumerate(trees)])
    always = [*range(2, len(trees), 3)]
    assert index.tried(life(comm=b"c3", cmdline=b"<2> <5>")) == sorted([9, 7, 16, *always])
    assert index.tried(life()) == always


def parts(number: int) -> Sequence[int]:
    literals = [f"<{n}>" for n in range(number)]
    index = Index(
        [(n, compile_match({"cmdline|contains": literal}).requirements) for n, literal in enumerate(literals)]
    )
    return index.tried(life(cmdline=b"x <0> <17> <%d> y" % (number - 1)))


@pytest.mark.parametrize("number", [19, 100, ROOT, 3 * ROOT])
def test_all_parts_are_found_among_many(number: int) -> None:
    assert parts(number) == [0, 17, number - 1]


def test_the_most_and_longest_parts_are_not_too_large_for_the_engine() -> None:
    literals = [chr(0x20000 + n) * LITERAL_LIMIT for n in range(ROOT)]
    assert compile_literals(literals)("x" + literals[-1])


def test_a_rule_waits_once_though_two_of_its_parts_are_there() -> None:
    requirements = compile_match({"cmdline|contains": ["abc", "bcd"]}).requirements
    index = Index([(n, requirements) for n in range(FEW)])
    assert index.tried(life(cmdline=b"abcd")) == [*range(FEW)]


def test_of_a_long_text_a_part_is_looked_up() -> None:
    text = b"/usr/lib/" + b"long/" * 20
    match = compile_match({"cmdline|contains": text.decode()})
    [values] = match.requirements.values()
    assert [len(str(value)) for value in values] == [LITERAL_LIMIT]
    assert tried(match, life(cmdline=b"x" + text + b"x"))
    assert not tried(match, life(cmdline=text[: -2 * LITERAL_LIMIT].replace(b"long", b"l")))


def test_events_with_the_same_rules_share_what_is_looked_up() -> None:
    """It takes memory, and there are many events."""
    ruleset = RuleSet([Rule(f"r{n}", compile_match({"comm": f"c{n}"})) for n in range(FEW)])
    assert len({id(index) for index in ruleset._indexes.values()}) == 1
