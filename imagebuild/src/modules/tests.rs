use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;

use object::{Architecture, BinaryFormat, Endianness, SectionKind};
use proptest::prelude::*;

use super::*;

const RELEASE: &str = "6.1.0-test";

/// A root with kernel modules.
struct TestRoot {
    dir: tempfile::TempDir,
}

impl TestRoot {
    /// With /lib on its own, or as a link to /usr/lib.
    fn new(merged: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        if merged {
            fs::create_dir_all(dir.path().join("usr/lib")).unwrap();
            symlink("/usr/lib", dir.path().join("lib")).unwrap();
        }
        let root = Self { dir };
        root.put(
            "lib/modules/6.1.0-test/modules.dep",
            b"kernel/drivers/net/e1000e.ko: kernel/drivers/ptp/ptp.ko kernel/drivers/pps/pps_core.ko\n\
              kernel/drivers/ptp/ptp.ko: kernel/drivers/pps/pps_core.ko\n\
              kernel/drivers/pps/pps_core.ko:\n\
              kernel/drivers/net/xen-netfront.ko.zst:\n\
              kernel/lib/libcrc32c.ko.xz:\n\
              kernel/crypto/crc32c-intel.ko:\n\
              kernel/crypto/crc32c_generic.ko.gz:\n\
              kernel/drivers/net/bnx2x.ko: kernel/lib/libcrc32c.ko.xz\n\
              kernel/sound/snd.ko:\n",
        );
        root.put(
            "lib/modules/6.1.0-test/modules.alias",
            b"# Aliases extracted from modules themselves.\n\
              alias pci:v00008086d000010D3sv*sd*bc*sc*i* e1000e\n\
              alias xen:vif xen_netfront\n\
              alias crc32c crc32c_intel\n\
              alias crc32c crc32c_generic\n\
              alias snd-slot-* snd\n",
        );
        root.put(
            "lib/modules/6.1.0-test/modules.softdep",
            b"# Soft dependencies extracted from modules themselves.\n\
              softdep libcrc32c pre: crc32c\n\
              softdep crc32c_generic pre: bnx2x post: snd\n\
              softdep cifs gcm\n",
        );
        root.put("lib/modules/6.1.0-test/modules.builtin", b"kernel/drivers/virtio/virtio_pci.ko\n");
        root.module("kernel/drivers/net/e1000e.ko", &[]);
        root.module("kernel/drivers/ptp/ptp.ko", &[]);
        root.module("kernel/drivers/pps/pps_core.ko", &[]);
        root.module("kernel/drivers/net/xen-netfront.ko.zst", &[]);
        root.module("kernel/lib/libcrc32c.ko.xz", &[]);
        root.module("kernel/crypto/crc32c-intel.ko", &[]);
        root.module("kernel/crypto/crc32c_generic.ko.gz", &[]);
        root.module(
            "kernel/drivers/net/bnx2x.ko",
            &["bnx2x/e1.fw", "bnx2x/e2.fw", "bnx2x/e3.fw", "../../init"],
        );
        root
    }

    fn put(&self, path: &str, contents: &[u8]) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, contents).unwrap();
    }

    /// Where `path` is on this machine; a link of the root would lead out of it.
    fn path(&self, path: &str) -> PathBuf {
        let merged = self.dir.path().join("lib").is_symlink();
        self.dir.path().join(if merged { "usr" } else { "" }).join(path)
    }

    fn module(&self, file: &str, firmware: &[&str]) {
        let path = format!("lib/modules/{RELEASE}/{file}");
        self.put(&path, &pack(file, &module(firmware)));
    }

    fn select(&self, words: &[&str]) -> Result<ModuleSet, ModulesError> {
        select(self.dir.path(), RELEASE, &ModuleSpec::new(words).unwrap())
    }
}

/// An object file whose `.modinfo` names this firmware.
fn module(firmware: &[&str]) -> Vec<u8> {
    let mut file = object::write::Object::new(BinaryFormat::Elf, Architecture::X86_64, Endianness::Little);
    let section = file.add_section(Vec::new(), b".modinfo".to_vec(), SectionKind::ReadOnlyData);
    let names = firmware.iter().map(|name| format!("firmware={name}\0")).collect::<String>();
    file.append_section_data(section, format!("license=GPL\0{names}name=test\0").as_bytes(), 1);
    file.write().unwrap()
}

fn pack(path: &str, contents: &[u8]) -> Vec<u8> {
    match path.rsplit('.').next().unwrap() {
        "zst" => zstd::encode_all(contents, 1).unwrap(),
        "xz" => {
            let mut encoder = xz2::write::XzEncoder::new(Vec::new(), 0);
            encoder.write_all(contents).unwrap();
            encoder.finish().unwrap()
        }
        "gz" => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(contents).unwrap();
            encoder.finish().unwrap()
        }
        _ => contents.to_owned(),
    }
}

