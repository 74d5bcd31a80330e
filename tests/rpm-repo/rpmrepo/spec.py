"""Writes packages as one RPM spec file: a main package that is never built, and a subpackage each.

Source: the spec file documentation of RPM 4.18. One run of rpmbuild for all packages is many
times faster than one run each; `batches` sees to packages that one spec cannot hold together.
"""

from collections.abc import Iterable, Sequence

from .package import Entry, Kind, Package, Scriptlet

#: Settings of rpmbuild that keep it from changing, scanning or refusing what we package.
_PREAMBLE = """\
%global debug_package %{nil}
%global __os_install_post %{nil}
%global _build_id_links none
%global _binary_payload w3.zstdio
%global _buildhost localhost
%global _binaries_in_noarch_packages_terminate_build 0
%global _unpackaged_files_terminate_build 0
%global use_source_date_epoch_as_buildtime 1

Name: test-repository
Version: 1
Release: 1
Summary: Holds the subpackages, is not built itself
License: See each package

%description
%{summary}.
"""

_FIELDS = {
    "Requires": "requires",
    "Provides": "provides",
    "Recommends": "recommends",
    "Conflicts": "conflicts",
}


def batches(packages: Iterable[Package]) -> list[list[Package]]:
    """Splits the packages so that no name occurs twice in a batch, in as few as that takes."""
    result: list[list[Package]] = []
    for package in packages:
        for batch in result:
            if all(other.name != package.name for other in batch):
                batch.append(package)
                break
        else:
            result.append([package])
    return result


def render(packages: Sequence[Package]) -> str:
    """The spec file of a batch of packages."""
    return "\n".join([_PREAMBLE, *(_subpackage(package) for package in packages)])


def _subpackage(package: Package) -> str:
    lines = [
        f"%package -n {package.name}",
        f"Summary: {_literal(package.summary)}",
        *([f"Epoch: {package.version.epoch}"] if package.version.epoch else []),
        f"Version: {package.version.version}",
        f"Release: {package.version.release}",
        *(["BuildArch: noarch"] if package.noarch else []),
        "AutoReqProv: no",
    ]
    for tag, attribute in _FIELDS.items():
        lines += [f"{tag}: {value}" for value in getattr(package, attribute)]
    lines += ["", f"%description -n {package.name}", _literal(package.summary), ""]
    for scriptlet in package.scriptlets:
        lines += [_scriptlet(package.name, scriptlet), ""]
    lines += [f"%files -n {package.name}", *map(file_line, package.entries), ""]
    return "\n".join(lines)


def _scriptlet(name: str, scriptlet: Scriptlet) -> str:
    prefixes = f" -- {' '.join(scriptlet.on)}" if scriptlet.on else ""
    return f"%{scriptlet.when} -n {name}{prefixes}\n{_literal(scriptlet.body)}"


def file_line(entry: Entry) -> str:
    """The line of an entry in %files: directives, then the quoted path."""
    mode = "-" if entry.kind is Kind.SYMLINK else f"{entry.mode:04o}"
    directives = [f"%attr({mode},{entry.user},{entry.group})"]
    if entry.kind is Kind.DIRECTORY:
        directives.append("%dir")
    if entry.kind is Kind.GHOST:
        directives.append("%ghost")
    if entry.kind is Kind.DEVICE:
        kind, major, minor = entry.device
        directives.append(f"%dev({kind},{major},{minor})")
    if entry.config:
        directives.append("%config(noreplace)")
    if entry.capabilities:
        directives.append(f"%caps({entry.capabilities})")
    return f'{" ".join(directives)} "{_literal(entry.path)}"'


def _literal(text: str) -> str:
    """Text that rpm's macro expansion leaves alone."""
    return text.replace("%", "%%")
