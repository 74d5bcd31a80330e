"""What an RPM package is to this tool: names, dependencies, scriptlets and a list of entries.

A package is a plain value that holds its files' content in memory. The full set is about 250 MB
of that; in return every step between a .deb and rpmbuild is a function from packages to packages.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum, auto

from .command import Failure
from .relation import Version

#: The time of entries we make ourselves, in seconds since 1970: fixed, so that runs are alike.
MADE_ENTRIES_TIME = 1_700_000_000


class Kind(Enum):
    """What kind of file system object an entry is.

    FIFOs are left out: rpm 4.18 opens them when it installs them, and waits for a writer forever.
    """

    FILE = auto()
    DIRECTORY = auto()
    SYMLINK = auto()
    HARD_LINK = auto()
    DEVICE = auto()
    GHOST = auto()


@dataclass
class Entry:
    """One path of a package. Owner and mode exist here and in the spec only, so that building
    needs no root."""

    path: str
    kind: Kind = Kind.FILE
    mode: int = 0o644
    user: str = "root"
    group: str = "root"
    #: Seconds since 1970.
    mtime: int = MADE_ENTRIES_TIME
    content: bytes = b""
    #: Where a symlink points, or the path that a hard link shares its file with.
    target: str = ""
    #: A configuration file: kept when the user has changed it.
    config: bool = False
    #: File capabilities as cap_from_text(3) reads them.
    capabilities: str = ""
    #: (type, major, minor) of a device: ("c", 1, 3).
    device: tuple[str, int, int] = ("c", 0, 0)


@dataclass(frozen=True)
class Scriptlet:
    """A shell scriptlet: `when` is the spec's section (`post`, `posttrans`), `on` the path
    prefixes of a file trigger."""

    when: str
    body: str
    on: tuple[str, ...] = ()


@dataclass
class Package:
    """A binary RPM package to be built."""

    name: str
    version: Version
    summary: str = "Test package"
    noarch: bool = True
    requires: list[str] = field(default_factory=list)
    provides: list[str] = field(default_factory=list)
    recommends: list[str] = field(default_factory=list)
    conflicts: list[str] = field(default_factory=list)
    scriptlets: list[Scriptlet] = field(default_factory=list)
    entries: list[Entry] = field(default_factory=list)

    def entry(self, path: str) -> Entry:
        """The entry at `path`. Raises Failure, since Debian has moved what we build upon."""
        for entry in self.entries:
            if entry.path == path:
                return entry
        raise Failure(f"the package {self.name} has no {path}")

    def add(self, *entries: Entry) -> None:
        """Adds entries, each in place of one that has the same path."""
        paths = {entry.path for entry in entries}
        self.entries = [entry for entry in self.entries if entry.path not in paths]
        self.entries.extend(entries)


def text_file(path: str, text: str, *, mode: int = 0o644, config: bool = False) -> Entry:
    """A regular file of root's with the given text."""
    return Entry(path, mode=mode, content=text.encode(), config=config)


def config_file(path: str, text: str, *, mode: int = 0o644) -> Entry:
    """A configuration file of root's with the given text."""
    return text_file(path, text, mode=mode, config=True)


def directory(path: str, mode: int = 0o755) -> Entry:
    """A directory of root's."""
    return Entry(path, Kind.DIRECTORY, mode)


def symlink(path: str, target: str) -> Entry:
    """A symbolic link at `path` that points to `target`."""
    return Entry(path, Kind.SYMLINK, 0o777, target=target)


def hard_link(path: str, to: Entry) -> Entry:
    """Another name for the file `to` of the same package: same owner, mode and time."""
    return Entry(path, Kind.HARD_LINK, to.mode, to.user, to.group, to.mtime, target=to.path)


def without_empty_directories(entries: Iterable[Entry], below: str) -> list[Entry]:
    """The entries, less the directories under `below` in which no other entry is left."""
    entries = list(entries)
    kept = [entry.path for entry in entries if entry.kind is not Kind.DIRECTORY]
    return [
        entry
        for entry in entries
        if entry.kind is not Kind.DIRECTORY
        or not entry.path.startswith(below)
        or any(path.startswith(entry.path + "/") for path in kept)
    ]