fn paths(set: &ModuleSet) -> Vec<&str> {
    set.files.iter().map(|member| member.path.as_str()).collect()
}

fn text<'a>(set: &'a ModuleSet, path: &str) -> &'a str {
    let member = set.files.iter().find(|member| member.path == path).unwrap();
    std::str::from_utf8(&member.contents).unwrap()
}

#[test]
fn a_module_comes_with_what_it_needs_and_both_indexes() {
    for merged in [false, true] {
        let set = TestRoot::new(merged).select(&["e1000e"]).unwrap();
        assert_eq!(
            paths(&set),
            [
                "bootnode/modules/e1000e.ko",
                "bootnode/modules/modules.alias",
                "bootnode/modules/modules.dep",
                "bootnode/modules/pps_core.ko",
                "bootnode/modules/ptp.ko",
            ]
        );
        assert_eq!(
            text(&set, MODULES_DEP),
            "e1000e.ko: ptp.ko pps_core.ko\npps_core.ko:\nptp.ko: pps_core.ko\n"
        );
        assert_eq!(text(&set, MODULES_ALIAS), "alias pci:v00008086d000010D3sv*sd*bc*sc*i* e1000e\n");
        assert_eq!((set.modules, set.module_bytes), (3, 3 * module(&[]).len() as u64));
    }
}

#[test]
fn compressed_modules_are_unpacked_and_named_as_the_kernel_does() {
    let set = TestRoot::new(true).select(&["xen-netfront", "libcrc32c", "crc32c_generic"]).unwrap();
    for name in ["xen_netfront", "libcrc32c", "crc32c_generic"] {
        let path = format!("bootnode/modules/{name}.ko");
        let member = set.files.iter().find(|member| member.path == path).unwrap();
        assert_eq!(member.contents, module(&[]), "{name}");
    }
}

#[test]
fn softdeps_are_loaded_before_the_module_even_in_a_circle() {
    let set = TestRoot::new(true).select(&["bnx2x"]).unwrap();
    let dep = text(&set, MODULES_DEP);
    assert!(dep.contains("bnx2x.ko: libcrc32c.ko crc32c_generic.ko crc32c_intel.ko\n"), "{dep}");
    assert!(dep.contains("crc32c_generic.ko: bnx2x.ko libcrc32c.ko crc32c_intel.ko\n"), "{dep}");
    assert!(!dep.contains("snd"), "what comes after a module is not carried: {dep}");
}

#[test]
fn firmware_is_taken_from_where_the_kernel_looks_if_it_is_there() {
    let root = TestRoot::new(true);
    root.put("lib/firmware/bnx2x/e1.fw.zst", &zstd::encode_all(&b"one"[..], 1).unwrap());
    root.put("lib/firmware/bnx2x/e2-7.13.fw", b"two");
    symlink("/lib/firmware/bnx2x/e2-7.13.fw", root.path("lib/firmware/bnx2x/e2.fw")).unwrap();
    root.put(&format!("lib/firmware/{RELEASE}/bnx2x/e2.fw.xz"), &pack("xz", b"two of this kernel"));
    root.put("init", b"not firmware");
    let set = root.select(&["bnx2x"]).unwrap();
    assert_eq!(text(&set, "lib/firmware/bnx2x/e1.fw"), "one");
    assert_eq!(text(&set, "lib/firmware/bnx2x/e2.fw"), "two of this kernel");
    assert_eq!((set.firmware, set.firmware_bytes), (2, 21));
}

#[test]
fn links_of_the_root_do_not_reach_the_build_host() {
    let root = TestRoot::new(true);
    let outside = tempfile::NamedTempFile::new().unwrap();
    fs::create_dir_all(root.path("lib/firmware/bnx2x")).unwrap();
    symlink(outside.path(), root.path("lib/firmware/bnx2x/e1.fw")).unwrap();
    symlink(
        format!("{}{}", "../".repeat(20), outside.path().display()),
        root.path("lib/firmware/bnx2x/e2.fw"),
    )
    .unwrap();
    assert_eq!(root.select(&["bnx2x"]).unwrap().firmware, 0);
}

#[test]
fn a_module_built_in_needs_no_file_and_one_that_is_nowhere_is_an_error() {
    let root = TestRoot::new(true);
    assert_eq!(root.select(&["virtio-pci"]).unwrap(), ModuleSet::default());
    let error = root.select(&["virtio_pci", "e1001", "nic9"]).unwrap_err().to_string();
    let expected = "kernel 6.1.0-test has no module e1001 and no module nic9, neither as a file nor built in\nhint: look";
    assert!(error.starts_with(expected), "{error}");
    assert!(error.contains("/lib/modules/6.1.0-test/modules.dep"), "{error}");
}

