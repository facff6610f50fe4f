# SPDX-License-Identifier: MIT
"""What a guest is made of: kernels, a root file system, and an archive with the scenarios and the packages.

- Debian's cloud kernels have NVMe, ext4 and the serial console built in: no initrd, no modules, and nothing of the
  kernel's package is needed but its image.
- Which of two disks comes first is a matter of luck on newer kernels. So there is one, without partitions: the archive
  is behind its file system, where scenario.service finds it.
- The guest's repository holds what the package depends on, so that another set of dependencies is another root.

Kernels and roots are kept in a directory of the caller's, each made aside and renamed.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).parent
TESTS = HERE.parent
FILE_SYSTEM_BYTES = 2 << 30  # scenario.service has it, too
DEFAULT_MIRROR = "http://deb.debian.org/debian"
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"

# By the release that has them.
KERNELS = {"6.1": "bookworm", "6.12": "trixie", "newest": "unstable"}
KERNEL_PACKAGE = "linux-image-cloud-amd64"

# Of another package than the daemon's: higher than that, whatever that is.
NEWER_SUFFIX = "+newer1"


def mirror() -> str:
    """Where this machine gets Debian's packages from."""
    command = ["apt-get", "indextargets", "--format", "$(SITE)", "Origin: Debian"]
    sites = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    return next((site for site in sites if site.startswith("http")), DEFAULT_MIRROR)


def kernel(cache: Path, name: str) -> Path:
    """The kernel's image; `name` is a key of KERNELS."""
    image = cache / f"vmlinuz-{name}"
    if not image.exists():
        with _work_directory(cache) as work:
            os.replace(_fetch_kernel(work, KERNELS[name]), image)
    return image


def _fetch_kernel(work: Path, release: str) -> Path:
    """Get the package that Debian's own name for its newest kernel stands for; with lists of our own."""
    (work / "sources.list").write_text(f"deb [signed-by={KEYRING}] {mirror()} {release} main\n")
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
    image = cache / f"root-{hashlib.sha256(recipe.encode()).hexdigest()[:16]}.img"
    if not image.exists():
        with _work_directory(cache) as work:
            run = _Runner(work)
            run(str(HERE / "root.sh"), mirror(), str(deb.resolve()), str(work / "root"))
            run(
                "mke2fs",
                "-q",
                "-t",
                "ext4",
                "-O",
                "^has_journal",
                "-d",
                "root",
                "root.img",
                f"{FILE_SYSTEM_BYTES >> 10}k",
            )
            os.replace(work / "root.img", image)
    return image


def disk(path: Path, image: Path, deb: Path) -> None:
    """Make the disk of one guest: a root file system, then scenarios, the package with its test, a newer one."""
    # Holes stay holes.
    subprocess.run(["cp", "--sparse=always", "--reflink=auto", image, path], check=True)
    with tempfile.TemporaryDirectory(prefix="procwatchd-deb-") as work, path.open("r+b") as file:
        file.seek(FILE_SYSTEM_BYTES)
        with tarfile.open(fileobj=file, mode="w") as archive:
            _fill(archive, deb, _newer(Path(work), deb))


def _fill(archive: tarfile.TarFile, deb: Path, newer: Path) -> None:
    archive.add(TESTS / "__init__.py", "tests/__init__.py")
    archive.add(HERE / "__init__.py", "tests/e2e/__init__.py")
    for source in (HERE / "guest").glob("*.py"):
        archive.add(source, f"tests/e2e/guest/{source.name}")
    archive.add(TESTS.parent / "debian/tests/journal", "package-test")
    archive.add(deb, "procwatchd.deb")
    archive.add(newer, "newer.deb")


def _newer(work: Path, deb: Path) -> Path:
    """The same package with a higher version."""
    run = _Runner(work)
    run("dpkg-deb", "--raw-extract", str(deb.resolve()), "unpacked")
    control = work / "unpacked/DEBIAN/control"
    version = field(deb, "Version")
    text = control.read_text().replace(f"\nVersion: {version}\n", f"\nVersion: {version}{NEWER_SUFFIX}\n")
    control.write_text(text)
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


@contextmanager
def _work_directory(cache: Path) -> Iterator[Path]:
    """A directory on the cache's file system, gone afterwards."""
    cache.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix="making-", dir=cache)).resolve()
    try:
        yield work
    finally:
        shutil.rmtree(work)
