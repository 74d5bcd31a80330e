"""Debian versions and package relations, and what they are called in RPM.

Sources: Debian Policy 5.6.12 (versions) and 7.1 (relations); rpm-version(7) and rpm.org's
"Dependencies". Architecture and build-profile restrictions are left out: they occur in source
packages only.

Both worlds split a version into epoch, version and release and sort `~` before everything, so
most of it carries over. They differ in what an absent part means:

* RPM forbids `-` inside a version, Debian allows it when a revision follows: it becomes a `.`.
* A relation without a release is compared by version alone in RPM. Debian's `>> 2.36` accepts
  2.36-9, RPM's `> 2.36` does not, so it becomes `>=`.
"""

import re
from dataclasses import dataclass

from .command import Failure

_RELATION = re.compile(
    r"""
    (?P<name> [a-z0-9][a-z0-9+.-]+ )
    (?: : [a-z0-9-]+ )?                                   # :any, :amd64
    \s* (?: \( \s* (?P<operator> << | <= | = | >= | >> )
            \s* (?P<version> [^\s()]+ ) \s* \) )?
    """,
    re.VERBOSE,
)


class RelationError(Failure):
    """A relation field that Debian Policy does not allow."""


@dataclass(frozen=True)
class Version:
    """An RPM version: epoch, version, release. An empty part is an absent one."""

    epoch: str
    version: str
    release: str

    def __str__(self) -> str:
        epoch = f"{self.epoch}:" if self.epoch else ""
        release = f"-{self.release}" if self.release else ""
        return f"{epoch}{self.version}{release}"


@dataclass(frozen=True)
class Relation:
    """One package name with an optional bound, as Debian writes it."""

    name: str
    operator: str = ""
    version: str = ""

    def to_rpm(self, name: str | None = None) -> str:
        """The same relation as the value of an RPM `Requires:` or `Provides:` tag.

        `name` replaces the package's name where the RPM is called otherwise.
        """
        if not self.operator:
            return name or self.name
        version = parse_version(self.version)
        operator = {"<<": "<", ">>": ">" if version.release else ">="}.get(
            self.operator, self.operator
        )
        return f"{name or self.name} {operator} {version}"


def parse_version(text: str) -> Version:
    """Splits a Debian version `[epoch:]upstream[-revision]` into the parts of an RPM version."""
    epoch, _, rest = text.rpartition(":")
    upstream, dash, revision = rest.rpartition("-")
    if not dash:
        upstream, revision = rest, ""
    return Version(epoch, upstream.replace("-", "."), revision)


def parse_relation(text: str) -> Relation:
    """Parses one relation: `libc6 (>= 2.36)`. Raises RelationError."""
    match = _RELATION.fullmatch(text.strip())
    if match is None:
        raise RelationError(f"not a package relation: {text.strip()!r}")
    return Relation(match["name"], match["operator"] or "", match["version"] or "")


def parse_relations(field: str) -> list[list[Relation]]:
    """Parses a field such as `Depends`: all of a list of groups, any one of each group.

    An empty field, or an empty member left by a trailing comma, has no relations. Raises
    RelationError.
    """
    groups = (group for group in field.split(",") if group.strip())
    return [[parse_relation(text) for text in group.split("|")] for group in groups]
