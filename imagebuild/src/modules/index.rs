//! The indexes that depmod(8) makes of a kernel's modules: modules.dep, modules.alias, modules.softdep and
//! modules.builtin.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fmt::Write;
use std::path::{Path, PathBuf};

use super::nics::COMPANIONS;
use super::{ModulesError, kernel_name};
use crate::tree::{Tree, TreeError};

/// The modules of one kernel. Names are in the kernel's spelling.
#[derive(Debug, Default)]
pub struct Index {
    /// Directory of the modules, from the root: `lib/modules/6.1.0`.
    dir: PathBuf,
    modules: HashMap<String, Module>,
    builtin: HashSet<String>,
    /// Pattern and module, in depmod's order.
    aliases: Vec<(String, String)>,
    /// Module, and names or aliases of what is to be loaded before it.
    softdeps: HashMap<String, Vec<String>>,
}

#[derive(Debug)]
struct Module {
    /// Relative to the directory of the modules.
    file: String,
    /// All that it needs, in the order of loading.
    needs: Vec<String>,
}

impl Index {
    pub fn read(tree: &Tree, release: &str) -> Result<Self, ModulesError> {
        let dir = Path::new("lib/modules").join(release);
        let unreadable = |source| ModulesError::Index { release: release.to_owned(), source };
        let dep = tree.read(&dir.join("modules.dep")).map_err(unreadable)?;
        let read = |name| Ok::<_, TreeError>(tree.read_if_there(&dir.join(name))?.unwrap_or_default());
        let [alias, softdep, builtin] =
            [read("modules.alias")?, read("modules.softdep")?, read("modules.builtin")?];
        let text = String::from_utf8_lossy;
        Ok(Self { dir, ..Self::parse(&text(&dep), &text(&alias), &text(&softdep), &text(&builtin)) })
    }

    /// Lines that mean nothing are passed over, as kmod does.
    pub(super) fn parse(dep: &str, alias: &str, softdep: &str, builtin: &str) -> Self {
        let mut index = Self::default();
        for (file, needs) in dep.lines().filter_map(|line| line.split_once(':')) {
            let needs = needs.split_ascii_whitespace().rev().map(module_name).collect();
            index.modules.insert(module_name(file), Module { file: file.to_owned(), needs });
        }
        for line in alias.lines() {
            if let ["alias", pattern, module] = line.split_ascii_whitespace().collect::<Vec<_>>()[..] {
                index.aliases.push((pattern.to_owned(), kernel_name(module)));
            }
        }
        for line in softdep.lines().filter_map(|line| line.strip_prefix("softdep ")) {
            let mut words = line.split_ascii_whitespace();
            let Some(module) = words.next() else { continue };
            let before = words.skip_while(|word| *word != "pre:").skip(1).take_while(|word| *word != "post:");
            index.softdeps.entry(kernel_name(module)).or_default().extend(before.map(kernel_name));
        }
        index.builtin = builtin.lines().map(module_name).collect();
        index
    }

    /// modules.dep in the root.
    pub fn path(&self) -> PathBuf {
        Path::new("/").join(&self.dir).join("modules.dep")
    }

    /// Whether the kernel has the module, as a file or built in.
    pub fn knows(&self, name: &str) -> bool {
        self.modules.contains_key(name) || self.builtin.contains(name)
    }

    /// Where the module `name` is in the root.
    ///
    /// # Panics
    /// If there is no such module; all names that [`Self::closure`] gives are modules.
    pub fn file(&self, name: &str) -> PathBuf {
        // A file outside the directory has an absolute path, which takes the place of the directory.
        self.dir.join(&self.modules[name].file)
    }

    /// The modules among `names`, and all that are to be loaded before them.
    pub fn closure<'a>(&'a self, names: impl Iterator<Item = &'a str>) -> BTreeSet<&'a str> {
        let mut order = LoadOrder::new(self);
        names.for_each(|name| order.visit(name));
        order.modules.into_iter().collect()
    }

    /// modules.dep for init: each of `names` with what is to be loaded before it, last to first.
    pub fn modules_dep(&self, names: &BTreeSet<&str>) -> String {
        let mut text = String::new();
        for name in names {
            let mut order = LoadOrder::new(self);
            order.visit(name);
            write!(text, "{name}.ko:").expect(INFALLIBLE);
            for needed in order.modules.iter().rev().filter(|needed| *needed != name) {
                write!(text, " {needed}.ko").expect(INFALLIBLE);
            }
            text.push('\n');
        }
        text
    }

    /// modules.alias for init: what concerns `names`.
    pub fn modules_alias(&self, names: &BTreeSet<&str>) -> String {
        let mut text = String::new();
        for (pattern, module) in &self.aliases {
            let companions =
                COMPANIONS.iter().filter(|(asking, _)| asking == module).map(|(_, asked)| *asked);
            for module in [module.as_str()].into_iter().chain(companions).filter(|name| names.contains(name))
            {
                writeln!(text, "alias {pattern} {module}").expect(INFALLIBLE);
            }
        }
        text
    }

    /// The modules that a name in modules.softdep stands for. It may be an alias, such as that of an algorithm of which a
    /// kernel has several implementations.
    fn soft(&self, name: &str) -> Vec<&str> {
        if let Some((name, _)) = self.modules.get_key_value(name) {
            return vec![name];
        }
        let aliases = self.aliases.iter().filter(|(alias, _)| kernel_name(alias) == name);
        aliases.map(|(_, module)| module.as_str()).collect()
    }
}

const INFALLIBLE: &str = "writing to a string does not fail";

/// Modules in an order in which each comes after those that it needs.
struct LoadOrder<'a> {
    index: &'a Index,
    /// Also those whose needs are being visited, so that a circle of softdeps has an end.
    seen: HashSet<&'a str>,
    modules: Vec<&'a str>,
}

impl<'a> LoadOrder<'a> {
    fn new(index: &'a Index) -> Self {
        Self { index, seen: HashSet::new(), modules: Vec::new() }
    }

    /// Adds the module `name` behind all that it needs. What is built in needs no file.
    fn visit(&mut self, name: &str) {
        let index = self.index;
        let Some((name, module)) = index.modules.get_key_value(name) else { return };
        if !self.seen.insert(name) {
            return;
        }
        module.needs.iter().for_each(|needed| self.visit(needed));
        for wanted in index.softdeps.get(name).into_iter().flatten() {
            index.soft(wanted).into_iter().for_each(|module| self.visit(module));
        }
        self.modules.push(name);
    }
}

/// `kernel/drivers/net/xen-netfront.ko.xz` is the module `xen_netfront`.
fn module_name(file: &str) -> String {
    let name = file.rsplit('/').next().unwrap_or(file);
    kernel_name(name.split_once(".ko").map_or(name, |(name, _suffix)| name))
}
