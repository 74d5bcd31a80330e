//! Loads kernel modules from the initramfs: for the devices that are there, and by name.
//!
//! imagebuild puts the modules into [`MODULES_DIR`], unpacked, with two indexes in the formats of depmod(8). Parameters
//! come from the kernel command line, as modprobe(8) takes them: `mlx4_core.debug_level=1`. Left out: modprobe.d(5), and
//! modules that the kernel asks for while it loads another one.

#[doc(hidden)]
pub mod alias;

use std::collections::BTreeSet;
use std::ffi::CString;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use bootspec::cmdline::tokenize;
use bootspec::initramfs::{MODULES_ALIAS, MODULES_DEP, MODULES_DIR};
use rustix::io::Errno;
use rustix::system::finit_module;

use crate::kmsg;

const CMDLINE: &str = "/proc/cmdline";
/// Holds a directory a bus with the devices on it.
const BUSES: &str = "/sys/bus";

/// The modules of the initramfs, and what has been done with them.
#[derive(Debug, Default)]
pub struct Modules {
    dir: PathBuf,
    modules: Vec<Module>,
    aliases: Vec<Alias>,
    /// Module, and one parameter for it: `debug_level=1`.
    parameters: Vec<(String, String)>,
    /// Names of modules that were loaded, or could not be.
    tried: BTreeSet<String>,
    /// Kinds of devices for which modules were loaded.
    served: BTreeSet<String>,
}

#[derive(Debug, PartialEq, Eq)]
struct Module {
    name: String,
    /// Names of what it needs, in the order of loading.
    needs: Vec<String>,
}

#[derive(Debug, PartialEq, Eq)]
struct Alias {
    pattern: String,
    module: String,
}

/// An index of the modules cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("cannot read {path}")]
pub struct ModulesError {
    path: PathBuf,
    #[source]
    source: io::Error,
}

impl Modules {
    /// Reads the indexes in the initramfs at the directory `initramfs`. Without indexes there are no modules.
    pub fn read(initramfs: &Path) -> Result<Self, ModulesError> {
        let dep = read_index(&initramfs.join(MODULES_DEP))?;
        let alias = read_index(&initramfs.join(MODULES_ALIAS))?;
        // Without /proc there are no parameters.
        let cmdline = fs::read(CMDLINE).unwrap_or_default();
        let parsed = Self::parse(&dep, &alias, &String::from_utf8_lossy(&cmdline));
        Ok(Self { dir: initramfs.join(MODULES_DIR), ..parsed })
    }

    /// Modules by the contents of modules.dep and modules.alias, with the parameters on the kernel command line. Lines that
    /// mean nothing are passed over.
    #[doc(hidden)]
    pub fn parse(dep: &str, alias: &str, cmdline: &str) -> Self {
        Self {
            modules: dep.lines().filter_map(parse_dep).collect(),
            aliases: alias.lines().filter_map(parse_alias).collect(),
            parameters: tokenize(cmdline).into_iter().filter_map(|p| parameter(&p.name, p.value)).collect(),
            ..Self::default()
        }
    }

    /// Loads modules by their names, or by other names that they answer to, and what they need. A name without a module
    /// is passed over: the kernel may have it built in.
    pub fn load(&mut self, names: &[&str]) -> usize {
        names.iter().map(|name| self.load_for(name)).sum()
    }

    /// Loads the drivers of all devices, and of the devices that these bring forth, until no new kind appears. Returns how
    /// many modules were loaded.
    pub fn load_for_devices(&mut self) -> usize {
        let mut loaded = 0;
        while !self.modules.is_empty() {
            let found = modaliases(Path::new(BUSES));
            let new: Vec<_> = found.into_iter().filter(|kind| self.served.insert(kind.clone())).collect();
            if new.is_empty() {
                break;
            }
            loaded += new.iter().map(|kind| self.load_for(kind)).sum::<usize>();
        }
        loaded
    }

    fn load_for(&mut self, wanted: &str) -> usize {
        let order: Vec<String> = self.load_order(wanted).into_iter().map(str::to_owned).collect();
        let new = order.into_iter().filter(|name| self.tried.insert(name.clone())).collect::<Vec<_>>();
        let loaded: Vec<_> = new.iter().filter(|name| self.insert(name)).map(String::as_str).collect();
        if !loaded.is_empty() {
            kmsg::info(&format!("modules for {wanted}: {}", loaded.join(" ")));
        }
        loaded.len()
    }

