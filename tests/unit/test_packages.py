# SPDX-License-Identifier: MIT
"""The Debian package says what the rest says."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DEBIAN = ROOT / "debian"
CONTROL = (DEBIAN / "control").read_text()
UNIT = (ROOT / "packaging/procwatchd.service").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

# Where the service manager makes the directories that a unit asks for.
DIRECTORIES = {
    "RuntimeDirectory": "/run",
    "StateDirectory": "/var/lib",
    "CacheDirectory": "/var/cache",
    "LogsDirectory": "/var/log",
}
# What Debian calls otherwise.
NAMES = {"python3-systemd-python": "python3-systemd", "python3-pyyaml": "python3-yaml"}


def field(name: str) -> str:
    """A field of debian/control, with its continuation lines."""
    found = re.search(rf"^{name}:((?:.*\n)(?: .*\n)*)", CONTROL, re.MULTILINE)
    assert found is not None
    return found[1]


def debian_name(requirement: str) -> str:
    """What a Python requirement is there, with its version."""
    name, version = re.fullmatch(r"([\w-]+)(?:>=([\d.]+))?", requirement, re.ASCII).groups()  # type: ignore[union-attr]
    package = NAMES.get(found := f"python3-{name.lower()}", found)
    return f"{package} (>= {version})" if version else package


@pytest.mark.parametrize("requirement", PROJECT["dependencies"])
def test_what_the_daemon_needs_is_there_for_the_tests(requirement: str) -> None:
    assert f"\n {debian_name(requirement)} <!nocheck>,\n" in field("Build-Depends")


def test_libbpf_is_the_one_that_is_loaded() -> None:
    library = re.search(
        r'^_LIBRARY = "libbpf\.so\.(\d+)"$', (ROOT / "procwatchd/kernel/libbpf.py").read_text(), re.M
    )
    assert library is not None
    assert f"libbpf{library[1]}," in field("Depends")


def test_a_purge_removes_the_directories_of_the_service() -> None:
    asked = {
        f"{place}/{name}"
        for key, place in DIRECTORIES.items()
        for names in re.findall(rf"^{key}=(.*)$", UNIT, re.MULTILINE)
        for name in names.split()
    }
    removal = re.search(r"^    rm -rf (.*)$", (DEBIAN / "procwatchd.postrm").read_text(), re.MULTILINE)
    assert removal is not None
    assert set(re.findall(r'"\$DPKG_ROOT(/[^"]*)"', removal[1])) == asked


def test_nothing_is_started_before_it_is_asked_for() -> None:
    preset = (ROOT / "packaging/procwatchd.preset").read_text().splitlines()
    assert preset[1:] == ["disable procwatchd.service"]
    options = re.findall(r"^\tdh_installsystemd (.*)$", (DEBIAN / "rules").read_text(), re.MULTILINE)
    assert [set(found.split()) for found in options] == [
        {"--no-enable", "--no-start", "--restart-after-upgrade"}
    ]


def test_the_licence_is_the_projects() -> None:
    project, debian = ((ROOT / name).read_text() for name in ("LICENSE", "debian/copyright"))
    assert f"\nLicense: {PROJECT['license']['text']}\n" in debian
    paragraphs = debian.partition(f"\n\nLicense: {PROJECT['license']['text']}\n")[2].replace("\n .\n", "\n\n")
    assert project.endswith(re.sub("^ ", "", paragraphs, flags=re.MULTILINE))


def test_each_test_that_debian_runs_is_there() -> None:
    names = re.findall(r"^Tests: (.*)$", (DEBIAN / "tests/control").read_text(), re.MULTILINE)
    found = {path.name for path in (DEBIAN / "tests").iterdir()} - {"control"}
    assert {name for line in names for name in re.split(", *| +", line)} == found
