"""Tests of the way from apt's stanzas to the selection, and of single packages."""

import unittest

from .apt import Stanza, parse_stanzas
from .closure import is_superseded, select
from .command import Failure
from .convert import convert, rpm_name
from .deb import canonical, is_left_out
from .package import directory, text_file
from .relation import Relation, parse_relations

_SHOWN = """\
Package: shell
Version: 1:2.0-1
Architecture: amd64
Pre-Depends: libc (>= 2.36)
Depends: debconf (>= 0.5) | debconf-2.0, pager
Provides: sh (= 2)
Size: 1200
Description-en: a shell
 that goes on

Package: libc
Version: 2.36-9
Architecture: amd64
Size: 3400
Description: a library
"""


def _stanza(name: str, depends: str = "", provides: str = "") -> Stanza:
    provided = [group[0] for group in parse_relations(provides)]
    return Stanza(name, "1.0-1", "amd64", name, 0, parse_relations(depends), provided)


def _selected(*stanzas: Stanza, root: str) -> dict[str, list[Relation]]:
    by_name = {stanza.name: stanza for stanza in stanzas}
    return select([root], by_name, lambda name: not is_superseded(name))


class StanzasAreParsed(unittest.TestCase):
    def test_both_dependency_fields_count(self) -> None:
        shell, libc = parse_stanzas(_SHOWN)
        self.assertEqual([group[0].name for group in shell.depends], ["libc", "debconf", "pager"])
        self.assertEqual(shell.provides, [Relation("sh", "=", "2")])
        self.assertEqual((shell.summary, libc.summary), ("a shell", "a library"))

    def test_the_file_name_escapes_the_epoch(self) -> None:
        self.assertEqual(parse_stanzas(_SHOWN)[0].file_name, "shell_1%3a2.0-1_amd64.deb")


class DependenciesAreFollowed(unittest.TestCase):
    def test_what_only_maintainer_scripts_need_is_left_out(self) -> None:
        root = _stanza("root", "debconf (>= 0.5) | debconf-2.0, lib")
        found = _selected(root, _stanza("lib"), _stanza("debconf"), root="root")
        self.assertEqual(found, {"lib": [], "root": [Relation("lib")]})

    def test_a_virtual_package_leads_to_its_provider(self) -> None:
        root = _stanza("root", "editor | awk")
        found = _selected(root, _stanza("mawk", provides="awk"), root="root")
        self.assertEqual(found, {"mawk": [], "root": [Relation("awk")]})

    def test_circles_end(self) -> None:
        found = _selected(_stanza("egg", "hen"), _stanza("hen", "egg"), root="egg")
        self.assertEqual(list(found), ["egg", "hen"])

    def test_a_dependency_without_provider_is_named(self) -> None:
        with self.assertRaisesRegex(Failure, r"root depends on one \| two"):
            _selected(_stanza("root", "one | two"), root="root")

    def test_libraries_named_like_superseded_packages_stay(self) -> None:
        cases = {
            "perl-base": True,
            "libperl5.36": True,
            "dpkg": True,
            "dpkg-dev": False,
            "libc6": False,
        }
        for name, expected in cases.items():
            with self.subTest(name):
                self.assertEqual(is_superseded(name), expected)


class PackagesAreConverted(unittest.TestCase):
    def test_kernel_and_busybox_get_the_names_of_el(self) -> None:
        self.assertEqual(rpm_name("linux-image-6.1.0-56-cloud-amd64"), "kernel-core")
        self.assertEqual(rpm_name("linux-image-cloud-amd64"), "kernel")
        self.assertEqual(rpm_name("busybox-static"), "busybox")
        self.assertEqual(rpm_name("bash"), "bash")

    def test_directories_of_filesystem_stay_with_it(self) -> None:
        entries = [directory("/usr/bin"), text_file("/usr/bin/sh", ""), directory("/etc/sh")]
        package = convert(_stanza("sh"), [], entries)
        self.assertEqual([entry.path for entry in package.entries], ["/usr/bin/sh", "/etc/sh"])

    def test_a_native_package_gets_a_release(self) -> None:
        stanza = Stanza("tool", "1.2", "all", "tool", 0, [], [])
        package = convert(stanza, [], [])
        self.assertEqual((str(package.version), package.noarch), ("1.2-0", True))

    def test_paths_follow_the_merged_usr(self) -> None:
        cases = {
            "./": "/",
            "./bin/sh": "/usr/bin/sh",
            "./lib64/ld.so": "/usr/lib64/ld.so",
            "./sbin": "/usr/sbin",
            "./usr/lib/x": "/usr/lib/x",
            "./libexec/x": "/libexec/x",
            "./etc/.hidden": "/etc/.hidden",
        }
        for member, expected in cases.items():
            with self.subTest(member):
                self.assertEqual(canonical(member), expected)

    def test_documentation_is_left_out_as_a_whole(self) -> None:
        cases = {
            "/usr/share/doc": True,
            "/usr/share/man/man1/ls.1.gz": True,
            "/usr/share/docbook": False,
            "/etc/init.d/ssh": True,
            "/etc/issue": True,
            "/etc/issuer": False,
        }
        for path, expected in cases.items():
            with self.subTest(path):
                self.assertEqual(is_left_out(path), expected)


if __name__ == "__main__":
    unittest.main()
