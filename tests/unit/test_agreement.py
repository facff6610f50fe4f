# SPDX-License-Identifier: MIT
"""Code, catalog, manual and packaging say the same."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import procwatchd
from procwatchd import daemon, errors
from procwatchd.config import load_config
from procwatchd.journal.kinds import MESSAGE_IDS
from procwatchd.ledger import Ledger
from procwatchd.process.fields import ENTRY_ONLY, EVENTS, FIELDS
from procwatchd.rules.names import SIGMA, TAGS

ROOT = Path(__file__).parents[2]
PACKAGE = Path(procwatchd.__file__).parent
CATALOG = (ROOT / "packaging/procwatchd.catalog").read_text()
DAEMON_PAGE = (ROOT / "packaging/man/procwatchd.8").read_text()
FIELDS_PAGE = (ROOT / "packaging/man/procwatchd.fields.7").read_text()
UNIT = (ROOT / "packaging/procwatchd.service").read_text()

# Whose names the configuration gives: PROCWATCH_ENV_ and a variable's, PROCWATCH_ and what a rule calls its own.
FAMILIES = {"ENV_", ""}


def section(page: str, title: str) -> str:
    """The source of one section of a manual page."""
    return page.split(f"\n.Sh {title}\n")[1].split("\n.Sh ")[0]


def catalog_texts() -> dict[str, str]:
    """The catalog's text of each message id."""
    parts = re.split(r"^-- ([0-9a-f]{32})$", CATALOG, flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


def own_fields() -> Iterator[str]:
    """The names of the fields of the daemon's own entries, as its source gives them to `own`."""
    yield from Ledger().terms(logged=0, unwritten=0, pending=0)
    for module in ("daemon.py", "worker.py", "losses.py", "silence.py"):
        for node in ast.walk(ast.parse((PACKAGE / module).read_bytes())):
            if isinstance(node, ast.Call) and getattr(node.func, "attr", "") in ("own", "_own"):
                yield from (keyword.arg.upper() for keyword in node.keywords if keyword.arg is not None)
            if isinstance(node, ast.FunctionDef) and node.name in ("more_terms", "_write_terms", "terms"):
                yield from keys_of_dicts(node)


def keys_of_dicts(function: ast.FunctionDef) -> Iterator[str]:
    for node in ast.walk(function):
        if isinstance(node, ast.Dict):
            yield from (str(key.value) for key in node.keys if isinstance(key, ast.Constant))


def test_each_message_id_is_of_one_kind() -> None:
    assert len(set(MESSAGE_IDS.values())) == len(MESSAGE_IDS)
    assert all(re.fullmatch("[0-9a-f]{32}", message_id) for message_id in MESSAGE_IDS.values())
    assert set(EVENTS) <= set(MESSAGE_IDS)


def test_the_catalog_has_a_text_for_each_message_id_and_no_other() -> None:
    assert set(catalog_texts()) == set(MESSAGE_IDS.values())
    assert len(re.findall("^-- ", CATALOG, re.MULTILINE)) == len(MESSAGE_IDS)


@pytest.mark.parametrize("kind", MESSAGE_IDS)
def test_a_catalog_text_is_whole(kind: str) -> None:
    head, _, text = catalog_texts()[MESSAGE_IDS[kind]].strip().partition("\n\n")
    names = [line.split(":")[0] for line in head.splitlines()]
    assert names == ["Subject", "Defined-By", "Documentation"]
    assert len(text) > 100
    assert max(map(len, text.splitlines())) <= 80


@pytest.mark.parametrize("kind", MESSAGE_IDS)
def test_a_catalog_text_names_fields_that_are_always_there(kind: str) -> None:
    """For what an entry has not, journalctl would put the field's name."""
    always = {"PROCWATCH_PID", "PROCWATCH_EVENT"} if kind in EVENTS else {"PROCWATCH_EVENT"}
    assert set(re.findall("@([A-Z_]+)@", catalog_texts()[MESSAGE_IDS[kind]])) <= always


def test_the_catalog_speaks_of_fields_there_are() -> None:
    known = {*FIELDS, *ENTRY_ONLY, *own_fields()}
    assert {name for name in re.findall(r"PROCWATCH_(\w+)", CATALOG) if name not in known} == set()


def test_the_manual_has_all_kinds_of_entries() -> None:
    text = section(FIELDS_PAGE, "KINDS OF ENTRIES")
    found = re.findall(r"^\.It Cm (\S+)\n(?:.*\n)+?\.Li ([0-9a-f]{32})$", text, re.MULTILINE)
    assert dict(found) == MESSAGE_IDS


def test_the_manual_has_all_fields_and_no_other() -> None:
    heads = re.findall(r"^\.It Va (PROCWATCH_.*)$", FIELDS_PAGE, re.MULTILINE)
    found = [name for head in heads for name in re.findall(r"PROCWATCH_(\w*)", head)]
    assert len(found) == len(set(found))
    assert set(found) == {*FIELDS, *ENTRY_ONLY, *SIGMA, TAGS, *own_fields()} | FAMILIES


@pytest.mark.parametrize("name", sorted({*FIELDS, *ENTRY_ONLY, *SIGMA, TAGS, *own_fields()}))
def test_a_rule_cannot_give_a_field_that_is_the_daemons(tmp_path: Path, name: str) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(f"rules: [{{name: a, match: {{pid: 1}}, fields: {{{name}: x}}}}]")
    with pytest.raises(errors.ConfigError, match="procwatchd's own"):
        load_config(str(file))


def test_the_manual_has_all_options_and_no_other(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        daemon.main(["--help"])
    assert end.value.code == 0
    options = set(re.findall(r"(?<![\w-])--?[a-z]+", capsys.readouterr().out.partition("options:")[2]))
    heads = re.findall(r"^\.It (Fl .*)$", DAEMON_PAGE, re.MULTILINE)
    # Two kinds of heads: `Fl -check` and `Fl c , Fl -config Ar file`.
    found = [f"-{name}" for head in heads for name in re.findall(r"Fl (-?[a-z]+)", head)]
    assert sorted(found) == sorted(options)


def test_the_manual_has_all_exit_statuses_and_no_other() -> None:
    classes: list[type[errors.ProcwatchError]] = [
        errors.ProcwatchError,
        *errors.ProcwatchError.__subclasses__(),
    ]
    statuses = {str(found.exit_status) for found in classes}
    # Stopped as asked; wrong usage, by argparse.
    assert set(re.findall(r"^\.It (\d+)$", section(DAEMON_PAGE, "EXIT STATUS"), re.MULTILINE)) == statuses | {
        "0",
        "2",
    }


def test_errors_draw_what_there_is() -> None:
    drawn = dict(re.findall(r"── (\w+) +(\d+) ", errors.__doc__ or ""))
    found = {one.__name__: str(one.exit_status) for one in errors.ProcwatchError.__subclasses__()}
    assert drawn == found


def test_the_manual_has_the_terms_of_the_ledger() -> None:
    terms = Ledger().terms(logged=0, unwritten=0, pending=0)
    heads = re.findall(r"^\.It (.*)$", section(DAEMON_PAGE, "LEDGER"), re.MULTILINE)
    # What was received needs no words beyond its equation.
    assert {term for head in heads for term in re.findall(r"[A-Z]+", head)} == {*terms} - {
        "RECEIVED",
        "CONSIDERED",
    }


def test_the_unit_gives_up_where_the_next_try_would_end_the_same_way() -> None:
    prevented = re.search(r"^RestartPreventExitStatus=(.*)$", UNIT, re.MULTILINE)
    assert prevented is not None
    permanent: tuple[type[errors.ProcwatchError], ...]
    permanent = (errors.KernelError, errors.DeniedError, errors.ConfigError)
    assert set(prevented[1].split()) == {str(one.exit_status) for one in permanent} | {"2"}


def test_the_version_is_in_one_place() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert "version" not in project["project"]
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "procwatchd.__version__"}
    assert re.search(
        rf"^## {re.escape(procwatchd.__version__)}\b", (ROOT / "NEWS.md").read_text(), re.MULTILINE
    )
