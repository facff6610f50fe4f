# SPDX-License-Identifier: MIT
"""What a guest is made of: kernels, a root file system, and an archive with the scenarios and the packages.

- Debian's cloud kernels have NVMe, ext4 and the serial console built in: no initrd, no modules, and nothing of the
  kernel's package is needed but its image.
- Which of two disks comes first is a matter of luck on newer kernels. So there is one, without partitions: the archive
  is behind its file system, where scenario.service finds it.
- The guest's repository holds what the package depends on, so that another set of dependencies is another root.

Kernels and roots are kept in a directory of the caller's, each made aside and renamed, until the month is over or they
are to be others.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).parent
TESTS = HERE.parent
ROOT = TESTS.parent
LIBRARY = ROOT / "packaging/lib.sh"
FILE_SYSTEM_BYTES = 2 << 30  # scenario.service has it, too
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"

# By the release that has them.
KERNELS = {"6.1": "bookworm", "6.12": "trixie", "newest": "unstable"}
KERNEL_PACKAGE = "linux-image-cloud-amd64"

# Of another package than the daemon's: higher than that, whatever that is.
NEWER_SUFFIX = "+newer1"
NEWER_LINE = "# newer\n"  # story.py has it, too


def built() -> Path:
    """The package of the checkout's version."""
    name = _from_library('echo "${package}_all.deb"')
    return ROOT / "dist" / name


def kernel(cache: Path, name: str) -> Path:
    """The kernel's image; `name` is a key of KERNELS."""
    release = KERNELS[name]
    return _cached(cache, f"vmlinuz-{name}", release, lambda work: _fetch_kernel(work, release))


def _fetch_kernel(work: Path, release: str) -> Path:
    """Get the package that Debian's own name for its newest kernel stands for; with lists of our own."""
    (work / "sources.list").write_text(
        f"deb [signed-by={KEYRING}] {_from_library('mirror')} {release} main\n"
    )
    for name in ("state/lists/partial", "cache/archives/partial"):
        (work / name).mkdir(parents=True)
    (work / "status").touch()
    (work / "apt.conf").write_text(
        f'Dir::Etc {{ SourceList "{work}/sources.list"; SourceParts "-"; }};\n'
        f'Dir::State "{work}/state"; Dir::State::status "{work}/status"; Dir::Cache "{work}/cache";\n'
        'Acquire::Languages "none"; APT::Sandbox::User "root";\n'
    )
    run = _Runner(work, APT_CONFIG=str(work / "apt.conf"))
    run("apt-get", "-qq", "update")
    package = _dependency(run, KERNEL_PACKAGE, "linux-image-")
    # From Debian 14 on the image is in a package of its own.
    run("apt-get", "-qq", "download", _dependency(run, package, "linux-binary-") or package)
    (archive,) = work.glob("*.deb")
    run("dpkg-deb", "--extract", str(archive), "unpacked")
    (image,) = (work / "unpacked").rglob("vmlinuz*")
    return image


def _dependency(run: _Runner, package: str, start: str) -> str:
    """The package of that name that this one depends on; empty where there is none."""
    lines = run("apt-cache", "depends", "--important", package).splitlines()
    return next((line.split()[-1] for line in lines if f"Depends: {start}" in line), "")


def root(cache: Path, deb: Path) -> Path:
    """The image of a root file system for guests that install this package."""
    recipe = (HERE / "root.sh").read_text() + (HERE / "scenario.service").read_text() + field(deb, "Depends")
    key = hashlib.sha256(recipe.encode()).hexdigest()[:16]
    return _cached(cache, "root", key, lambda work: _make_root(work, deb))


def _make_root(work: Path, deb: Path) -> Path:
    run = _Runner(work)
    run(str(HERE / "root.sh"), str(deb.resolve()), str(work / "root"))
    options = ("-q", "-t", "ext4", "-O", "^has_journal")
    run("mke2fs", *options, "-d", "root", "root.img", f"{FILE_SYSTEM_BYTES >> 10}k")
    return work / "root.img"


def _cached(cache: Path, name: str, key: str, make: Callable[[Path], Path]) -> Path:
    """The file of this name and key, made in this month; others of the name are removed when it is made."""
    path = cache / f"{name}-{time.strftime('%Y-%m')}-{key}"
    if not path.exists():
        with work_directory(cache) as work:
            made = make(work)
            for old in cache.glob(f"{name}-*"):
                old.unlink()
            os.replace(made, path)
    return path


def disk(path: Path, image: Path, deb: Path) -> None:
    """Make the disk of one guest: a root file system, then scenarios, the package with its test, a newer one."""
    # Holes stay holes.
    subprocess.run(["cp", "--sparse=always", "--reflink=auto", image, path], check=True)
    with work_directory(path.parent) as work, path.open("r+b") as file:
        file.seek(FILE_SYSTEM_BYTES)
        with tarfile.open(fileobj=file, mode="w") as archive:
            _fill(archive, deb, _newer(work, deb))


def _fill(archive: tarfile.TarFile, deb: Path, newer: Path) -> None:
    archive.add(TESTS / "__init__.py", "tests/__init__.py")
    archive.add(HERE / "__init__.py", "tests/e2e/__init__.py")
    for source in (HERE / "guest").glob("*.py"):
        archive.add(source, f"tests/e2e/guest/{source.name}")
    archive.add(ROOT / "debian/tests/journal", "package-test")
    archive.add(deb, "procwatchd.deb")
    archive.add(newer, "newer.deb")


def _newer(work: Path, deb: Path) -> Path:
    """The same package with a higher version, and a line more in its configuration."""
    run = _Runner(work)
    run("dpkg-deb", "--raw-extract", str(deb.resolve()), "unpacked")
    control = work / "unpacked/DEBIAN/control"
    version = field(deb, "Version")
    text = control.read_text().replace(f"\nVersion: {version}\n", f"\nVersion: {version}{NEWER_SUFFIX}\n")
    control.write_text(text)
    with (work / "unpacked/etc/procwatchd.yaml").open("a") as file:
        file.write(NEWER_LINE)
    run("dpkg-deb", "--root-owner-group", "-Zgzip", "--build", "unpacked", "newer.deb")
    return work / "newer.deb"


def field(deb: Path, name: str) -> str:
    """What the package's control file says."""
    command = ["dpkg-deb", "--field", str(deb), name]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


class _Runner:
    """Runs commands in a directory, with more in their environment; what they print is in the error if they fail."""

    def __init__(self, directory: Path, **more: str) -> None:
        self._directory = directory
        self._environment = {**os.environ, **more}

    def __call__(self, *command: str) -> str:
        done = subprocess.run(
            command,
            cwd=self._directory,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(
                f"{' '.join(command)}: exit status {done.returncode}\n{done.stdout}{done.stderr}"
            )
        return done.stdout


def _from_library(command: str) -> str:
    """What a command prints that knows what the packaging's scripts share."""
    return _Runner(ROOT)("bash", "-euo", "pipefail", "-c", f'. "$0"; {command}', str(LIBRARY)).strip()


@contextmanager
def work_directory(parent: Path) -> Iterator[Path]:
    """A new directory there, gone afterwards."""
    parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix="making-", dir=parent)).resolve()
    try:
        yield work
    finally:
        shutil.rmtree(work)