    /// The modules that are to be loaded for a name or a kind of device, in this order. Some may stand there twice.
    #[doc(hidden)]
    pub fn load_order(&self, wanted: &str) -> Vec<&str> {
        let find = |name: &str| self.modules.iter().find(|module| alias::is_same(&module.name, name));
        let modules: Vec<_> = match find(wanted) {
            Some(module) => vec![module],
            None => {
                let aliases = self.aliases.iter().filter(|alias| alias::matches(&alias.pattern, wanted));
                aliases.filter_map(|alias| find(&alias.module)).collect()
            }
        };
        let names = modules.into_iter().flat_map(|module| module.needs.iter().chain([&module.name]));
        names.map(String::as_str).collect()
    }

    /// Gives one module to the kernel. Whether it was loaded; what goes wrong is not the end of the boot.
    fn insert(&self, name: &str) -> bool {
        let path = self.dir.join(format!("{name}.ko"));
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) => {
                kmsg::warn(&format!("cannot open {}: {error}", path.display()));
                return false;
            }
        };
        match finit_module(file, &self.parameters_of(name), 0) {
            Ok(()) => true,
            // It is built in, or there is nothing for it to do, as for one of several implementations of an algorithm.
            Err(Errno::EXIST | Errno::NODEV) => false,
            Err(errno) => {
                kmsg::warn(&format!("cannot load the kernel module {name}: {errno}"));
                false
            }
        }
    }

    fn parameters_of(&self, name: &str) -> CString {
        let of_module = self.parameters.iter().filter(|(module, _)| module == name);
        let words: Vec<&str> = of_module.map(|(_, parameter)| parameter.as_str()).collect();
        // The kernel ends the command line at a NUL, so it holds none.
        CString::new(words.join(" ")).unwrap_or_default()
    }
}

fn read_index(path: &Path) -> Result<String, ModulesError> {
    match fs::read(path) {
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        Err(source) => Err(ModulesError { path: path.to_owned(), source }),
    }
}

fn parse_dep(line: &str) -> Option<Module> {
    let (file, needs) = line.split_once(':')?;
    let needs = needs.split_ascii_whitespace().rev().map(module_name).collect::<Option<_>>()?;
    Some(Module { name: module_name(file)?, needs })
}

fn parse_alias(line: &str) -> Option<Alias> {
    let mut words = line.split_ascii_whitespace();
    let (Some("alias"), Some(pattern), Some(module), None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return None;
    };
    Some(Alias { pattern: pattern.to_owned(), module: module.to_owned() })
}

/// `e1000e.ko` is the file of the module `e1000e`. It lies in the directory of the modules.
fn module_name(file: &str) -> Option<String> {
    let name = file.strip_suffix(".ko")?;
    (!name.contains('/')).then(|| name.to_owned())
}

/// `e1000e.debug=16` gives `debug=16` to the module e1000e. Names with more dots belong to other things than modules.
fn parameter(name: &str, value: Option<String>) -> Option<(String, String)> {
    let (module, parameter) = name.split_once('.')?;
    let word = match value {
        Some(value) if value.contains(' ') => format!("{parameter}=\"{value}\""),
        Some(value) => format!("{parameter}={value}"),
        None => parameter.to_owned(),
    };
    Some((module.to_owned(), word))
}

