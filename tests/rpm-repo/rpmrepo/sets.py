"""The two sets of packages, and the list of packages that each becomes."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .apt import Apt
from .base_packages import base_packages, image_base
from .closure import is_superseded, select
from .convert import convert_all, rpm_name
from .edge_packages import edge_packages
from .kernel import lay_out
from .maintainer import complete
from .package import Package

_KERNEL = "linux-image-cloud-amd64"

_TINY_MODULES = """
    virtio virtio_ring virtio_pci virtio_pci_legacy_dev virtio_pci_modern_dev
    virtio_net net_failover failover virtio_blk overlay squashfs loop
""".split()


@dataclass(frozen=True)
class PackageSet:
    """What a set is made of."""

    name: str
    #: The Debian packages that `image-base` requires.
    roots: tuple[str, ...]
    #: Dependencies that the roots stand in for.
    stands_in_for: frozenset[str]
    login_shell: str
    #: The kernel modules to keep, None for all.
    modules: tuple[str, ...] | None


TINY = PackageSet(
    "tiny",
    roots=("busybox-static", _KERNEL),
    stands_in_for=frozenset({"kmod"}),
    login_shell="/bin/sh",
    modules=tuple(_TINY_MODULES),
)

FULL = PackageSet(
    "full",
    roots=(
        *("bash", "coreutils", "dash", "diffutils", "findutils", "grep", "gzip", "hostname"),
        *("mawk", "ncurses-base", "procps", "sed", "tar", "util-linux", "xz-utils"),
        *("login", "mount", "passwd", "kmod", "libc-bin", "libpam-systemd"),
        *("systemd", "systemd-sysv", "udev", "dbus"),
        *("chrony", "iproute2", "iputils-ping", "openssh-client", "openssh-server"),
        _KERNEL,
    ),
    stands_in_for=frozenset(),
    login_shell="/bin/bash",
    modules=None,
)

SETS = {each.name: each for each in (TINY, FULL)}


def packages_of(chosen: PackageSet, cache: Path, report: Callable[[str], None]) -> list[Package]:
    """Downloads and converts the Debian packages of the set and adds our own.

    `cache` keeps the downloads; `report` is told each step. Raises Failure.
    """

    def follow(name: str) -> bool:
        return not is_superseded(name) and name not in chosen.stands_in_for

    apt = Apt(cache)
    stanzas = {stanza.name: stanza for stanza in apt.resolve(chosen.roots)}
    selection = select(chosen.roots, stanzas, follow)
    report(f"apt: {len(selection)} of {len(stanzas)} Debian packages wanted")
    files = apt.download([stanzas[name] for name in selection])
    report(f"downloaded to {cache}")
    converted = convert_all(selection, stanzas, files)
    complete(converted)
    lay_out(converted["kernel-core"], chosen.modules)
    report(f"converted {len(converted)} packages")
    meta = image_base(["testos-release", *(rpm_name(root) for root in chosen.roots)])
    return [*base_packages(chosen.login_shell), *converted.values(), meta, *edge_packages()]
