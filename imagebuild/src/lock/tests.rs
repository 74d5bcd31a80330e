//! The lock file and what it is compared with.

use std::collections::BTreeSet;
use std::path::Path;

use bootspec::Sha256Digest;
use bootspec::diagnosis::explain;
use proptest::prelude::*;

use super::*;
use crate::recipe;

fn pinned(name: &str, version: &str) -> Pinned {
    Pinned {
        name: name.into(),
        version: version.into(),
        architecture: "amd64".into(),
        sha256: Sha256Digest::new([7; 32]),
        size_bytes: 1_491_068,
        url: format!("http://deb.debian.org/{name}_{version}_amd64.deb"),
        priority: None,
    }
}

fn lock(packages: &[Pinned]) -> Lock {
    Lock { selection: Selection::default(), packages: packages.to_vec() }
}

/// The recipe that `text` is, below a line with its name.
fn recipe(text: &str) -> Recipe {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("recipe.toml");
    std::fs::write(&path, format!("name = 'compute'\n{text}")).unwrap();
    Recipe::read(&path, &recipe::Selection::default()).unwrap()
}

const SOURCE: &str = "[source]\ntype = 'mmdebstrap'\nsuite = 'bookworm'\n";

#[test]
fn a_lock_reads_like_this() {
    let recipe = recipe(&format!("packages = ['vim', 'ssh']\n{SOURCE}"));
    let bash = Pinned { priority: Some("required".into()), ..pinned("bash", "5.2.15-2+b7") };
    let lock = Lock { selection: Selection::of(&recipe), packages: vec![bash] };
    let machine = rustix::system::uname().machine().to_string_lossy().into_owned();
    let expected = format!(
        r#"# The packages of an image, pinned. Made by `imagebuild lock`; `imagebuild build --locked` installs these alone.
format = 1

[selection]
architecture = ["{machine}"]
"kernel.package" = []
packages = ["ssh", "vim"]
"source.components" = []
"source.mirrors" = []
"source.suite" = ["bookworm"]
"source.type" = ["mmdebstrap"]
"source.variant" = ["minbase"]

[[package]]
name = "bash"
version = "5.2.15-2+b7"
architecture = "amd64"
sha256 = "{}"
size_bytes = 1491068
url = "http://deb.debian.org/bash_5.2.15-2+b7_amd64.deb"
priority = "required"
"#,
        "07".repeat(32)
    );
    assert_eq!(lock.to_toml(), expected);
    assert_eq!(Lock::parse(&expected).unwrap(), lock);
}

#[test]
fn files_that_are_no_locks_are_refused() {
    let check = |text: &str, expected: &str| {
        let error = explain(&Lock::parse(text).unwrap_err());
        assert!(error.contains(expected), "{error}");
    };
    check("", "missing field `format`");
    check("format = 2\nnew = 1", "format 2, and this imagebuild reads format 1");
    check("format = 1\n[selection]\n[more]", "unknown field `more`");
    let with = |package: Pinned| lock(&[package]).to_toml();
    check(&with(pinned("../bash", "1")), "'../bash': expected name");
    check(&with(pinned("bash", "-1")), "'bash': expected name");
    check(&with(Pinned { url: "scp://h/x".into(), ..pinned("bash", "1") }), "expected a URL");
    check(&with(Pinned { url: "http://h/\n x".into(), ..pinned("bash", "1") }), "expected a URL");
    let bash = pinned("bash", "1");
    check(&lock(&[bash.clone(), bash.clone()]).to_toml(), "'bash' is not in its place");
    check(&lock(&[pinned("vim", "1"), bash]).to_toml(), "'bash' is not in its place");
}

#[test]
fn a_lock_file_is_written_whole_and_read_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("recipe.lock");
    assert!(Lock::read(&path).unwrap().is_none());
    let error = Lock::open(&path).unwrap_err().to_string();
    assert!(error.contains("recipe.lock\nhint: `imagebuild lock`"), "{error}");
    let lock = lock(&[pinned("bash", "1")]);
    lock.write(&path).unwrap();
    lock.write(&path).unwrap();
    assert_eq!(Lock::open(&path).unwrap(), lock);
    assert_eq!(dir.path().read_dir().unwrap().count(), 1);
}

