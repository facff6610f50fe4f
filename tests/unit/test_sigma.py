# SPDX-License-Identifier: MIT
"""Sigma rules from their files to what they make of a decision."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from procwatchd import daemon
from procwatchd.config import load_config
from procwatchd.journal.build import EntryBuilder
from procwatchd.kernel.clock import Clock
from procwatchd.process.model import Context, Image, Process, Record
from procwatchd.rules.detection import DETECTIONS_LIMIT, Detection
from procwatchd.rules.match import compile_match
from procwatchd.rules.redact import Redactor
from procwatchd.rules.ruleset import Decision
from procwatchd.rules.sigma import Exclusion, Sigma, SigmaError, is_for_processes, parse_rule
from procwatchd.rules.sigma_selection import MODIFIERS
from procwatchd.sigmafiles import load_sigma

SOURCE = {"product": "linux", "category": "process_creation"}
ALL = ["stable", "test", "experimental", "deprecated", "unsupported"]
LOG = Decision("log", None, 6)


def raw(detection: Any, **rest: Any) -> dict[str, Any]:
    return {"title": "T", "id": "1", "level": "high", "logsource": SOURCE, "detection": detection, **rest}


def selecting(selection: Any, **rest: Any) -> dict[str, Any]:
    return raw({"selection": selection, "condition": "selection"}, **rest)


def record(exe: bytes = b"/bin/sh", argv: bytes = b"sh\0-c\0id\0", **context: Any) -> Record:
    image = Image(exe, argv, len(argv), b"", "same")
    of = Process(5, 1, None, 4, b"sh", image, Context(**{"host_mounts": True, **context}), None)
    return Record("exec", of, 0, "proc", "same")


def sigma_of(*rules: dict[str, Any], exclusions: list[Exclusion] | None = None) -> Sigma:
    return Sigma([parse_rule(each, "f.yml") for each in rules], exclusions or [])


def matches(rule: dict[str, Any], of: Record) -> bool:
    return bool(sigma_of(rule).judge(of, LOG).detections)


SHELL = {"Image|endswith": "/sh"}


def test_a_detection_is_logged_whatever_was_decided() -> None:
    sigma = sigma_of(selecting(SHELL, tags=["attack.execution", "attack.t1059"], author="A, B"))
    for action in ("log", "drop", "count"):
        decision = Decision(action, "noise", 6, ("x",))
        found = sigma.judge(record(), decision)
        assert (found.action, found.rule, found.tags) == ("log", "noise", ("x",))
        assert found.detections == (Detection("1", "T", "high", "attack.execution attack.t1059", "A, B"),)


def test_what_matches_nothing_stays_as_it_was() -> None:
    decision = Decision("drop", "noise", 6)
    assert sigma_of(selecting(SHELL)).judge(record(b"/bin/ls"), decision) is decision
    assert Sigma().judge(record(), decision) is decision


@pytest.mark.parametrize(
    ("level", "own", "priority"),
    [
        ("informational", 6, 6),
        ("low", 7, 6),
        ("medium", 6, 5),
        ("high", 6, 4),
        ("critical", 6, 2),
        ("critical", 1, 1),
        ("low", 3, 3),
        (None, 6, 5),
    ],
)
def test_the_more_severe_priority_wins(level: str | None, own: int, priority: int) -> None:
    found = sigma_of(selecting(SHELL, level=level)).judge(record(), Decision("log", None, own))
    assert found.priority == priority


def test_the_most_severe_detection_comes_first() -> None:
    rules = [selecting(SHELL, title=level, level=level) for level in ("low", "critical", "medium")]
    found = sigma_of(*rules).judge(record(), LOG)
    assert [each.title for each in found.detections] == ["critical", "medium", "low"]
    assert found.priority == 2


def test_an_exclusion_is_for_its_rule_and_where_it_holds() -> None:
    backup = Exclusion("1", compile_match({"cwd": "/backup"}, silences=True))
    sigma = sigma_of(selecting(SHELL), selecting(SHELL, id="2", title="U"), exclusions=[backup])
    assert [d.title for d in sigma.judge(record(cwd=b"/"), LOG).detections] == ["T", "U"]
    assert [d.title for d in sigma.judge(record(cwd=b"/backup"), LOG).detections] == ["U"]
    assert "CWD" in sigma.needs


def test_an_exclusion_may_ask_for_tags() -> None:
    known = Exclusion("1", compile_match({"tags": "known"}, silences=True))
    sigma = sigma_of(selecting(SHELL), exclusions=[known])
    assert not sigma.judge(record(), Decision("log", None, 6, ("known",))).detections
    assert sigma.judge(record(), LOG).detections


def test_an_upgraded_program_is_still_itself() -> None:
    assert matches(selecting(SHELL), record(b"/bin/sh (deleted)"))


def test_arguments_are_seen_whole_and_unquoted() -> None:
    long = record(argv=b"sh\0" + b"x" * 100_000 + b"\0a b\0secret\0")
    assert matches(selecting({"CommandLine|endswith": "x a b secret"}), long)


MANY = {f"m{n}": {"CommandLine": [str(n)] * 10} for n in range(100)}


@pytest.mark.parametrize(
    ("detection", "where", "what"),
    [
        (None, "detection", "must be a mapping"),
        ({"condition": "a"}, "condition", "there is no selection 'a'"),
        ({"a": SHELL}, "condition", "must be a text"),
        ({"a": SHELL, "condition": []}, "condition", "must be a text"),
        ({"a": SHELL, "condition": "a and"}, "condition", "ends where a selection is expected"),
        ({"a": SHELL, "condition": ""}, "condition", "ends where"),
        ({"a": SHELL, "condition": "a b"}, "condition", "'b' is out of place"),
        ({"a": SHELL, "condition": "(a"}, "condition", r"a '\(' is not closed"),
        ({"a": SHELL, "condition": "a)"}, "condition", r"'\)' is out of place"),
        ({"a": SHELL, "condition": "a and or a"}, "condition", "'or' stands where"),
        ({"a": SHELL, "condition": "a AND a"}, "condition", "'AND' is out of place"),
        ({"a": SHELL, "condition": "a & a"}, "condition", "'&' is no part"),
        ({"a": SHELL, "condition": "a | count() > 5"}, "condition", "more than one event"),
        ({"a": SHELL, "condition": "1 of b*"}, "condition", r"no selection like 'b\*'"),
        ({"_a": SHELL, "condition": "all of them"}, "condition", "no selection like 'them'"),
        ({"a": SHELL, "condition": "(" * 99 + "a" + ")" * 99}, "condition", "more than 16"),
        ({"a": SHELL, "condition": "not " * 99 + "a"}, "condition", "more than 16"),
        ({"a": SHELL, "condition": "a or " * 1000 + "a"}, "condition", "longer than 4096"),
        ({**MANY, "condition": " or ".join(["1 of m*"] * 11)}, "condition", "comes to more than 10000 values"),
        ({**MANY, "condition": ["all of m*"] * 11}, "condition", "comes to more than 10000 values"),
        ({"a": {}, "condition": "a"}, "a", "is empty"),
        ({"a": [], "condition": "a"}, "a", "is empty"),
        ({"a": [{}], "condition": "a"}, "a", "is empty"),
        ({"a": None, "condition": "a"}, "a", "has no value"),
        ({"a": {"image": "x"}, "condition": "a"}, "image", "unknown field 'image'; did you mean 'Image'"),
        ({"a": {"Image|containing": "x"}, "condition": "a"}, "containing", "did you mean 'contains'"),
        ({"a": {"Image": {"b": 1}}, "condition": "a"}, "Image", "a single value or a list"),
        ({"a": {"Image|contains": 7}, "condition": "a"}, "Image", "put it in quotes"),
        ({"a": {"Image|contains": None}, "condition": "a"}, "Image", "null goes with no modifier"),
        ({"a": {"Image|re": "(?=a)"}, "condition": "a"}, "Image", "bad pattern: look-around"),
        ({"a": {"Image|re": "("}, "condition": "a"}, "Image", "bad pattern: unclosed group"),
        ({"a": {"Image|re|contains": "a"}, "condition": "a"}, "Image", "'|re' does not go with '|contains'"),
        ({"a": {"Image|i": "a"}, "condition": "a"}, "Image", "goes with '|re' alone"),
        ({"a": {"Image|exists": "yes"}, "condition": "a"}, "Image", "takes a field, and true or false"),
        ({"a": {"|exists": True}, "condition": "a"}, "", "takes a field"),
        ({"a": {"Image|gt": 1}, "condition": "a"}, "Image", "compares numbers, and this is text"),
        ({"a": {"LogonId|contains": "1"}, "condition": "a"}, "LogonId", "is for text, and LogonId is a number"),
        ({"a": {"LogonId": "0x3e7"}, "condition": "a"}, "LogonId", "'0x3e7' is not a decimal number"),
        ({"a": {"LogonId": 1.5}, "condition": "a"}, "LogonId", "not a decimal number"),
        ({"a": {"Image|wide": "x"}, "condition": "a"}, "Image", "goes before '|base64'"),
        ({"a": {"Image|base64": "x*"}, "condition": "a"}, "Image", "cannot have wildcards"),
        ({"a": {"CommandLine|windash": " -a -b -c -d"}, "condition": "a"}, "Comm", "more than 3 dashes"),
        ({"a": {"Image|expand": "%x%"}, "condition": "a"}, "Image", "placeholders have no values"),
        ({"a": {"Image|fieldref": "User"}, "condition": "a"}, "Image", "two fields are not compared"),
        ({"a": {"Image|cidr": "10.0.0.0/8"}, "condition": "a"}, "Image", "no field here is an address"),
        ({"a": {"Image|contains": "x" * 5000}, "condition": "a"}, "detection", "longer than 4096"),
    ],
)  # fmt: skip
def test_what_cannot_be_loaded_says_why(detection: Any, where: str, what: str) -> None:
    with pytest.raises(SigmaError, match=what) as caught:
        parse_rule(raw(detection), "f.yml")
    assert where in ".".join(map(str, caught.value.path))


KEYS = ["Image", "LogonId", "Hashes", "Bild", "", "CommandLine"]
WORDS = sorted(MODIFIERS | {"cidr", "expand", "containing"})
keys = st.builds("|".join, st.tuples(st.sampled_from(KEYS), *[st.sampled_from(["all", *WORDS])] * 2))
scalars = st.sampled_from(
    [None, True, 7, -1, 1.5, float("inf"), "", "*", "\\", " -a /b", "(", "x|y", "%x%", "7"]
) | st.text(r"[]^-&~\\<ab*?|", max_size=8)
values = scalars | st.lists(scalars, max_size=3)
selections = st.recursive(
    values | st.dictionaries(st.sampled_from(KEYS) | keys, values, max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=2),
    max_leaves=6,
)
jumbles = st.lists(
    st.sampled_from(["a", "b", "_c", "not", "and", "or", "(", ")", "1", "all", "of", "them", "a*", "|", "ä"])
).map(" ".join)
conditions = st.sampled_from(["a", "not b", "1 of them", "all of _*"]) | jumbles


@given(st.dictionaries(st.sampled_from(["a", "b", "_c"]), selections), conditions | st.lists(conditions))
def test_whatever_is_written_is_a_rule_or_a_problem(found: dict[str, Any], condition: Any) -> None:
    try:
        sigma = sigma_of(raw({**found, "condition": condition}))
    except SigmaError:
        return
    assert len(sigma.judge(record(), LOG).detections) <= 1


@pytest.mark.parametrize(
    ("rest", "path", "what"),
    [
        ({"title": None}, (), "has no title"),
        ({"title": "x" * 2000}, ("title",), "at most 1024"),
        ({"level": "severe"}, ("level",), "'severe' is none of: informational"),
        ({"status": "new"}, ("status",), "'new' is none of: stable"),
        ({"id": "x" * 65}, ("id",), "at most 64"),
        ({"tags": "a"}, ("tags",), "must be a list"),
        ({"tags": ["x" * 600, "y" * 600]}, ("tags",), "more than 1024"),
        ({"author": ["a"]}, ("author",), "must be a text"),
    ],
)
def test_what_a_rule_says_of_itself_is_checked(rest: dict[str, Any], path: Any, what: str) -> None:
    with pytest.raises(SigmaError, match=what) as caught:
        parse_rule(selecting(SHELL, **rest), "f.yml")
    assert caught.value.path == path


@pytest.mark.parametrize(
    ("source", "is_ours"),
    [
        (SOURCE, True),
        ({**SOURCE, "definition": "x"}, True),
        ({**SOURCE, "service": "auditd"}, False),
        ({**SOURCE, "product": "windows"}, False),
        ({"category": "process_creation"}, False),
        ({"product": "linux", "service": "auditd"}, False),
        (None, False),
        ("linux", False),
    ],
)
def test_what_rules_are_for(source: Any, is_ours: bool) -> None:
    assert is_for_processes({"logsource": source}) is is_ours


RULE = """title: {title}
id: {id}
status: {status}
level: {level}
logsource: {{product: linux, category: process_creation}}
detection:
  selection:
    {selected}
  condition: selection
