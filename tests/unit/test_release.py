# SPDX-License-Identifier: MIT
"""All places that name the version agree, and `packaging/release` sees to it, in a repository made for the test."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
from pathlib import Path

import pytest

from procwatchd import __version__

ROOT = Path(__file__).parents[2]

# Each place with the version, and what it looks like there.
VERSION = {
    "procwatchd/__init__.py": r'^__version__ = "(.*)"$',
    "packaging/rpm/procwatchd.spec": r"^Version: +(.*)$",
    "packaging/arch/PKGBUILD": r"^pkgver=(.*)$",
    "debian/changelog": r"\Aprocwatchd \(([^-]*)(?:-[0-9]+)?\) ",
    "NEWS.md": r"\A# News\n\n## (.*), (?:not released yet|[0-9]{4}-[0-9]{2}-[0-9]{2})\n",
}

CHANGELOG = """\
procwatchd (1.2.0) unstable; urgency=medium

  * More.

 -- A B <a@b>  Sat, 21 Nov 2026 00:30:00 +0100
"""
# What `make` makes there, in place of the packages.
MAKEFILE = "dist deb:\n\tmkdir -p dist && echo $@ >dist/$@\n"


@pytest.mark.parametrize(("path", "pattern"), VERSION.items())
def test_every_place_names_the_version_of_the_package(path: str, pattern: str) -> None:
    found = re.search(pattern, (ROOT / path).read_text(), re.MULTILINE)
    assert found
    assert found[1] == __version__


def test_what_news_has_a_date_for_is_not_unreleased_for_debian() -> None:
    unreleased = "UNRELEASED" in (ROOT / "debian/changelog").read_text().split("\n", 1)[0]
    assert not unreleased or f"## {__version__}, not released yet\n" in (ROOT / "NEWS.md").read_text()


def git(directory: Path, *arguments: str) -> str:
    """What git says there, with nobody's own configuration."""
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(directory),
        **{f"GIT_{who}_{what}": "tester" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
    }
    done = subprocess.run(
        ("git", *arguments), cwd=directory, env=environment, check=True, capture_output=True, text=True
    )
    return done.stdout


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A repository that could be released as 1.2.0."""
    files = {
        "procwatchd/__init__.py": '__version__ = "1.2.0"\n',
        "packaging/rpm/procwatchd.spec": "Name:           procwatchd\nVersion:        1.2.0\n",
        "packaging/arch/PKGBUILD": "pkgname=procwatchd\npkgver=1.2.0\n",
        "debian/changelog": CHANGELOG,
        "NEWS.md": "# News\n\n## 1.2.0, 2026-11-21\n\n## 1.1.0, 2026-11-01\n",
        "Makefile": MAKEFILE,
        ".gitignore": "dist/\n",
        "packaging/release": (ROOT / "packaging/release").read_text(),
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "packaging/release").chmod(0o755)
    git(tmp_path, "init", "--quiet")
    commit(tmp_path)
    return tmp_path


def commit(checkout: Path) -> None:
    git(checkout, "add", "--all")
    git(checkout, "commit", "--quiet", "--message", "all of it")


def release(checkout: Path, *arguments: str, committer: str = "tester") -> subprocess.CompletedProcess[str]:
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(checkout),
        "GIT_COMMITTER_NAME": committer,
        "GIT_COMMITTER_EMAIL": committer,
    }
    command = [str(checkout / "packaging/release"), *arguments]
    return subprocess.run(command, env=environment, check=False, capture_output=True, text=True)


def refused(checkout: Path, version: str = "1.2.0") -> str:
    """Why it is; nothing is made then."""
    tags = git(checkout, "tag")
    done = release(checkout, version)
    assert done.returncode == 1
    assert git(checkout, "tag") == tags
    assert not (checkout / "dist").exists()
    return done.stderr


def test_a_release_has_sums_of_all_that_was_made_and_a_tag(checkout: Path) -> None:
    (checkout / "dist").mkdir()
    (checkout / "dist/of-another-version").touch()
    done = release(checkout, "1.2.0")
    assert done.returncode == 0, done.stderr
    sums = {name: hashlib.sha256(f"{name}\n".encode()).hexdigest() for name in ("deb", "dist")}
    assert (checkout / "dist/SHA256SUMS").read_text() == "".join(f"{sums[name]}  {name}\n" for name in sums)
    assert git(checkout, "cat-file", "-t", "v1.2.0") == "tag\n"
    assert git(checkout, "rev-parse", "v1.2.0^{commit}") == git(checkout, "rev-parse", "HEAD")
    assert done.stdout.endswith("to be pushed: git push origin HEAD v1.2.0\n")


def test_a_dry_run_makes_all_but_the_tag(checkout: Path) -> None:
    assert release(checkout, "--dry-run", "1.2.0").returncode == 0
    assert (checkout / "dist/SHA256SUMS").exists()
    assert git(checkout, "tag") == ""


def test_what_cannot_be_signed_has_no_tag(checkout: Path) -> None:
    git(checkout, "config", "gpg.program", "false")
    assert release(checkout, "--sign", "1.2.0").returncode != 0
    assert git(checkout, "tag") == ""


@pytest.mark.parametrize("path", VERSION)
def test_a_place_with_another_version_is_named(checkout: Path, path: str) -> None:
    file = checkout / path
    file.write_text(file.read_text().replace("1.2.0", "1.3.0"))
    commit(checkout)
    assert f"{path} is of version 1.3.0, not 1.2.0" in refused(checkout)


def test_news_must_have_a_date(checkout: Path) -> None:
    (checkout / "NEWS.md").write_text("# News\n\n## 1.2.0, not released yet\n\n## 1.1.0, 2026-11-01\n")
    commit(checkout)
    assert "NEWS.md has no date for 1.2.0" in refused(checkout)


@pytest.mark.parametrize(
    ("trailer", "why"),
    [
        (
            " -- A B <a@b>  Sat, 07 Nov 2026 12:00:00 +0000",
            "is of 2026-11-21, debian/changelog of 2026-11-07",
        ),
        ("", "debian/changelog has no date for 1.2.0"),
    ],
)
def test_news_and_debian_have_one_date(checkout: Path, trailer: str, why: str) -> None:
    (checkout / "debian/changelog").write_text(re.sub(" -- .*", trailer, CHANGELOG))
    commit(checkout)
    assert why in refused(checkout)


def test_debian_must_have_a_distribution(checkout: Path) -> None:
    (checkout / "debian/changelog").write_text("procwatchd (1.2.0) UNRELEASED; urgency=medium\n")
    commit(checkout)
    assert "debian/changelog is not for a release yet" in refused(checkout)


def test_where_git_does_not_know_what_is_committed_nothing_is_released(checkout: Path) -> None:
    (checkout / ".git").rename(checkout / "away")
    done = release(checkout, "1.2.0")
    assert done.returncode == 1
    assert "git does not say what is committed" in done.stderr
    assert not (checkout / "dist").exists()


def test_who_makes_the_tag_is_asked_first(checkout: Path) -> None:
    done = release(checkout, "1.2.0", committer="")
    assert done.returncode == 1
    assert "git does not know who makes the tag" in done.stderr
    assert not (checkout / "dist").exists()


@pytest.mark.parametrize("name", ["NEWS.md", "forgotten"])
def test_what_is_not_committed_is_not_released(checkout: Path, name: str) -> None:
    with open(checkout / name, "a") as file:
        file.write("more\n")
    assert "there are changes that are not committed" in refused(checkout)


def test_no_version_is_released_twice(checkout: Path) -> None:
    git(checkout, "tag", "v1.2.0")
    assert "there is a tag v1.2.0 already" in refused(checkout)


def test_what_building_changes_was_not_what_is_tagged(checkout: Path) -> None:
    (checkout / "Makefile").write_text(MAKEFILE + "\techo more >>NEWS.md\n")
    commit(checkout)
    done = release(checkout, "1.2.0")
    assert "building changed the checkout" in done.stderr
    assert git(checkout, "tag") == ""
