//! What a recipe may say, and what is said of one that is wrong.

use super::super::Selection;
use super::super::layers::Layers;
use super::*;
use proptest::prelude::*;

const MINIMAL: &str = "name = 'compute'\n[source]\ntype = 'mmdebstrap'\nsuite = 'bookworm'\n";

fn parse(text: &str) -> Result<Recipe, RecipeError> {
    let layers = Layers::of("/recipes/compute/recipe.toml".into(), text.to_owned(), &[])?;
    Recipe::check(&Effective::of(&layers, &Selection::default())?)
}

/// Parses the minimal recipe followed by `rest`, and returns the whole chain of the error.
fn check_rejected(rest: &str, expected: &str) {
    let checked = parse(&format!("{MINIMAL}{rest}")).and_then(|recipe| recipe.require_files());
    let error = checked.unwrap_err();
    let source = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
    let message = format!("{error}: {source}");
    assert!(message.contains(expected), "{rest:?} gave {message}");
}

#[test]
fn a_minimal_recipe_gets_the_documented_defaults() {
    let recipe = parse(MINIMAL).unwrap();
    let Source::Mmdebstrap(source) = &recipe.source else { panic!("{:?}", recipe.source) };
    assert_eq!((source.variant.as_str(), source.mirrors.len()), ("minbase", 0));
    let expected =
        CompressionSpec { format: Compression::Xz, level: 6, x86_filter: true, chunk_bytes: 20 << 20 };
    assert_eq!(recipe.compression, expected);
}

#[test]
fn unknown_keys_are_named_with_their_line_and_column() {
    check_rejected("colour = 'red'", "line 5, column 1");
    check_rejected("[kernel]\narg = []", "unknown field `arg`");
    check_rejected("releasever = '9'", "unknown field `releasever`");
    check_rejected("[[file]]\npath = '/etc/motd'\nperm = '0644'", "line 7, column 1");
}

#[test]
fn values_that_cannot_be_right_are_rejected_with_their_key() {
    check_rejected(
        "[[file]]\npath = '/etc/motd'",
        "file[0]: expected exactly one of content, from and symlink",
    );
    check_rejected("[[file]]\npath = 'etc/motd'\ncontent = ''", "file[0].path");
    check_rejected("[[file]]\npath = '/etc/../../motd'\ncontent = ''", "without '..'");
    check_rejected("[[file]]\npath = '/etc/motd'\ncontent = ''\nmode = '999'", "octal");
    check_rejected("[[file]]\npath = '/etc/motd'\nfrom = 'absent'", "cannot read /recipes/compute/absent");
    check_rejected("[[user]]\nname = 'Root'", "user[0].name");
    check_rejected("[services]\nenable = ['--now']", "services.enable[0]");
    check_rejected("[kernel]\nargs = ['a b']", "kernel.args[0]");
    check_rejected("[kernel]\nargs = ['x=${ip}']", "kernel.args[0]");
    check_rejected("[compression]\nlevel = 10", "expected 0 to 9");
    check_rejected("[compression]\nchunk = '1Q'", "not a size");
    check_rejected("[compression]\nchunk = '1K'", "64K to 1G");
    check_rejected("[[script]]\nname = 'x'", "script[0]: expected exactly one of run and path");
}

#[test]
fn a_password_in_clear_is_refused_without_being_shown() {
    let text = format!("{MINIMAL}[[user]]\nname = 'root'\npassword_hash = 'hunter2'");
    let message = parse(&text).unwrap_err().to_string();
    assert!(message.contains("password_hash") && !message.contains("hunter2"), "{message}");
}

#[test]
fn signatures_are_checked_unless_the_recipe_says_no() {
    let dnf = |rest: &str| {
        parse(&format!(
            "name = 'el'\n[source]\ntype = 'dnf'\nreleasever = '9'\n\
             [[source.repository]]\nname = 'base'\nbaseurl = 'file:///repo'\n{rest}"
        ))
    };
    assert!(dnf("").unwrap_err().to_string().contains("gpgkeys is empty"));
    let Source::Dnf(source) = dnf("gpgkeys = ['https://h/key']").unwrap().source else { panic!("not dnf") };
    assert!(source.repositories[0].gpgcheck && !source.weak_deps);
    dnf("gpgcheck = false").unwrap();
}

