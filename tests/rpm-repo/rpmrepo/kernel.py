"""Gives Debian's kernel package the layout and the dependencies of Fedora's and EL's.

There `kernel-core` keeps the kernel as /lib/modules/RELEASE/vmlinuz and a scriptlet copies it to
/boot. Here both are names of one file. The metapackage `kernel` requires `kernel-core`.
"""

import re
from collections.abc import Collection
from pathlib import PurePosixPath

from .command import Failure
from .package import Entry, Kind, Package, Scriptlet, hard_link, without_empty_directories

_MODULES = re.compile(r"/usr/lib/modules/(?P<release>[^/]+)/kernel/.*")


def kernel_release(package: Package) -> str:
    """The release (`uname -r`) that the package's modules are for. Raises Failure."""
    for entry in package.entries:
        match = _MODULES.match(entry.path)
        if match:
            return match["release"]
    raise Failure(f"{package.name} has no /lib/modules/RELEASE/kernel")


def lay_out(package: Package, modules: Collection[str] | None) -> None:
    """Changes the converted package to EL's layout.

    `modules` are the names (without .ko) of the modules to keep, None keeps all. Raises Failure
    when the package has none of that name.
    """
    release = kernel_release(package)
    if modules is not None:
        _keep_modules(package, modules)
    for name in ("vmlinuz", "config", "System.map"):
        booted = package.entry(f"/boot/{name}-{release}")
        package.add(hard_link(f"/usr/lib/modules/{release}/{name}", booted))
    package.requires.append("/usr/sbin/depmod")
    package.provides.append("installonlypkg(kernel)")
    package.scriptlets.append(Scriptlet("posttrans", f"/usr/sbin/depmod -a {release}"))


def _keep_modules(package: Package, modules: Collection[str]) -> None:
    present = {_module_name(entry) for entry in package.entries}
    missing = sorted(set(modules) - present)
    if missing:
        raise Failure(f"{package.name} has no module {', '.join(missing)}")
    kept = [
        entry
        for entry in package.entries
        if _module_name(entry) is None or _module_name(entry) in modules
    ]
    package.entries = without_empty_directories(kept, "/usr/lib/modules/")


def _module_name(entry: Entry) -> str | None:
    """The name of the module that the entry is, None for any other entry."""
    path = PurePosixPath(entry.path)
    is_module = entry.kind is Kind.FILE and path.suffix == ".ko"
    return path.stem if is_module else None
