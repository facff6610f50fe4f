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
# Its own rooms: what there is and what it comes to, how it is shown; then those of commands, which do not know each
# other, but that doctor, in health, checks the configuration.
TOP_ROOMS = ("past", "lives", "show", "rules")
COMMANDS = ("top", "plot", "export", "health")
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


def room_of(module: Path) -> str:
    """`kernel`, or `ctl/past`; "" for what is on top of all."""
    return module.parent.relative_to(PACKAGE).as_posix().removeprefix(".")


def is_allowed(room: str, name: str) -> bool:
    """Whether a module in this room may import that one of the package."""
    parts = name.split(".")
    if room == TOP:
        return True
    if room.startswith(f"{TOP}/"):
        return parts[1:2] != [TOP] or is_allowed_on_top(room.removeprefix(f"{TOP}/"), parts[2:])
    if len(parts) == 1 or parts[1] == "errors" or parts[1].startswith("__"):
        return True
    return parts[1] in ROOMS and ROOMS.index(parts[1]) <= ROOMS.index(room)


def is_allowed_on_top(room: str, path: list[str]) -> bool:
    """Whether a module in this room of procwatchctl may import that one, by its path in there."""
    if path[:1] in ([], ["errors"], [room]):
        return True
    left = TOP_ROOMS if room in COMMANDS else TOP_ROOMS[: TOP_ROOMS.index(room)]
    return path[0] in left


def test_there_are_no_other_rooms() -> None:
    of_top = {f"{TOP}/{room}" for room in (*TOP_ROOMS, *COMMANDS)}
    assert {room_of(module) for module in MODULES} == {"", *ROOMS, TOP, *of_top}


@pytest.mark.parametrize("module", [m for m in MODULES if m.parent != PACKAGE], ids=name_of)
def test_a_room_imports_leftwards_only(module: Path) -> None:
    ours = [name for name in imported(module) if name.split(".")[0] == PACKAGE.name]
    # A bare `from procwatchd import worker` would be seen as procwatchd.worker.
    assert [name for name in ours if not is_allowed(room_of(module), name)] == []


def test_errors_import_nothing_of_ours() -> None:
    assert [name for name in imported(PACKAGE / "errors.py") if name.startswith(PACKAGE.name)] == []


@pytest.mark.parametrize("module", MODULES, ids=name_of)
def test_pydantic_is_where_it_must_be(module: Path) -> None:
    found = {root for name in imported(module) if (root := name.split(".")[0]).startswith("pydantic")}
    assert found <= {MAY_IMPORT.get(name_of(module), "")}


@pytest.mark.parametrize("module", [m for m in MODULES if room_of(m).partition("/")[0] != TOP], ids=name_of)
def test_what_is_for_people_is_not_loaded_by_the_daemon(module: Path) -> None:
    names = set(imported(module))
    assert [name for name in names if name.startswith((f"{PACKAGE.name}.{TOP}", SHOWS))] == []


def test_completions_are_made_where_nothing_is_installed() -> None:
    names = {name.split(".")[0] for name in imported(PACKAGE / TOP / "arguments.py")}
    assert names <= {"__future__", "argparse", "typing", PACKAGE.name}
