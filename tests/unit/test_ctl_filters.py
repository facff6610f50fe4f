# SPDX-License-Identifier: MIT
"""Words that say which entries are wanted: what they mean in a rule, in a file as in the journal's index."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from procwatchd.ctl.errors import CtlError
from procwatchd.ctl.past.filters import Filter, parse_filter
from procwatchd.journal.kinds import MESSAGE_IDS
from procwatchd.process.model import Record
from procwatchd.rules.match import MatchError, compile_match
from tests.unit.test_ctl_past import STANDARD, entry_of
from tests.unit.test_index import TAGS, keys, records

DELETED = " (deleted)"


def entry(**fields: object) -> dict[str, Any]:
    return STANDARD | {f"PROCWATCH_{name}": value for name, value in fields.items()}


def is_found_by_index(wanted: Filter, of: dict[str, Any]) -> bool:
    """What the journal would give, which has an entry where of each field it has one of the values."""
    return all(of.get(f"PROCWATCH_{name}") in values for name, values in wanted.in_index.items())


@given(
    st.lists(st.tuples(keys, st.sampled_from(["=", "!="])), min_size=1, max_size=4),
    records(),
    st.lists(st.sampled_from(TAGS), unique=True),
)
@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much]
)
def test_they_mean_what_they_mean_in_a_rule(
    asked: list[tuple[tuple[str, Any], str]], of: Record, tags: list[str]
) -> None:
    of.wait_status = of.wait_status if of.event == "exit" else None
    of.tracer = of.tracer if of.event == "ptrace" else None
    words: list[str] = []
    wanted: dict[str, list[str]] = {}
    unwanted: list[dict[str, list[str]]] = []
    for (key, value), sign in asked:
        values = value if isinstance(value, list) else [value]
        words += [f"{key}{sign}{one}" for one in values]
        if sign == "=":
            wanted.setdefault(key, []).extend(values)
        else:
            unwanted += [{key: [one]} for one in values]
    try:
        matches = [compile_match(wanted).holds(of, tags)] if wanted else []
        matches += [not compile_match(one).holds(of, tags) for one in unwanted]
    except MatchError:
        with pytest.raises(CtlError):
            parse_filter(words)
        return
    shown = entry_of(of, "standard") | ({"PROCWATCH_TAGS": " ".join(tags)} if tags else {})
    found = parse_filter(words)
    holds = found.holds(shown)
    assert holds == all(matches) or (found.unknown and not holds)
    assert is_found_by_index(found, shown) or not holds


@pytest.mark.parametrize(
    ("words", "in_index"),
    [
        (["unit=a.service", "unit=b.service", "pid=5"], {"UNIT": ["a.service", "b.service"], "PID": ["5"]}),
        (["exe=/bin/a"], {"EXE": ["/bin/a", "/bin/a" + DELETED]}),
        (["event=exit", "event=exec"], {"EVENT": ["exec", "exit"]}),
        (["exe=*/a"], {}),
        (["exe|contains=a"], {}),
        (["unit!=a"], {}),
        (["parent.unit=a"], {}),
        (["cmdline=a", "parent-cmdline=a", "gid=0", "euid=0", "sid=1", "tags=x"], {}),
    ],
)
def test_the_index_is_asked_for_what_entries_have_as_it_is(
    words: list[str], in_index: dict[str, list[str]]
) -> None:
    assert parse_filter(words).in_index == in_index


@pytest.mark.parametrize(
    ("words", "of", "expected"),
    [
        ([], {}, True),
        (["exe=/bin/a"], {"EXE": "/bin/a"}, True),
        (["exe=/bin/a"], {"EXE": "/bin/a" + DELETED}, True),
        (["exe=*/a"], {"EXE": "/bin/a"}, True),
        (["exe=/bin/a", "exe=/bin/b"], {"EXE": "/bin/b"}, True),
        (["exe=/bin/a", "unit=b"], {"EXE": "/bin/a", "UNIT": "c"}, False),
        (["exe!=/bin/a"], {"EXE": "/bin/a"}, False),
        (["exe!=/bin/a", "exe!=/bin/b"], {"EXE": "/bin/b"}, False),
        (["exe!=/bin/a"], {}, True),
        (["euid=0"], {"UID": "0"}, True),
        (["user|exists=no"], {}, True),
        (["cmdline=a b=c"], {"CMDLINE": "a b=c"}, True),
        (["cmdline=it's"], {"CMDLINE": "'it'\\''s'"}, True),
        (["cmdline|contains=<redacted:"], {"CMDLINE": "curl -u '<redacted:password:0a0b0c0d>'"}, True),
        (["cmdline=curl*"], {"CMDLINE": "curl -u '<redacted:password:0a0b0c0d>'"}, True),
        (["cmdline!=*secret*"], {"CMDLINE": "curl -u '<redacted:password:0a0b0c0d>'"}, True),
        (["cmdline|endswith=end"], {"CMDLINE": "cat […7 bytes…] end", "ARGV_TRUNCATED": "1"}, True),
        (["parent-cmdline=sh*"], {"PARENT_CMDLINE": "sh -c '<redacted:password:0a0b0c0d>'"}, True),
        (["tags=shell"], {"TAGS": "web shell"}, True),
        (["tags=shell"], {"TAGS": "shells"}, False),
        (["tags=shell"], {}, False),
        (["tags!=shell"], {"TAGS": "web shell"}, False),
        (["tags!=shell"], {}, True),
        (["ancestor.comm=sshd"], {"ANCESTORS": "bash[7] sshd[1]"}, True),
        (["event=exec"], {}, True),
        (["event=exit"], {}, False),
        (["event!=exit"], {}, True),
        (["event!=exec"], {}, False),
        (["event=exec", "event!=exec"], {}, False),
        (["event=loss"], {"EVENT": "loss"}, True),
        (["event!=loss"], {"EVENT": "loss"}, False),
        (["event!=exec"], {"EVENT": "loss"}, True),
        (["user!=root"], {"EVENT": "loss"}, False),
        (["event=loss", "user!=root"], {"EVENT": "loss"}, False),
    ],
)
def test_what_is_wanted(words: list[str], of: dict[str, Any], expected: bool) -> None:
    wanted = parse_filter(words)
    assert wanted.holds(entry(**of)) is expected
    assert is_found_by_index(wanted, entry(**of)) or not expected
    assert wanted.unknown == 0


def test_what_cannot_be_said_is_counted_and_not_taken() -> None:
    wanted = parse_filter(["sid=1"])
    assert [wanted.holds(entry(**of)) for of in ({"SID": "1"}, {}, {"SID": "2"})] == [True, False, False]
    assert wanted.unknown == 1


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("curl", "KEY=VALUE"),
        ("=curl", "KEY=VALUE"),
        ("!=curl", "unknown field"),
        ("exee=a", "did you mean 'exe'"),
        ("event=exek", "did you mean 'exec'"),
        ("event!=exek", "did you mean 'exec'"),
        ("pid=many", "not a decimal number"),
        ("exe|regex=a", "unknown modifier"),
        ("exe|re=(", "the filter cannot be"),
        ("any=exe", "the filter cannot be"),
        ("not!=exe", "the filter cannot be"),
        ("exe=\udcff", "not UTF-8"),
        ("\udcff=a", "not UTF-8"),
    ],
)
def test_what_is_no_filter(word: str, told: str) -> None:
    with pytest.raises(CtlError, match=told):
        parse_filter([word])


@given(
    st.lists(
        st.text(max_size=12) | st.builds("{}={}".format, st.text(max_size=5), st.text(max_size=5)), max_size=3
    )
)
def test_any_words_are_a_filter_or_an_error(words: list[str]) -> None:
    try:
        found = parse_filter(words)
    except CtlError:
        return
    assert found.holds(entry()) in (True, False)


def test_all_kinds_can_be_asked_for() -> None:
    for kind in MESSAGE_IDS:
        assert parse_filter([f"event={kind}"]).holds(entry(EVENT=kind))
