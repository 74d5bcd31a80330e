"""Tests of the way from packages to the spec file and the build root."""

import os
import unittest
from pathlib import Path
from tempfile import TemporaryDirectory

from .command import Failure
from .kernel import lay_out
from .package import (
    Entry,
    Kind,
    Package,
    Scriptlet,
    directory,
    hard_link,
    symlink,
    text_file,
)
from .relation import Version
from .rpmbuild import stage
from .spec import batches, file_line, render

_ONE = Version("", "1.0", "1")


class SpecsAreRendered(unittest.TestCase):
    def test_each_kind_of_entry_has_its_directives(self) -> None:
        shared = text_file("/a", "", mode=0o4755)
        cases = [
            (shared, '%attr(4755,root,root) "/a"'),
            (hard_link("/b", shared), '%attr(4755,root,root) "/b"'),
            (directory("/d", 0o1777), '%attr(1777,root,root) %dir "/d"'),
            (symlink("/l", "a"), '%attr(-,root,root) "/l"'),
            (
                Entry("/n", Kind.DEVICE, device=("b", 7, 0)),
                '%attr(0644,root,root) %dev(b,7,0) "/n"',
            ),
            (Entry("/g", Kind.GHOST), '%attr(0644,root,root) %ghost "/g"'),
            (Entry("/c", config=True), '%attr(0644,root,root) %config(noreplace) "/c"'),
            (
                Entry("/p", capabilities="cap_net_raw=ep"),
                '%attr(0644,root,root) %caps(cap_net_raw=ep) "/p"',
            ),
            (Entry("/100%e", user="daemon"), '%attr(0644,daemon,root) "/100%%e"'),
        ]
        for entry, expected in cases:
            with self.subTest(entry.path):
                self.assertEqual(file_line(entry), expected)

    def test_macros_in_texts_are_not_expanded(self) -> None:
        package = Package("p", _ONE, "100 %", scriptlets=[Scriptlet("post", "date +%s", on=())])
        spec = render([package])
        self.assertIn("Summary: 100 %%\n", spec)
        self.assertIn("%post -n p\ndate +%%s\n", spec)

    def test_a_file_trigger_names_its_prefixes(self) -> None:
        trigger = Scriptlet("transfiletriggerin", "ldconfig", on=("/usr/lib", "/usr/lib64"))
        spec = render([Package("p", _ONE, scriptlets=[trigger])])
        self.assertIn("%transfiletriggerin -n p -- /usr/lib /usr/lib64\nldconfig\n", spec)

    def test_two_versions_of_a_package_go_into_two_specs(self) -> None:
        old, new, other = (Package(name, _ONE) for name in ("hello", "hello", "other"))
        self.assertEqual(batches([old, new, other]), [[old, other], [new]])


class EntriesAreStaged(unittest.TestCase):
    def test_links_times_and_contents_arrive(self) -> None:
        shared = text_file("/d/file", "text")
        entries = [hard_link("/d/again", shared), directory("/d"), shared, symlink("/s", "d/file")]
        with TemporaryDirectory() as folder:
            root = Path(folder)
            stage(entries, root)
            self.assertEqual((root / "d/again").read_text(), "text")
            self.assertTrue((root / "d/again").samefile(root / "d/file"))
            self.assertEqual(os.readlink(root / "s"), "d/file")
            self.assertEqual((root / "d").stat().st_mtime, shared.mtime)


class KernelsAreLaidOut(unittest.TestCase):
    def setUp(self) -> None:
        modules = "/usr/lib/modules/6.1-x"
        self.package = Package("kernel-core", _ONE)
        self.package.add(
            *(
                text_file(f"/boot/{name}-6.1-x", name)
                for name in ("vmlinuz", "config", "System.map")
            ),
            directory(f"{modules}/kernel/net"),
            text_file(f"{modules}/kernel/net/failover.ko", ""),
            directory(f"{modules}/kernel/sound"),
            text_file(f"{modules}/kernel/sound/beep.ko", ""),
        )

    def test_the_kernel_lies_beside_its_modules(self) -> None:
        lay_out(self.package, None)
        self.assertEqual(
            self.package.entry("/usr/lib/modules/6.1-x/vmlinuz").target, "/boot/vmlinuz-6.1-x"
        )
        self.assertEqual(
            self.package.scriptlets, [Scriptlet("posttrans", "/usr/sbin/depmod -a 6.1-x")]
        )

    def test_modules_left_out_take_their_directories_along(self) -> None:
        lay_out(self.package, ["failover"])
        paths = [entry.path for entry in self.package.entries]
        self.assertIn("/usr/lib/modules/6.1-x/kernel/net/failover.ko", paths)
        self.assertFalse([path for path in paths if "sound" in path])

    def test_a_module_that_is_not_there_is_named(self) -> None:
        with self.assertRaisesRegex(Failure, "has no module virtio_net"):
            lay_out(self.package, ["failover", "virtio_net"])


if __name__ == "__main__":
    unittest.main()
