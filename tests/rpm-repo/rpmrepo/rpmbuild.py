"""Builds packages with rpmbuild: stages their entries in a build root, then runs it on a spec.

Needs no root: owners, setuid bits, devices and capabilities are in the spec only.
"""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from .command import run
from .package import MADE_ENTRIES_TIME, Entry, Kind, Package
from .spec import batches, render

#: How the result is named below the repository.
_FILE_NAME = "Packages/%%{NAME}-%%{VERSION}-%%{RELEASE}.%%{ARCH}.rpm"


def build(packages: Sequence[Package], repository: Path, work: Path) -> list[Path]:
    """Builds every package into `repository`/Packages and returns the files, sorted.

    `work` is an empty directory of the caller's. Raises Failure with the end of rpmbuild's output.
    """
    for number, batch in enumerate(batches(packages), start=1):
        _build_batch(batch, repository, work / f"batch-{number}")
    return sorted((repository / "Packages").glob("*.rpm"))


def _build_batch(packages: Sequence[Package], repository: Path, top: Path) -> None:
    root = top / "root"
    root.mkdir(parents=True)
    stage((entry for package in packages for entry in package.entries), root)
    spec = top / "packages.spec"
    spec.write_text(render(packages), encoding="utf-8")
    macros = {
        "_topdir": top,
        "_tmppath": top / "tmp",
        "_rpmdir": repository,
        "_rpmfilename": _FILE_NAME,
    }
    run(
        [
            *("rpmbuild", "-bb", "--target", "x86_64", "--buildroot", root),
            # Without %prep, %build and %install the build root stays as it was staged.
            *("--noprep", "--nodeps", "--noclean"),
            *(word for name, value in macros.items() for word in ("--define", f"{name} {value}")),
            spec,
        ],
        environment={"HOME": str(top), "SOURCE_DATE_EPOCH": str(MADE_ENTRIES_TIME)},
    )


def stage(entries: Iterable[Entry], root: Path) -> None:
    """Makes the entries below `root`, as far as an ordinary user can."""
    directories = []
    hard_links = []
    for entry in entries:
        path = _staged(root, entry.path)
        path.parent.mkdir(parents=True, exist_ok=True)
        if entry.kind is Kind.HARD_LINK:
            hard_links.append(entry)
        elif entry.kind is Kind.DIRECTORY:
            directories.append(entry)
            path.mkdir(exist_ok=True)
        else:
            _make(entry, path)
    # The file that a hard link names may come after it; directories' times change with content.
    for entry in hard_links:
        os.link(_staged(root, entry.target), _staged(root, entry.path))
    for entry in directories:
        os.utime(_staged(root, entry.path), (entry.mtime, entry.mtime))


def _make(entry: Entry, path: Path) -> None:
    if entry.kind is Kind.DEVICE:
        return
    if entry.kind is Kind.SYMLINK:
        path.symlink_to(entry.target)
    else:
        path.write_bytes(entry.content)
    os.utime(path, (entry.mtime, entry.mtime), follow_symlinks=False)


def _staged(root: Path, path: str) -> Path:
    return root / path.removeprefix("/")
