"""Which of the packages that apt found become RPMs, and what each of those requires.

apt's answer includes what Debian's maintainer scripts need. We do not run those scripts, so a
dependency on one of the SUPERSEDED packages counts as satisfied and pulls nothing in.
"""

import re
from collections.abc import Callable, Iterable, Mapping

from .apt import Stanza
from .command import Failure
from .relation import Relation

#: Debian packages that have no place in the repository, by reason.
SUPERSEDED = {
    "only maintainer scripts use it": (
        r"adduser|cdebconf|debconf(-2\.0)?|debianutils|dpkg|init-system-helpers|install-info"
        r"|lsb-base|perl(-base|-modules.*)?|libperl.*|runit-helper|sensible-utils"
        r"|sysvinit-utils|ucf|usr-is-merged|usrmerge"
    ),
    "bootnode makes the initramfs": r"initramfs-tools.*|linux-base|linux-initramfs-tool",
    "our filesystem, setup and testos-release stand in for it": r"base-files",
    "it holds documentation only": r"gcc-12-base",
}

_SUPERSEDED = re.compile("|".join(SUPERSEDED.values()))


def is_superseded(name: str) -> bool:
    """Whether the Debian package `name` is left out on purpose."""
    return _SUPERSEDED.fullmatch(name) is not None


def select(
    roots: Iterable[str], stanzas: Mapping[str, Stanza], follow: Callable[[str], bool]
) -> dict[str, list[Relation]]:
    """The packages to convert and the relations each requires, by name, sorted.

    Starts from `roots` and goes on to what they depend on, as far as `follow(name)` says that a
    dependency is wanted. Raises Failure when a wanted dependency has no provider.
    """
    virtual = _virtual_packages(stanzas.values())
    selected: dict[str, list[Relation]] = {}
    waiting = list(roots)
    while waiting:
        name = waiting.pop()
        if name in selected:
            continue
        if name not in stanzas:
            raise Failure(f"apt did not find the package {name}", hint="apt-get update")
        selected[name] = []
        for alternatives in stanzas[name].depends:
            if not all(follow(relation.name) for relation in alternatives):
                continue
            relation, provider = _provider(name, alternatives, stanzas, virtual)
            selected[name].append(relation)
            waiting.append(provider)
    return dict(sorted(selected.items()))


def _virtual_packages(stanzas: Iterable[Stanza]) -> dict[str, str]:
    """The first package that provides each virtual name."""
    virtual: dict[str, str] = {}
    for stanza in stanzas:
        for provided in stanza.provides:
            virtual.setdefault(provided.name, stanza.name)
    return virtual


def _provider(
    dependent: str,
    alternatives: list[Relation],
    stanzas: Mapping[str, Stanza],
    virtual: Mapping[str, str],
) -> tuple[Relation, str]:
    """The alternative that apt has chosen, and the package that satisfies it."""
    for relation in alternatives:
        if relation.name in stanzas:
            return relation, relation.name
        if relation.name in virtual:
            # Debian's virtual packages are rarely versioned; the name is enough.
            return Relation(relation.name), virtual[relation.name]
    names = " | ".join(relation.name for relation in alternatives)
    raise Failure(f"{dependent} depends on {names}, which apt did not choose")