#[test]
fn a_variant_has_a_lock_of_its_own() {
    let check = |variants: &[&str], expected| {
        let variants: Vec<_> = variants.iter().map(|variant| (*variant).to_owned()).collect();
        assert_eq!(default_path(Path::new("/r/recipe.toml"), &variants), Path::new(expected));
    };
    check(&[], "/r/recipe.lock");
    check(&["gpu"], "/r/recipe.gpu.lock");
    check(&["gpu", "lab1"], "/r/recipe.gpu.lab1.lock");
}

#[test]
fn what_differs_from_the_recipe_is_named() {
    let locked = Lock {
        selection: Selection::of(&recipe(&format!("packages = ['vim', 'ssh']\n{SOURCE}"))),
        packages: vec![],
    };
    locked
        .check(&recipe(&format!("packages = ['ssh', 'vim', 'ssh']\n{SOURCE}[services]\nmask = ['x']")))
        .unwrap();
    let other = recipe(
        "packages = ['ssh', 'nano']\n[source]\ntype = 'mmdebstrap'\nsuite = 'trixie'\n[kernel]\npackage = 'linux'",
    );
    let error = locked.check(&other).unwrap_err().to_string();
    for line in [
        "of packages than compute has now:\n",
        "  kernel.package: only the recipe has linux\n",
        "  packages: only the recipe has nano; only the lock has vim\n",
        "  source.suite: only the recipe has trixie; only the lock has bookworm\n",
        "hint: `imagebuild lock`",
    ] {
        assert!(error.contains(line), "{error}");
    }
    let dnf = "[source]\ntype = 'dnf'\nreleasever = '9'\n[[source.repository]]\nname = 'a'\nbaseurl = 'file:///a'\ngpgcheck = false\n";
    let error = locked.check(&recipe(dnf)).unwrap_err().to_string();
    assert!(error.contains("  source.repository: only the recipe has a: baseurl file:///a\n"), "{error}");
}

#[test]
fn changes_are_versions_and_files_of_the_same_version() {
    let old = lock(&[pinned("bash", "1"), pinned("kernel", "1"), pinned("vim", "9")]);
    let rebuilt = Pinned { sha256: Sha256Digest::new([8; 32]), ..pinned("vim", "9") };
    let moved = Pinned { url: "http://elsewhere/".into(), ..pinned("bash", "1") };
    let new = lock(&[moved, pinned("kernel", "1"), pinned("kernel", "2"), rebuilt]);
    let changes: BTreeSet<_> = old
        .changes(&new)
        .into_iter()
        .map(|change| (change.what, change.before.unwrap_or_default(), change.after.unwrap_or_default()))
        .collect();
    let vim = |digit: &str| format!("9 (SHA-256 {}…)", digit.repeat(6));
    let expected = [
        ("kernel.amd64".to_owned(), "1".to_owned(), "1, 2".to_owned()),
        ("vim.amd64".to_owned(), vim("07"), vim("08")),
    ];
    assert_eq!(changes, expected.into());
}

fn any_lock() -> impl Strategy<Value = Lock> {
    let package =
        ("[a-z0-9][a-z0-9+.-]{0,8}", "[0-9]:?[a-zA-Z0-9.~+-]{0,8}", any::<[u8; 32]>(), 0..1u64 << 40);
    let package = (package, proptest::option::of("[a-z]{1,8}")).prop_map(
        |((name, version, sha256, size_bytes), priority)| Pinned {
            sha256: Sha256Digest::new(sha256),
            size_bytes,
            priority,
            ..pinned(&name, &version)
        },
    );
    proptest::collection::btree_map("[a-z0-9.]{1,4}", package, 0..5).prop_map(|packages| {
        let mut packages: Vec<_> = packages.into_values().collect();
        packages.sort_by(|a, b| file::key(a).cmp(&file::key(b)));
        packages.dedup_by(|a, b| file::key(a) == file::key(b));
        lock(&packages)
    })
}

proptest! {
    #[test]
    fn a_lock_is_read_as_it_was_written(lock in any_lock()) {
        prop_assert_eq!(Lock::parse(&lock.to_toml()).unwrap(), lock);
    }

    #[test]
    fn no_text_makes_the_parser_panic(at: prop::sample::Index, with in "\\PC{0,4}", lock in any_lock()) {
        let mut text = lock.to_toml();
        let at = at.index(text.len());
        if text.is_char_boundary(at) {
            text.replace_range(at..at, &with);
            if let Ok(lock) = Lock::parse(&text) {
                prop_assert_eq!(Lock::parse(&lock.to_toml()).unwrap(), lock);
            }
        }
    }
}