#[test]
fn of_the_common_nics_what_the_kernel_has_is_taken() {
    let set = TestRoot::new(true).select(&["common-nics"]).unwrap();
    let nics = ["bnx2x", "e1000e", "xen_netfront", "virtio_pci"];
    assert!(nics.iter().all(|nic| COMMON_NICS.contains(nic)));
    assert_eq!(set.lacking, COMMON_NICS.len() - nics.len());
    assert!(paths(&set).contains(&"bootnode/modules/xen_netfront.ko"));
}

#[test]
fn the_lists_have_kernel_names_each_once() {
    for (word, list) in LISTS {
        let unique: BTreeSet<_> = list.iter().collect();
        assert_eq!(unique.len(), list.len(), "{word}");
        assert!(list.iter().all(|name| kernel_name(name) == **name), "{word}");
    }
}

#[test]
fn lists_are_joined_and_what_is_in_both_counts_once() {
    let both = ModuleSpec::new([COMMON_NICS_WORD]).unwrap();
    let both = both.and(ModuleSpec::new([COMMON_STORAGE_WORD]).unwrap());
    let in_both = COMMON_STORAGE.iter().filter(|name| COMMON_NICS.contains(name)).count();
    assert!(in_both > 0);
    assert_eq!(both.common().len(), COMMON_NICS.len() + COMMON_STORAGE.len() - in_both);
    let set = TestRoot::new(true).select(&["common-storage"]).unwrap();
    assert_eq!((set.modules, set.lacking), (0, COMMON_STORAGE.len() - 1), "virtio_pci is built in");
}

#[test]
fn a_module_that_a_driver_asks_for_is_loaded_for_the_same_cards() {
    let root = TestRoot::new(true);
    root.put("lib/modules/6.1.0-test/modules.dep", b"mlx4_core.ko:\nmlx4_en.ko: mlx4_core.ko\n");
    root.put("lib/modules/6.1.0-test/modules.alias", b"alias pci:v000015B3d00001003* mlx4_core\n");
    root.module("mlx4_core.ko", &[]);
    root.module("mlx4_en.ko", &[]);
    let both = "alias pci:v000015B3d00001003* mlx4_core\nalias pci:v000015B3d00001003* mlx4_en\n";
    assert_eq!(text(&root.select(&["mlx4_en"]).unwrap(), MODULES_ALIAS), both);
    let one = "alias pci:v000015B3d00001003* mlx4_core\n";
    assert_eq!(text(&root.select(&["mlx4_core"]).unwrap(), MODULES_ALIAS), one);
}

#[test]
fn errors_name_what_is_damaged() {
    let root = TestRoot::new(true);
    root.put("lib/modules/6.1.0-test/kernel/drivers/net/e1000e.ko", b"no object file");
    let error = root.select(&["e1000e"]).unwrap_err().to_string();
    assert_eq!(error, "lib/modules/6.1.0-test/kernel/drivers/net/e1000e.ko is not a kernel module");
    root.put("lib/modules/6.1.0-test/kernel/drivers/net/xen-netfront.ko.zst", b"not zstd");
    let error = root.select(&["xen_netfront"]).unwrap_err().to_string();
    assert_eq!(
        error,
        "cannot read lib/modules/6.1.0-test/kernel/drivers/net/xen-netfront.ko.zst in the root"
    );
    let error = select(root.dir.path(), "5.14", &ModuleSpec::new(["loop"]).unwrap()).unwrap_err();
    assert!(error.to_string().contains("index of the modules of kernel 5.14\nhint:"), "{error}");
}

#[test]
fn words_of_a_recipe_are_checked() {
    for bad in ["", "e1000e.ko", "../e1000e", "a b", "ü"] {
        assert!(ModuleSpec::new([bad]).unwrap_err().to_string().contains("is not the name"), "{bad}");
    }
    let spec =
        ModuleSpec::new(["loop"]).unwrap().and(ModuleSpec::new(["common-nics", "xen-netfront"]).unwrap());
    assert_eq!(spec, ModuleSpec::new(["xen_netfront", "common-nics", "loop"]).unwrap());
    assert!(ModuleSpec::default().is_empty());
}

proptest! {
    #[test]
    fn any_module_is_read_without_panic(mut data in proptest::collection::vec(any::<u8>(), 0..200), elf: bool) {
        if elf {
            let module = module(&["a", "b"]);
            data.iter_mut().zip(module).for_each(|(byte, good)| *byte = if *byte < 240 { good } else { *byte });
        }
        let _ = firmware::names(&data);
    }

    #[test]
    fn any_index_is_read_without_panic(lines in "(softdep|alias|[a-c/.ko]{1,6}:?| |pre:|post:|\n|\\PC){0,40}") {
        let index = index::Index::parse(&lines, &lines, &lines, &lines);
        let names = index.closure(["a", "b", "c"].into_iter());
        index.modules_dep(&names);
        index.modules_alias(&names);
    }
}