#[test]
fn numbers_of_users_and_groups_are_their_own() {
    let ok = "[[group]]\nname = 'hpc'\ngid = 4000\nsystem = true\n\
              [[user]]\nname = 'a'\nuid = 4000\ngroup = 'hpc'\n[[user]]\nname = 'b'\ngid = 4000\n";
    let recipe = parse(&format!("{MINIMAL}{ok}")).unwrap();
    let groups: Vec<_> = recipe.users.iter().map(|user| user.group.as_deref()).collect();
    assert_eq!((recipe.groups[0].gid, &groups[..]), (Some(4000), &[Some("hpc"), Some("4000")][..]));
    let again = "[[user]]\nname = 'c'\nuid = 4000";
    check_rejected(&format!("{ok}{again}"), "user[2].uid: 4000 is that of the user 'a' too");
    let again = "[[group]]\nname = 'c'\ngid = 4000";
    check_rejected(&format!("{ok}{again}"), "group[1].gid: 4000 is that of the group 'hpc' too");
    check_rejected("[[user]]\nname = 'a'\ngid = 1\ngroup = 'x'", "only one of gid and group");
    check_rejected("[[group]]\nname = 'A'", "group[0].name");
}

#[test]
fn what_dnf_is_told_besides_packages_is_checked() {
    let dnf = |keys: &str| {
        parse(&format!(
            "name = 'el'\n[source]\ntype = 'dnf'\nreleasever = '9'\n{keys}\n\
             [[source.repository]]\nname = 'base'\nbaseurl = 'file:///repo'\ngpgcheck = false\n"
        ))
    };
    dnf("modules = ['nodejs:20', 'perl:5.32']\ngroups = ['core', '^minimal-environment']\nvars.stream = '9-x'")
        .unwrap();
    for (keys, expected) in [
        ("modules = ['nodejs']", "source.modules[0]: found 'nodejs', expected a module and its stream"),
        ("modules = ['nodejs:20/common']", "such as nodejs:20"),
        ("groups = ['@core']", "source.groups[0]: found '@core', expected the id of a group without '@'"),
        ("vars.'$stream' = '9'", "without '$'"),
        ("vars.stream = \"a\\nb\"", "expected one line"),
        ("proxy = 'cache:3128'", "'cache:3128' is not a proxy"),
    ] {
        let error = dnf(keys).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn a_busybox_source_has_a_kernel_and_nothing_else() {
    let text = "name = 'failsafe'\n[source]\ntype = 'busybox'\n";
    assert!(parse(text).unwrap_err().to_string().contains("source.from"));
    let text = format!("{text}[source.from]\ntype = 'mmdebstrap'\nsuite = 'bookworm'\n");
    assert!(parse(&text).unwrap_err().to_string().contains("kernel.package"));
    let text = format!("{text}[kernel]\npackage = 'linux-image-cloud-amd64'\n");
    assert_eq!(parse(&text).unwrap().mode(), bootspec::manifest::BootMode::Failsafe);
    for (section, key) in [
        ("[boot]\nmode = 'carried'", "boot.mode"),
        ("[boot]\nroot = 'tmpfs'", "boot.root"),
        ("[initramfs]\nmodules = []", "initramfs.modules"),
    ] {
        let error = parse(&format!("{text}{section}\n")).unwrap_err().to_string();
        assert!(error.contains(key), "{error}");
    }
    let text = format!("packages = ['vim']\n{text}");
    assert!(parse(&text).unwrap_err().to_string().contains("packages"));
}

#[test]
fn a_discover_image_has_drivers_and_may_have_firmware() {
    let text = "name = 'discover'\npackages = ['firmware-bnx2']\n[kernel]\npackage = 'linux-image-amd64'\n\
                [source]\ntype = 'busybox'\n[source.from]\ntype = 'mmdebstrap'\nsuite = 'bookworm'\n";
    let recipe = parse(&format!("{text}[boot]\nmode = 'discover'")).unwrap();
    assert_eq!(recipe.mode(), BootMode::Discover);
    assert_eq!(recipe.packages, ["firmware-bnx2"]);
    assert_eq!(recipe.modules, ModuleSpec::new(["common-nics", "common-storage"]).unwrap());
    let recipe = parse(&format!("{text}[boot]\nmode = 'discover'\n[initramfs]\nmodules = ['igb']")).unwrap();
    assert_eq!(recipe.modules, ModuleSpec::new(["igb"]).unwrap());
    let error = parse(&format!("{text}[boot]\nmode = 'discover'\nroot = 'tmpfs'")).unwrap_err().to_string();
    assert!(error.contains("boot.root"), "{error}");
    check_rejected("[boot]\nmode = 'discover'", "hint: make it from a source of type busybox");
}

#[test]
fn an_image_boots_as_the_recipe_says() {
    let boot = |rest: &str| parse(&format!("{MINIMAL}{rest}")).unwrap().boot;
    let default = BootSpec { mode: BootMode::Carried, root: RootKind::Tmpfs, rollback_index: 0 };
    assert_eq!(boot(""), default);
    let squashfs = RootKind::FileSystem(FileSystemFormat::Squashfs);
    let expected = BootSpec { mode: BootMode::Fetched, root: squashfs, rollback_index: 7 };
    assert_eq!(boot("[boot]\nmode = 'fetched'\nroot = 'squashfs'\nrollback_index = 7"), expected);
    check_rejected("[boot]\nmode = 'failsafe'", "line 6, column 8");
    check_rejected("[boot]\nroot = 'ext4'", "expected one of `tmpfs`, `squashfs`, `erofs`");
    check_rejected("[boot]\nrollback_index = -1", "line 6, column 18");
}

#[test]
fn modules_are_named_or_those_of_common_network_cards() {
    let modules = |rest: &str| parse(&format!("{MINIMAL}{rest}")).unwrap().modules;
    assert_eq!(modules(""), ModuleSpec::new([COMMON_NICS_WORD]).unwrap());
    assert!(modules("[initramfs]\nmodules = []").is_empty());
    assert_eq!(modules("[initramfs]\nmodules = ['e1000-e']"), ModuleSpec::new(["e1000_e"]).unwrap());
    check_rejected("[initramfs]\nmodules = ['net/e1000.ko']", "is not the name of a kernel module");
    check_rejected("[initramfs]\nmodules = ['net/e1000.ko']", "line 6, column 11");
}

#[test]
fn what_a_kind_of_root_does_not_have_is_refused() {
    check_rejected("[boot]\nroot = 'erofs'\n[compression]\nlevel = 3", "compression.level: has no meaning");
    check_rejected("[boot]\nroot = 'erofs'\n[compression]\nformat = 'xz'", "lz4hc");
    check_rejected("[boot]\nroot = 'squashfs'\n[compression]\nx86_filter = false", "not cut into chunks");
    check_rejected("[boot]\nroot = 'squashfs'\n[compression]\nchunk = '1M'", "not cut into chunks");
    check_rejected("[compression]\nformat = 'zstd'\nx86_filter = true", "a filter that only xz has");
}

proptest! {
    #[test]
    fn any_text_is_parsed_or_refused_without_panic(text in "\\PC{0,200}") {
        let _ = parse(&text);
        let _ = parse(&format!("{MINIMAL}{text}"));
    }
}

#[test]
fn a_root_that_exists_is_named_in_one_way() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().display();
    let source = |keys: &str| parse(&format!("name = 'x'\n[source]\n{keys}")).map(|recipe| recipe.source);
    let refused = |keys: &str, expected: &str| {
        let error = source(keys).unwrap_err().to_string();
        assert!(error.contains(expected), "{keys} gave {error}");
    };
    let found = source(&format!("type = 'directory'\npath = '{dir}'")).unwrap();
    assert!(
        matches!(found, Source::Existing(Existing { root: ExistingRoot::Directory(_), .. })),
        "{found:?}"
    );
    refused(&format!("type = 'tar'\npath = '{dir}'"), "source.path: ");
    refused("type = 'tar'\npath = 'absent'", "cannot read /recipes/compute/absent");
    refused("type = 'image'\nimage = 'x/1'", "is the image that this recipe makes");
    refused("type = 'image'\nimage = 'a/b/c'", "source.image: ");
    refused("type = 'oci'", "expected exactly one of archive, layout and reference");
    refused("type = 'oci'\nreference = 'a'\ntag = 'b'", "the reference ends in the tag");
    refused(&format!("type = 'oci'\nlayout = '{dir}'\ntls_verify = true"), "source.tls_verify: ");
    refused("type = 'directory'\npath = 'x'\nsuite = 'y'", "unknown field `suite`");
}

#[test]
fn what_is_left_out_are_sets_and_patterns_of_absolute_paths() {
    let recipe = parse(&format!("{MINIMAL}[exclude]\nsets = ['docs']\npaths = ['/usr/**/*.a']")).unwrap();
    assert!(recipe.exclude.sets.contains(&super::super::ExcludeSet::Docs));
    check_rejected("[exclude]\nsets = ['dox']", "unknown variant `dox`");
    check_rejected("[exclude]\npaths = ['usr']", "exclude.paths[0]: ");
    check_rejected("[exclude]\npaths = ['/usr/[a']", "'/usr/[a' is no pattern: ");
    check_rejected("[[check]]\nname = 'c'\nrun = ''\nnetwork = true", "unknown field `network`");
}

#[test]
fn a_selinux_policy_is_for_roots_in_a_tmpfs() {
    let policy = |rest: &str| parse(&format!("{MINIMAL}{rest}")).unwrap().selinux_policy;
    assert_eq!(policy(""), None);
    assert_eq!(policy("[selinux]\npolicy = 'targeted'").as_deref(), Some("targeted"));
    check_rejected("[selinux]\npolicy = '../x'", "not the name of a policy");
    check_rejected("[boot]\nroot = 'erofs'\n[selinux]\npolicy = 'targeted'", "tmpfs");
    check_rejected("[selinux]\nmode = 'enforcing'", "unknown field `mode`");
}