"""


def write(
    path: Path,
    *,
    rule_id: str = "1",
    status: str = "test",
    level: str = "high",
    selected: str = "Image: /bin/sh",
) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(RULE.format(title=path.stem, id=rule_id, status=status, level=level, selected=selected))
    return path


def titles(sigma: Sigma) -> list[str]:
    return [rule.detection.title for rule in sigma.rules]


def test_files_and_whole_directories_are_read(tmp_path: Path) -> None:
    for number, name in enumerate(
        ["b.yml", "sub/a.yaml", "sub/deep/c.yml", ".hidden.yml", ".git/d.yml", "e.txt"]
    ):
        write(tmp_path / "all" / name, rule_id=str(number))
    one = write(tmp_path / "one.yml", rule_id="one")
    sigma = load_sigma([f"{tmp_path}/all/", str(one)], "low", ALL, [])
    assert titles(sigma) == ["b", "a", "c", "one"]
    assert sigma.problems == ()


@given(text=st.text("0123456789_xb.eE+-:~<[]{}&*!|>'\"%@` #,?\n", max_size=8))
@example(text="0x_")
def test_whatever_is_in_a_file_is_a_rule_or_a_problem(
    tmp_path_factory: pytest.TempPathFactory, text: str
) -> None:
    file = write(tmp_path_factory.mktemp("odd") / "a.yml", selected=f"CommandLine|contains: {text}")
    sigma = load_sigma([str(file)], "low", ALL, [])
    assert len(sigma.rules) + len(sigma.problems) == 1


def test_a_rule_may_have_replaced_one_that_is_not_loaded(tmp_path: Path) -> None:
    write(tmp_path / "a-old.yml", status="deprecated")
    write(tmp_path / "b-lesser.yml", level="low")
    write(tmp_path / "c-new.yml")
    write(tmp_path / "d-other.yml", rule_id="2", level="low")
    nobody = compile_match({"pid": "1"})
    sigma = load_sigma([str(tmp_path)], "high", ["test"], [Exclusion("2", nobody), Exclusion("1", nobody)])
    assert (titles(sigma), sigma.others, sigma.problems) == (["c-new"], 3, ())


def test_all_problems_are_told(tmp_path: Path) -> None:
    for number in range(1001):
        (tmp_path / f"{number}.yml").symlink_to("nowhere")
    assert len(load_sigma([str(tmp_path)], "low", ALL, []).problems) == 1001


def test_a_file_may_end_in_an_empty_document(tmp_path: Path) -> None:
    file = write(tmp_path / "a.yml")
    file.write_text(f"---\n{file.read_text()}---\n")
    assert titles(load_sigma([str(file)], "low", ALL, [])) == ["a"]


def test_what_is_below_the_level_or_of_another_status_is_passed_over(tmp_path: Path) -> None:
    write(tmp_path / "low.yml", rule_id="1", level="low")
    write(tmp_path / "old.yml", rule_id="2", status="deprecated")
    write(tmp_path / "open.yml", rule_id="3", status="''", level="''")
    (tmp_path / "windows.yml").write_text("logsource: {product: windows, category: process_creation}")
    (tmp_path / "broken.yml").write_text("{ [")
    sigma = load_sigma([str(tmp_path)], "medium", ["stable", "test"], [])
    assert titles(sigma) == ["open"]
    assert (sigma.others, sigma.problems) == (4, ())


def test_problems_have_their_place_and_stop_nothing_else(tmp_path: Path) -> None:
    bad = write(tmp_path / "bad.yml")
    bad.write_text(bad.read_text().replace("Image:", "Bild:"))
    broken = tmp_path / "broken.yml"
    broken.write_text("# linux process_creation\ntitle: [\n")
    first, second = write(tmp_path / "first.yml", rule_id="2"), write(tmp_path / "second.yml", rule_id="2")
    sigma = load_sigma(
        [f"{tmp_path}/none", str(tmp_path)], "low", ALL, [Exclusion("9", compile_match({"pid": "1"}))]
    )
    assert titles(sigma) == ["first"]
    missing, unknown, syntax, twice, exclusion = sigma.problems
    assert missing == f"{tmp_path}/none:1:1: file: cannot be opened: No such file or directory"
    assert unknown.startswith(f"{bad}:8:5: detection.selection.Bild: unknown field 'Bild'")
    assert syntax.startswith(f"{broken}:3:1: yaml: ")
    assert twice == f"{second}:2:1: id: '2' is the id of the rule in {first}, too"
    assert exclusion == "sigma.exclude: no rule has the id '9'"


def test_what_others_may_change_is_not_believed(tmp_path: Path) -> None:
    file = write(tmp_path / "a/open.yml")
    file.chmod(0o666)
    write(tmp_path / "b/c/rule.yml").parent.chmod(0o777)
    sigma = load_sigma([f"{tmp_path}/a", f"{tmp_path}/b"], "low", ALL, [])
    assert sigma.rules == ()
    assert len(sigma.problems) == 2
    assert all("others than its owner may change it" in problem for problem in sigma.problems)


def test_neither_a_pipe_nor_a_loop_of_directories_is_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yml")
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / ".loop").symlink_to(tmp_path)
    sigma = load_sigma([str(tmp_path)], "low", ALL, [])
    assert sigma.problems == (
        f"{tmp_path}/loop:1:1: directory: is a link, left out: name it in sigma.paths",
        f"{tmp_path}/pipe.yml:1:1: file: is not a regular file",
    )
    assert load_sigma([f"{tmp_path}/loop"], "low", ALL, []).problems[1:] == (
        f"{tmp_path}/loop/pipe.yml:1:1: file: is not a regular file",
    )


def test_the_configuration_names_them(tmp_path: Path) -> None:
    write(tmp_path / "rules/a.yml", rule_id="a")
    write(tmp_path / "rules/b.yml", rule_id="b", status="unsupported")
    file = tmp_path / "c.yaml"
    file.write_text(
        f"sigma: {{paths: {tmp_path}/rules, min-level: high, exclude: [{{id: a, match: {{unit: b.service}}}}]}}"
    )
    sigma = load_config(str(file)).sigma
    assert titles(sigma) == ["a"]
    assert {"EXE", "UNIT"} <= sigma.needs


def test_a_check_warns_of_what_cannot_be_loaded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "rules/good.yml")
    write(tmp_path / "rules/bad.yml", level="severe")
    file = tmp_path / "c.yaml"
    file.write_text(f"sigma: {{paths: {tmp_path}/rules}}")
    assert daemon.main(["--check", "-c", str(file)]) == 0
    told = capsys.readouterr()
    problem = f"{tmp_path}/rules/bad.yml:4:1: level: 'severe' is none of: "
    assert told.err.startswith(f"warning: {problem}")
    assert f"; 1 Sigma rule, and 1 problem with others: {problem}" in told.out


def entry(decision: Decision, fields: str | frozenset[str] = "standard") -> dict[str, Any]:
    return EntryBuilder(Clock(), fields, 4096, Redactor(bytes(32))).build(record(), decision).fields


def test_an_entry_has_each_field_once_per_detection() -> None:
    found = (Detection("1", "One", "high", "a b", "X"), Detection("", "Two", ""))
    fields = entry(Decision("log", None, 4, detections=found))
    assert fields["PROCWATCH_SIGMA_ID"] == ["1", ""]
    assert fields["PROCWATCH_SIGMA_TITLE"] == ["One", "Two"]
    assert fields["PROCWATCH_SIGMA_LEVEL"] == ["high", ""]
    assert fields["PROCWATCH_SIGMA_TAGS"] == ["a b", ""]
    assert fields["PROCWATCH_SIGMA_AUTHOR"] == ["X", ""]
    assert fields["MESSAGE"].startswith("Sigma high: One, and 1 more: exec sh[5]")
    assert not [name for name in entry(LOG) if "SIGMA" in name]
    named = entry(Decision("log", None, 4, detections=found), frozenset({"SIGMA_ID"}))
    assert [name for name in named if "SIGMA" in name] == ["PROCWATCH_SIGMA_ID"]


def test_an_entry_has_the_most_severe_of_many_detections() -> None:
    many = tuple(Detection(str(n), "T", "low") for n in range(100))
    assert len(entry(Decision("log", None, 4, detections=many))["PROCWATCH_SIGMA_ID"]) == DETECTIONS_LIMIT
