# SPDX-License-Identifier: MIT
"""A room imports from the rooms to its left, never from those to its right."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import procwatchd

PACKAGE = Path(procwatchd.__file__).parent
ROOMS = ("kernel", "process", "rules", "journal")
# On top of all, with what people look with: nothing of it is loaded by the daemon.
TOP, SHOWS = "ctl", "rich"
MODULES = sorted(PACKAGE.rglob("*.py"))

# On the way of an event everything is plain. The configuration is checked by pydantic, once; the engine of regular
# expressions comes from its core, as Python's own can take exponential time (rules/regex.py).
MAY_IMPORT = {"config.py": "pydantic", "rules/regex.py": "pydantic_core"}


def name_of(module: Path) -> str:
    return module.relative_to(PACKAGE).as_posix()


def imported(module: Path) -> Iterator[str]:
    """The full names of the modules that a module imports, wherever in it."""
    for node in ast.walk(ast.parse(module.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name_of(module)}: relative imports hide where they lead"
            assert node.module is not None
            # `from procwatchd.kernel import wire` imports a module, too.
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def is_allowed(room: str, name: str) -> bool:
    """Whether a module in this room may import that one of the package."""
    if room == TOP:
        return True
    parts = name.split(".")
    if len(parts) == 1 or parts[1] == "errors" or parts[1].startswith("__"):
        return True
    return parts[1] in ROOMS and ROOMS.index(parts[1]) <= ROOMS.index(room)


def test_there_are_no_other_rooms() -> None:
    assert {module.parent.name for module in MODULES} == {*ROOMS, TOP, PACKAGE.name}


@pytest.mark.parametrize("module", [m for m in MODULES if m.parent != PACKAGE], ids=name_of)
def test_a_room_imports_leftwards_only(module: Path) -> None:
    ours = [name for name in imported(module) if name.split(".")[0] == PACKAGE.name]
    # A bare `from procwatchd import worker` would be seen as procwatchd.worker.
    assert [name for name in ours if not is_allowed(module.parent.name, name)] == []


def test_errors_import_nothing_of_ours() -> None:
    assert [name for name in imported(PACKAGE / "errors.py") if name.startswith(PACKAGE.name)] == []


@pytest.mark.parametrize("module", MODULES, ids=name_of)
def test_pydantic_is_where_it_must_be(module: Path) -> None:
    found = {root for name in imported(module) if (root := name.split(".")[0]).startswith("pydantic")}
    assert found <= {MAY_IMPORT.get(name_of(module), "")}


@pytest.mark.parametrize("module", [m for m in MODULES if m.parent.name != TOP], ids=name_of)
def test_what_is_for_people_is_not_loaded_by_the_daemon(module: Path) -> None:
    names = set(imported(module))
    assert [name for name in names if name.startswith((f"{PACKAGE.name}.{TOP}", SHOWS))] == []


def test_completions_are_made_where_nothing_is_installed() -> None:
    names = {name.split(".")[0] for name in imported(PACKAGE / TOP / "arguments.py")}
    assert names <= {"__future__", "argparse", "typing", PACKAGE.name}
