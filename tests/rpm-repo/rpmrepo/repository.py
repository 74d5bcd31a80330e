"""Makes the whole output, or keeps a finished one whose inputs are still the same.

    OUT/repo/             Packages/*.rpm, repodata/ (with repomd.xml.asc)
    OUT/RPM-GPG-KEY-test  the public key of both kinds of signature
    OUT/stamp.json        what the output was made from; written last

The output is made in a directory beside OUT and renamed, so that OUT is never half made.
"""

import fcntl
import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from xml.sax.saxutils import escape

from .apt import lists_digest
from .command import Failure, require, run
from .rpmbuild import build
from .sets import PackageSet, packages_of
from .signing import throw_away_key

PROGRAMS = (
    *("apt-get", "apt-cache", "dpkg-deb", "rpmbuild", "rpmsign", "createrepo_c", "modifyrepo_c"),
    *("gpg", "gpgconf"),
)

_STAMP = "stamp.json"
_REPOSITORY = "repo"
_KEY = "RPM-GPG-KEY-test"


@dataclass(frozen=True)
class Stamp:
    """What a finished output holds and what it was made from."""

    set: str
    #: Changes with the tool's sources, the set and apt's package lists.
    inputs: str
    packages: int
    size_bytes: int


@dataclass(frozen=True)
class Result:
    """What the user is told."""

    repository: Path
    key: Path
    stamp: Stamp
    kept: bool


def make(chosen: PackageSet, out: Path, cache: Path, report: Callable[[str], None]) -> Result:
    """Makes the repository of the set in `out`, or keeps what is there when it is up to date.

    `cache` keeps downloads between runs; `report` is told each step. Raises Failure.
    """
    cache.mkdir(parents=True, exist_ok=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    with _only_run(cache):
        inputs = inputs_digest(chosen)
        stamp = read_stamp(out)
        kept = stamp is not None and stamp.inputs == inputs
        if stamp is None or not kept:
            _refuse_foreign(out)
            require(PROGRAMS)
            stamp = _make_anew(chosen, inputs, out, cache, report)
    return Result(out / _REPOSITORY, out / _KEY, stamp, kept)


def inputs_digest(chosen: PackageSet) -> str:
    """A digest of all that decides what the output will be."""
    sources = sorted(Path(__file__).parent.glob("*.py"))
    digest = hashlib.sha256(f"{chosen.name}\n{lists_digest()}\n".encode())
    for source in sources:
        digest.update(source.read_bytes())
    return digest.hexdigest()


def read_stamp(out: Path) -> Stamp | None:
    """The stamp of a finished output, None where there is no such thing."""
    try:
        return Stamp(**json.loads((out / _STAMP).read_text()))
    except (OSError, ValueError, TypeError):
        return None


@contextmanager
def _only_run(cache: Path) -> Iterator[None]:
    """Waits until no other run uses the cache."""
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _refuse_foreign(out: Path) -> None:
    """Keeps us from replacing a directory that we have not made."""
    if out.is_dir() and any(out.iterdir()) and not (out / _STAMP).exists():
        raise Failure(
            f"{out} is not empty and was not made by make-rpm-repo",
            hint="give --out a new directory, or remove that one",
        )


def _make_anew(
    chosen: PackageSet, inputs: str, out: Path, cache: Path, report: Callable[[str], None]
) -> Stamp:
    packages = packages_of(chosen, cache, report)
    with TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as temporary:
        made, work = Path(temporary) / "out", Path(temporary) / "work"
        repository = made / _REPOSITORY
        repository.mkdir(parents=True)
        files = build(packages, repository, work)
        report(f"rpmbuild: {len(files)} packages")
        _sign_and_index(files, chosen, repository, made / _KEY)
        report("signed and indexed")
        size_bytes = sum(file.stat().st_size for file in files)
        stamp = Stamp(chosen.name, inputs, len(files), size_bytes)
        (made / _STAMP).write_text(json.dumps(asdict(stamp), indent=2) + "\n")
        _replace(made, out)
    return stamp


def _sign_and_index(
    files: list[Path], chosen: PackageSet, repository: Path, key_file: Path
) -> None:
    """Signs the packages, writes the metadata over them, and signs that."""
    comps = repository.parent / "comps.xml"
    comps.write_text(_COMPS.format(name=escape(chosen.name)), encoding="utf-8")
    with throw_away_key() as key:
        key.sign_packages(files)
        run(["createrepo_c", "--quiet", "--no-database", "--groupfile", comps, repository])
        modules = repository.parent / "modules.yaml"
        modules.write_text("".join(_MODULE.format(stream=stream) for stream in (1, 2)))
        run(["modifyrepo_c", "--mdtype=modules", modules, repository / "repodata"])
        modules.unlink()
        key.sign_detached(repository / "repodata" / "repomd.xml")
        key_file.write_bytes(key.public_key())
    comps.unlink()


def _replace(made: Path, out: Path) -> None:
    """Puts `made` in the place of `out`. Both lie in one file system."""
    if out.exists():
        out.rename(made.with_name("replaced"))
    made.rename(out)


#: Groups, so that `dnf install @core` can be tried.
_COMPS = """\
<?xml version="1.0" encoding="UTF-8"?>
<comps>
  <group>
    <id>core</id>
    <name>Core</name>
    <description>What an image of the set {name} boots with</description>
    <default>true</default>
    <uservisible>true</uservisible>
    <packagelist>
      <packagereq type="mandatory">image-base</packagereq>
      <packagereq type="optional">hello</packagereq>
    </packagelist>
  </group>
  <group>
    <id>greetings</id>
    <name>Greetings</name>
    <description>A small group</description>
    <packagelist>
      <packagereq type="mandatory">greeter</packagereq>
      <packagereq type="default">hello-weak</packagereq>
      <packagereq type="optional">conflict-a</packagereq>
    </packagelist>
  </group>
</comps>
"""

#: A module of two streams. A stream's packages are hidden until it is enabled.
_MODULE = """\
---
document: modulemd
version: 2
data:
  name: greeter
  stream: "{stream}"
  version: 1
  context: "00000001"
  arch: x86_64
  summary: Greeter {stream}
  description: Greeter {stream}
  license: {{module: [MIT]}}
  artifacts: {{rpms: ["greeter-0:{stream}.0-1.noarch"]}}
...
"""
