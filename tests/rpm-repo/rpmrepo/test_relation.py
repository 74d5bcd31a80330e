"""Tests of Debian's relations and versions, and their RPM forms."""

import unittest

from .relation import (
    Relation,
    RelationError,
    Version,
    parse_relation,
    parse_relations,
    parse_version,
)


class DebianVersionsBecomeRpmVersions(unittest.TestCase):
    def test_parts_are_split_where_policy_says(self) -> None:
        cases = {
            "2.36-9+deb12u14": Version("", "2.36", "9+deb12u14"),
            "1:1.35.0-4": Version("1", "1.35.0", "4"),
            "12.4+deb12u15": Version("", "12.4+deb12u15", ""),
            "0~20171227-0.3": Version("", "0~20171227", "0.3"),
            "2:1.0-rc1-3": Version("2", "1.0.rc1", "3"),
        }
        for text, expected in cases.items():
            with self.subTest(text):
                self.assertEqual(parse_version(text), expected)

    def test_absent_parts_are_not_printed(self) -> None:
        self.assertEqual(str(Version("", "1.0", "")), "1.0")
        self.assertEqual(str(Version("1", "1.0", "2")), "1:1.0-2")


class RelationsAreParsed(unittest.TestCase):
    def test_all_of_the_groups_and_any_of_each(self) -> None:
        self.assertEqual(
            parse_relations("libc6 (>= 2.36), dbus-broker | dbus (<< 2),"),
            [
                [Relation("libc6", ">=", "2.36")],
                [Relation("dbus-broker"), Relation("dbus", "<<", "2")],
            ],
        )

    def test_spaces_and_architecture_qualifiers_do_not_matter(self) -> None:
        for text in ("python3:any(>=3.9)", " python3 ( >= 3.9 ) ", "python3:amd64 (>= 3.9)"):
            with self.subTest(text):
                self.assertEqual(parse_relation(text), Relation("python3", ">=", "3.9"))

    def test_an_empty_field_has_no_relations(self) -> None:
        self.assertEqual(parse_relations(""), [])
        self.assertEqual(parse_relations(" \n"), [])

    def test_nonsense_is_refused_with_its_text(self) -> None:
        for text in ("", "a b", "libc6 (2.36)", "libc6 (>= )", "libc6 (> 1)", "Ünicode"):
            with (
                self.subTest(text),
                self.assertRaisesRegex(RelationError, "not a package relation"),
            ):
                parse_relation(text)


class RelationsBecomeRpmDependencies(unittest.TestCase):
    def test_operators_keep_their_meaning(self) -> None:
        cases = {
            "hello": "hello",
            "hello (= 1:1.0-2)": "hello = 1:1.0-2",
            "hello (<< 2.0-1)": "hello < 2.0-1",
            "hello (<= 2.0)": "hello <= 2.0",
            "hello (>> 2.0-1)": "hello > 2.0-1",
        }
        for text, expected in cases.items():
            with self.subTest(text):
                self.assertEqual(parse_relation(text).to_rpm(), expected)

    def test_later_than_a_bare_version_accepts_its_releases(self) -> None:
        self.assertEqual(parse_relation("hello (>> 2.36)").to_rpm(), "hello >= 2.36")

    def test_the_rpm_name_can_differ(self) -> None:
        self.assertEqual(parse_relation("busybox-static (>= 1)").to_rpm("busybox"), "busybox >= 1")


if __name__ == "__main__":
    unittest.main()
