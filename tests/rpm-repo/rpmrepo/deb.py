"""Reads the payload of a .deb as entries, with the paths of a merged /usr.

Left out: documentation and translations (an image for tests needs none), SysV init scripts, and
files that our own base packages bring.
"""

import io
import re
import subprocess
import tarfile
from pathlib import Path

from .command import Failure, run
from .package import Entry, Kind

_LEFT_OUT = re.compile(
    r"/usr/share/(doc|doc-base|man|info|locale|lintian|bug|base-files)(/.*)?"
    r"|/etc/(init\.d|issue|issue\.net|motd|hostname|os-release)(/.*)?"
    r"|/usr/lib/os-release"
)

_OUTSIDE_USR = re.compile(r"/(bin|sbin|lib|lib32|lib64|libx32)(/.*)?")


def canonical(member: str) -> str:
    """The path of an archive member on a system whose /bin, /sbin and /lib lie in /usr."""
    path = "/" + member.removeprefix(".").strip("/")
    return "/usr" + path if _OUTSIDE_USR.fullmatch(path) else path


def is_left_out(path: str) -> bool:
    """Whether a path of a .deb does not become part of the RPM."""
    return _LEFT_OUT.fullmatch(path) is not None


def read_conffiles(deb: Path) -> set[str]:
    """The paths that the package marks as configuration files."""
    control = run(["dpkg-deb", "--ctrl-tarfile", deb])
    with tarfile.open(fileobj=io.BytesIO(control)) as archive:
        for member in archive:
            if member.name.removeprefix("./") == "conffiles":
                content = archive.extractfile(member)
                lines = content.read().decode().splitlines() if content else []
                return {canonical(line) for line in lines}
    return set()


def read_entries(deb: Path) -> list[Entry]:
    """The files, links and directories of the package. Raises Failure on a broken archive."""
    conffiles = read_conffiles(deb)
    entries = []
    command = ["dpkg-deb", "--fsys-tarfile", str(deb)]
    try:
        with (
            subprocess.Popen(command, stdout=subprocess.PIPE) as unpacker,
            tarfile.open(fileobj=unpacker.stdout, mode="r|") as archive,
        ):
            for member in archive:
                path = canonical(member.name)
                if not is_left_out(path):
                    entries.append(_entry(deb, archive, member, path, path in conffiles))
    except tarfile.TarError as error:
        raise Failure(f"cannot read {deb}: {error}", hint=f"remove {deb}") from error
    return entries


def _entry(
    deb: Path, archive: tarfile.TarFile, member: tarfile.TarInfo, path: str, config: bool
) -> Entry:
    entry = Entry(
        path,
        mode=member.mode & 0o7777,
        user=member.uname or "root",
        group=member.gname or "root",
        mtime=int(member.mtime),
        config=config,
    )
    if member.isdir():
        entry.kind = Kind.DIRECTORY
    elif member.issym():
        entry.kind, entry.target = Kind.SYMLINK, member.linkname
    elif member.islnk():
        entry.kind, entry.target = Kind.HARD_LINK, canonical(member.linkname)
    elif member.isfile():
        content = archive.extractfile(member)
        entry.content = content.read() if content else b""
    else:
        raise Failure(f"{deb.name}: {path} is neither file, link nor directory")
    return entry