/// What kinds of devices are on the buses: the contents of `BUS/devices/DEVICE/modalias`.
fn modaliases(buses: &Path) -> BTreeSet<String> {
    // A device may go while its directory is being read; what cannot be read has no driver to load.
    let entries = |dir: PathBuf| fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    let devices = entries(buses.to_owned()).flat_map(|bus| entries(bus.join("devices")));
    let modaliases = devices.filter_map(|device| fs::read_to_string(device.join("modalias")).ok());
    modaliases.map(|text| text.trim_end().to_owned()).filter(|modalias| !modalias.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const DEP: &str = "virtio.ko: virtio_ring.ko\n\
         virtio_net.ko: net_failover.ko failover.ko virtio.ko virtio_ring.ko\n\
         failover.ko:\n\
         net_failover.ko: failover.ko\n\
         xen_netfront.ko:\n\
         virtio_ring.ko:\n\
         ../../etc/evil.ko:\n\
         nonsense\n";
    const ALIAS: &str = "# comment\n\
         alias virtio:d00000001v* virtio_net\n\
         alias xen:vif xen-netfront\n\
         alias net-pf-99 failover\n\
         alias net-pf-* virtio\n\
         alias xen:vif absent\n";

    fn check_order(wanted: &str, expected: &[&str]) {
        let modules = Modules::parse(DEP, ALIAS, "");
        assert_eq!(modules.load_order(wanted), expected, "{wanted}");
    }

    #[test]
    fn what_a_module_needs_is_loaded_first() {
        check_order("virtio-net", &["virtio_ring", "virtio", "failover", "net_failover", "virtio_net"]);
        check_order("failover", &["failover"]);
        check_order("loop", &[]);
        check_order("evil", &[]);
    }

    #[test]
    fn a_device_gets_every_driver_that_knows_it() {
        check_order(
            "virtio:d00000001v00001AF4",
            &["virtio_ring", "virtio", "failover", "net_failover", "virtio_net"],
        );
        check_order("xen:vif", &["xen_netfront"]);
        check_order("net-pf-99", &["failover", "virtio_ring", "virtio"]);
        check_order("virtio:d00000002v00001AF4", &[]);
    }

    #[test]
    fn an_initramfs_without_modules_is_no_error() {
        let dir = tempfile::tempdir().unwrap();
        let mut modules = Modules::read(dir.path()).unwrap();
        assert_eq!((modules.load(&["loop"]), modules.load_for_devices()), (0, 0));
    }

    #[test]
    fn an_unreadable_index_is_named() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join(MODULES_DEP)).unwrap();
        let error = Modules::read(dir.path()).unwrap_err().to_string();
        assert!(error.ends_with("bootnode/modules/modules.dep"), "{error}");
    }

    #[test]
    fn a_module_that_cannot_be_loaded_is_tried_once_and_is_not_the_end() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join(MODULES_DIR)).unwrap();
        fs::write(dir.path().join(MODULES_DEP), "bootnode_test.ko: bootnode_absent.ko\n").unwrap();
        fs::write(dir.path().join(MODULES_DIR).join("bootnode_test.ko"), "no object file").unwrap();
        let mut modules = Modules::read(dir.path()).unwrap();
        assert_eq!(modules.load(&["bootnode_test", "bootnode-test"]), 0);
        assert_eq!(modules.tried.len(), 2);
    }

    #[test]
    fn parameters_come_from_the_command_line() {
        let line = "quiet e1000e.debug=16 bootnode.mode=fetched e1000e.foo \"e1000e.bar=a b\" igb.debug=1 -- e1000e.x=1";
        let modules = Modules::parse("", "", line);
        assert_eq!(modules.parameters_of("e1000e").to_str().unwrap(), "debug=16 foo bar=\"a b\"");
        assert_eq!(modules.parameters_of("igbvf").to_str().unwrap(), "");
    }

    #[test]
    fn kinds_of_devices_are_found_once_on_all_buses() {
        let dir = tempfile::tempdir().unwrap();
        for (path, text) in [
            ("pci/devices/0000:00:01.0/modalias", "pci:v00001AF4\n"),
            ("pci/devices/0000:00:02.0/modalias", "pci:v00001AF4\n"),
            ("virtio/devices/virtio0/modalias", "virtio:d00000001v00001AF4\n"),
            ("virtio/devices/virtio1/modalias", "\n"),
            ("virtio/drivers/x/modalias", "not a device\n"),
        ] {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let found: Vec<_> = modaliases(dir.path()).into_iter().collect();
        assert_eq!(found, ["pci:v00001AF4", "virtio:d00000001v00001AF4"]);
    }

    proptest! {
        #[test]
        fn any_index_is_read_without_panic(
            text in "(alias |[a-c/.ko:*]{1,8}|: |\n|\\PC){0,40}",
            wanted in "[a-c.:]{0,4}",
        ) {
            let modules = Modules::parse(&text, &text, &text);
            for name in modules.load_order(&wanted) {
                prop_assert!(!name.contains('/'));
            }
        }
    }
}
