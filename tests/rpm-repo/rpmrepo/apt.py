"""Asks apt what a set of packages needs, and downloads it. Nothing is ever installed.

apt runs against an empty dpkg database, so that what the host has installed plays no part.
"""

import hashlib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .command import Failure, run
from .relation import Relation, parse_relations

LISTS = Path("/var/lib/apt/lists")

_PRINTED_URI = re.compile(r"'[^']+' (?P<name>[^_ ]+)_(?P<version>[^_ ]+)_[^_ ]+\.deb ")


@dataclass(frozen=True)
class Stanza:
    """What the package lists say about one version of a package."""

    name: str
    version: str
    architecture: str
    summary: str
    size_bytes: int
    depends: list[list[Relation]]
    provides: list[Relation]

    @property
    def file_name(self) -> str:
        """The name that `apt-get download` gives to the package's file."""
        return f"{self.name}_{self.version.replace(':', '%3a')}_{self.architecture}.deb"


class Apt:
    """apt with its state in a directory of ours."""

    def __init__(self, cache: Path) -> None:
        self._debs = cache / "debs"
        self._nothing = cache / "no-archives"
        for folder in (self._debs, self._nothing / "partial"):
            folder.mkdir(parents=True, exist_ok=True)
        status = cache / "dpkg-status"
        status.write_bytes(b"")
        self._options = [
            *_option("Dir::State::status", status),
            # Printing the address of every package takes an archive directory without any.
            *_option("Dir::Cache::archives", self._nothing),
            *_option("Dir::Cache::pkgcache", cache / "pkgcache.bin"),
            *_option("Dir::Cache::srcpkgcache", cache / "srcpkgcache.bin"),
            *_option("APT::Install-Recommends", "false"),
            *_option("Debug::NoLocking", "true"),
        ]
        if os.geteuid() == 0:
            # The user _apt cannot write into our directory.
            self._options += _option("APT::Sandbox::User", "root")

    def resolve(self, names: Sequence[str]) -> list[Stanza]:
        """The stanzas of the named packages and of everything they depend on.

        Raises Failure when apt cannot find or satisfy them.
        """
        try:
            printed = run([*self._apt_get(), "--print-uris", "install", *names]).decode()
        except Failure as failure:
            raise Failure(
                f"apt cannot resolve {', '.join(names)}: {failure}", hint="apt-get update"
            ) from failure
        pinned = [
            f"{match['name']}={match['version'].replace('%3a', ':')}"
            for match in map(_PRINTED_URI.match, printed.splitlines())
            if match
        ]
        shown = run(["apt-cache", *self._options, "show", *pinned]).decode()
        return parse_stanzas(shown)

    def download(self, stanzas: Sequence[Stanza]) -> dict[str, Path]:
        """The file of each package, by package name. Files of earlier runs are used again."""
        files = {stanza.name: self._debs / stanza.file_name for stanza in stanzas}
        missing = [
            f"{stanza.name}={stanza.version}"
            for stanza in stanzas
            if not _is_complete(files[stanza.name], stanza)
        ]
        if missing:
            run([*self._apt_get(), "download", *missing], cwd=self._debs)
        return files

    def _apt_get(self) -> list[str]:
        return ["apt-get", "-qq", "--yes", *self._options]


def _is_complete(file: Path, stanza: Stanza) -> bool:
    """Whether the download was not cut short. apt has checked the digest of one that was not."""
    return file.is_file() and file.stat().st_size == stanza.size_bytes


def _option(key: str, value: str | Path) -> list[str]:
    return ["-o", f"{key}={value}"]


def parse_stanzas(text: str) -> list[Stanza]:
    """Parses the output of `apt-cache show`: stanzas separated by empty lines."""
    return [_parse_stanza(part) for part in text.split("\n\n") if part.strip()]


def _parse_stanza(text: str) -> Stanza:
    # Lines that begin with a space continue the field above; none of the fields we need does.
    lines = (line.partition(":") for line in text.splitlines() if not line.startswith(" "))
    fields = {key: value.strip() for key, _, value in lines}
    depends = [fields[key] for key in ("Pre-Depends", "Depends") if key in fields]
    return Stanza(
        fields["Package"],
        fields["Version"],
        fields["Architecture"],
        fields.get("Description-en") or fields.get("Description") or fields["Package"],
        int(fields["Size"]),
        parse_relations(", ".join(depends)),
        [alternatives[0] for alternatives in parse_relations(fields.get("Provides", ""))],
    )


def lists_digest() -> str:
    """A digest of the state of apt's package lists: it changes with `apt-get update`.

    Raises Failure when there are no lists.
    """
    lists = sorted(LISTS.glob("*_Packages*"))
    if not lists:
        raise Failure(f"there are no package lists in {LISTS}", hint="apt-get update")
    state = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in lists]
    return hashlib.sha256(repr(state).encode()).hexdigest()
