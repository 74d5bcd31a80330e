"""Turns a Debian package into the RPM package that it will be.

Left out: maintainer scripts and triggers (`maintainer` does what the tests need of them), and
`Conflicts`, `Breaks` and `Replaces`, since the packages come from one release of one distribution.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from .apt import Stanza
from .base_packages import FILESYSTEM_PATHS
from .deb import read_entries
from .package import Entry, Kind, Package
from .relation import Relation, Version, parse_version

#: A Debian package without a revision needs some release as an RPM.
NATIVE_RELEASE = "0"

RENAMED = {"busybox-static": "busybox", "linux-image-cloud-amd64": "kernel"}


def rpm_name(name: str) -> str:
    """What the RPM of the Debian package `name` is called: EL's name where tests rely on it."""
    if name.startswith("linux-image-") and name[len("linux-image-")].isdigit():
        return "kernel-core"
    return RENAMED.get(name, name)


def convert_all(
    selection: Mapping[str, list[Relation]],
    stanzas: Mapping[str, Stanza],
    files: Mapping[str, Path],
) -> dict[str, Package]:
    """Converts the selected packages, several at a time. The result is by RPM name.

    Raises Failure when a .deb cannot be read.
    """
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        payloads = pool.map(read_entries, [files[name] for name in selection])
        packages = [
            convert(stanzas[name], requires, entries)
            for (name, requires), entries in zip(selection.items(), payloads, strict=True)
        ]
    return {package.name: package for package in packages}


def convert(stanza: Stanza, requires: Sequence[Relation], entries: Iterable[Entry]) -> Package:
    """The RPM package with the given requirements and payload."""
    version = parse_version(stanza.version)
    return Package(
        rpm_name(stanza.name),
        Version(version.epoch, version.version, version.release or NATIVE_RELEASE),
        summary=stanza.summary,
        noarch=stanza.architecture == "all",
        requires=["filesystem", *(each.to_rpm(rpm_name(each.name)) for each in requires)],
        provides=[provided.to_rpm() for provided in stanza.provides],
        entries=[entry for entry in entries if not _is_of_filesystem(entry)],
    )


def _is_of_filesystem(entry: Entry) -> bool:
    """Whether the entry is a directory that the package `filesystem` owns."""
    return entry.kind is Kind.DIRECTORY and entry.path in FILESYSTEM_PATHS
