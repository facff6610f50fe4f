# SPDX-License-Identifier: MIT
"""YAML with positions: the same answer from both of PyYAML's parsers."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from procwatchd import yamltree
from procwatchd.yamltree import Mapping, Mark, mark_of, merge, parse_yaml, plain, printable, typed


@pytest.fixture(params=["CSafeLoader", "SafeLoader"], autouse=True)
def loader(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if not hasattr(yaml, request.param):
        pytest.skip("PyYAML was built without libyaml")
    monkeypatch.setattr(yamltree, "_LOADER", getattr(yaml, request.param))


def good(data: bytes, file: str = "f") -> Mapping:
    tree, problems = parse_yaml(data, file)
    assert problems == []
    return tree


def bad(data: bytes) -> list[str]:
    return [str(problem) for problem in parse_yaml(data, "f")[1]]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", {}),
        (b"# only this\n", {}),
        (b"---\n", {}),
        (b"---\n---\n# nothing\n---\n", {}),
        (b"---\na: 1\n---\n", {"a": "1"}),
        (b"---\n---\na: 1\n...\n---\n# nothing\n", {"a": "1"}),
        (
            b"a: off\nb: 0700\nc: 1:30\nd: ~\ne: 1_0\n",
            {"a": "off", "b": "0700", "c": "1:30", "d": "~", "e": "1_0"},
        ),
        (b"rules:\n", {"rules": None}),
        (b"a: ''\nb: \"\"\n", {"a": "", "b": ""}),
        (b"a: [x, {y: z}, [], {}]\n", {"a": ["x", {"y": "z"}, [], {}]}),
        (b'"*": "<<"\n', {"*": "<<"}),
        (b"a: |\n  x\n  y\n", {"a": "x\ny\n"}),
        ("\ufeffä: ü".encode(), {"ä": "ü"}),
        (b'a: "\\0\\n"', {"a": "\0\n"}),
    ],
)
def test_scalars_are_their_source_text(data: bytes, expected: dict[str, Any]) -> None:
    assert plain(good(data)) == expected


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"a: 1\nb: {c: 1, c: 2}\na: 2\n", ["f:2:11: b: key 'c' is here twice, first in line 2",
                                            "f:3:1: file: key 'a' is here twice, first in line 1"]),
        (b"a: &x 1\nb: *x\n", ["f:1:4: a: anchors are not supported", "f:2:4: b: aliases are not supported"]),
        (b"a: {<<: {b: 1}}\n", ["f:1:5: a: merge keys are not supported"]),
        (b"[a]: 1\n", ["f:1:1: file: a key must be a text"]),
        (b"?\n: 1\n", ["f:1:2: file: a key must not be empty"]),
        (b"a:\n  - !!python/object:os.system x\n",
         ["f:2:5: a[1]: the tag 'tag:yaml.org,2002:python/object:os.system' is not supported: no tags are"]),
        (b"a: !!str x\n", ["f:1:4: a: the tag 'tag:yaml.org,2002:str' is not supported: no tags are"]),
        (b"a: 1\n---\nb: 1\n", ["f:2:1: file: has a second document; one file is one document"]),
        (b"a: 1\n---\n---\nb: 1\n", ["f:3:1: file: has a second document; one file is one document"]),
        (b"a: 1\n---\n''\n", ["f:2:1: file: has a second document; one file is one document"]),
        (b"a: 1\n--- &x\n", ["f:2:1: file: has a second document; one file is one document"]),
        (b"- a\n", ["f:1:1: file: must be a mapping of sections"]),
        (b"a: 1\nb: \0", ["f:2:4: file: character U+0000 is not allowed in YAML"]),
        (b"a: 1\n\xc3\xa4\xff", ["f:2:2: file: byte 0xff is not UTF-8"]),
    ],
)  # fmt: skip
def test_problems_are_values(data: bytes, expected: list[str]) -> None:
    assert bad(data) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        *(
            ("~", None),
            ("yes", True),
            ("0x1f", 31),
            ("1_000", 1000),
            ("1.5", 1.5),
            ("0o7", "0o7"),
            ("a", "a"),
        ),
        *(("0x_", "0x_"), ("0b_", "0b_"), ("-0x_", "-0x_"), ("+0b__", "+0b__"), ("'0x1f'", "0x1f")),
    ],
)
def test_plain_scalars_are_what_yaml_takes_them_for(text: str, expected: object) -> None:
    assert typed(good(f"a: {text}".encode())) == {"a": expected}


@given(st.text("0123456789_abefox.:+-ETZ", min_size=1, max_size=12))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_looks_like_a_number_is_one_or_a_text(text: str) -> None:
    tree, problems = parse_yaml(f"a: {text}".encode(), "f")
    assert problems or isinstance(typed(tree)["a"], str | int | float | bool)


@pytest.mark.parametrize(
    ("data", "start"),
    [
        (b"a: [1, 2\nb", "f:"),
        (b"a: 1\n\tb: 2\n", "f:2:1: yaml: "),
        (b"a: b: c\n", "f:1:5: yaml: "),
        (b"a: 'x\n", "f:"),
        (b"%YAML 9.9\n---\na: 1\n", "f:1:1: yaml: "),
    ],
)
def test_a_syntax_error_is_one_problem_in_one_line(data: bytes, start: str) -> None:
    problems = bad(data)
    assert len(problems) == 1
    assert problems[0].startswith(start)
    assert problems[0].isprintable()


def test_limits() -> None:
    assert "nested deeper" in bad(b"a: " + b"[" * 31 + b"[" * 100_000)[0]
    assert bad(b"a: " + b"[" * 31 + b"]" * 31) == []
    assert "nodes" in bad(b"a: [" + b"x," * 100_001 + b"]")[0]
    assert "larger" in bad(b"#" * ((1 << 20) + 1))[0]
    assert bad(b"#" * (1 << 20)) == []


@pytest.mark.parametrize("cut", range(60))
def test_no_truncation_raises(cut: int) -> None:
    parse_yaml(b'a: [x, {"y": \'z\'}]\nb: &c "\\x41\xc3\xa4"\n? *c\n: !!t >\n  x\n...'[:cut], "f")


def test_marks_are_those_of_keys_and_items() -> None:
    tree = good(b"a:\n  - x\n  - b: 1\n    c: 2\n")
    assert mark_of(tree, ("a", 1, "c")) == Mark("f", 4, 5)
    assert mark_of(tree, ("a", 0)) == Mark("f", 2, 5)
    assert mark_of(tree, ("a", 1, "missing", 3)) == Mark("f", 3, 5)
    assert mark_of(tree, ()) == Mark("f", 1, 1)


def test_merge_lays_over_and_keeps_where_each_leaf_is_from() -> None:
    base = good(b"log: {priority: info, fields: [a, b]}\ncapture: {rules: [x]}\nrules: [{name: a}]\n", "base")
    over = good(b"log:\n  fields: [c]\ncapture: {rules: [y]}\nrules:\n  - {name: b}\n", "over")
    merged = merge(base, over)
    assert plain(merged) == {
        "log": {"priority": "info", "fields": ["c"]},
        "capture": {"rules": ["y"]},
        "rules": [{"name": "a"}, {"name": "b"}],
    }
    assert mark_of(merged, ("log", "priority")).file == "base"
    assert mark_of(merged, ("log", "fields", 0)) == Mark("over", 2, 12)
    assert mark_of(merged, ("rules", 0, "name")).file == "base"
    assert mark_of(merged, ("rules", 1, "name")) == Mark("over", 5, 6)


def test_an_empty_section_adds_nothing() -> None:
    base = good(b"log: {priority: info}\nrules: [a]\n")
    assert plain(merge(base, good(b"log:\nrules:\n"))) == plain(base)


def test_printable_is_one_clean_line() -> None:
    assert printable("a\n\x1b[31mä\udcff") == "a\\n\\x1b[31mä\\udcff"
