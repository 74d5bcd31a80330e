//! The kernel of a root: vmlinuz and /lib/modules of the same release, and the modules' index.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::progress::Step;
use crate::recipe::KernelSpec;
use crate::sandbox::View;
use crate::tool::{ToolError, Tools, program};

/// The kernel that an image boots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kernel {
    /// Its release: `6.1.0-56-cloud-amd64`.
    pub release: String,
    /// The kernel image on the build host, inside the root.
    pub vmlinuz: PathBuf,
}

/// A root has no kernel that can be booted.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// No release has both a kernel image and modules, or several have and the recipe does not choose.
    #[error("{problem}: kernel images of {}, modules of {}\nhint: {hint}", list(images), list(modules))]
    Release {
        /// What is wrong.
        problem: String,
        /// Releases with a vmlinuz.
        images: BTreeSet<String>,
        /// Releases with a directory of modules.
        modules: BTreeSet<String>,
        /// What to do about it.
        hint: &'static str,
    },
    /// A directory or file of the root cannot be read.
    #[error("cannot look for kernels in {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The index of the modules cannot be made.
    #[error(transparent)]
    Depmod(#[from] ToolError),
}

fn list(releases: &BTreeSet<String>) -> String {
    match releases.len() {
        0 => "no release".to_owned(),
        _ => releases.iter().map(String::as_str).collect::<Vec<_>>().join(", "),
    }
}

/// Finds the kernel of the root, and makes its `modules.dep` if the packages did not.
pub fn find(spec: &KernelSpec, tools: &Tools, step: &Step) -> Result<Kernel, KernelError> {
    let found = Found::in_root(tools.sandbox().root())?;
    let kernel = found.choose(spec)?;
    index_modules(&kernel.release, tools, step)?;
    Ok(kernel)
}

impl Kernel {
    /// How the kernel of `root` was built, if its packages brought that along.
    pub fn config(&self, root: &Path) -> Result<Option<Config>, KernelError> {
        let beside_modules = modules_dir(root).join(&self.release).join("config");
        let in_boot = root.join("boot").join(format!("config-{}", self.release));
        let Some(path) = [beside_modules, in_boot].into_iter().find(|path| is_regular(path)) else {
            return Ok(None);
        };
        let contents = fs::read(&path).map_err(|source| KernelError::Read { path, source })?;
        Ok(Some(Config::parse(&contents)))
    }
}

/// The configuration that a kernel was built with.
#[derive(Clone, Debug, Default)]
pub struct Config {
    built_in: BTreeSet<String>,
    modules: BTreeSet<String>,
}

impl Config {
    /// Reads lines `CONFIG_X=y` and `CONFIG_X=m`; everything else says nothing about what there is.
    pub fn parse(contents: &[u8]) -> Self {
        let mut config = Self::default();
        for line in String::from_utf8_lossy(contents).lines() {
            match line.trim_end().split_once('=') {
                Some((option, "y")) => _ = config.built_in.insert(option.to_owned()),
                Some((option, "m")) => _ = config.modules.insert(option.to_owned()),
                _ => {}
            }
        }
        config
    }

    /// Whether the kernel itself has the option: `CONFIG_RD_ZSTD`.
    pub fn is_built_in(&self, option: &str) -> bool {
        self.built_in.contains(option)
    }

    /// Whether the kernel or a module has the option.
    pub fn has(&self, option: &str) -> bool {
        self.is_built_in(option) || self.modules.contains(option)
    }
}

/// What lies in a root.
#[derive(Debug, Default)]
struct Found {
    /// Release and kernel image.
    images: Vec<(String, PathBuf)>,
    modules: BTreeSet<String>,
}

impl Found {
    fn in_root(root: &Path) -> Result<Self, KernelError> {
        let mut found = Self::default();
        let modules = modules_dir(root);
        for release in names_in(&modules)? {
            let vmlinuz = modules.join(&release).join("vmlinuz");
            if is_regular(&vmlinuz) {
                found.images.push((release.clone(), vmlinuz));
            }
            // A directory without modules is what a package leaves that only shares the name.
            if modules.join(&release).join("kernel").is_dir() {
                found.modules.insert(release);
            }
        }
        for name in names_in(&root.join("boot"))? {
            let path = root.join("boot").join(&name);
            let Some(release) = name.strip_prefix("vmlinuz-") else { continue };
            if is_regular(&path) && found.images.iter().all(|(known, _)| known != release) {
                found.images.push((release.to_owned(), path));
            }
        }
        Ok(found)
    }

    fn choose(self, spec: &KernelSpec) -> Result<Kernel, KernelError> {
        let wanted = |release: &String| spec.release.as_ref().is_none_or(|wanted| wanted == release);
        let mut usable =
            self.images.iter().filter(|(release, _)| self.modules.contains(release) && wanted(release));
        match (usable.next(), usable.next()) {
            (Some((release, vmlinuz)), None) => {
                Ok(Kernel { release: release.clone(), vmlinuz: vmlinuz.clone() })
            }
            (Some(_), Some(_)) => {
                Err(self.error("the root has several kernels", "choose one by [kernel] release"))
            }
            (None, _) => Err(self.error(
                &match &spec.release {
                    Some(release) => format!("kernel release {release} is not complete in the root"),
                    None => "the root has no kernel image with modules of the same release".to_owned(),
                },
                "name the kernel's package in [kernel] package; it must bring vmlinuz and /lib/modules of one release",
            )),
        }
    }

    fn error(&self, problem: &str, hint: &'static str) -> KernelError {
        let images = self.images.iter().map(|(release, _)| release.clone()).collect();
        KernelError::Release { problem: problem.to_owned(), images, modules: self.modules.clone(), hint }
    }
}

/// `/usr/lib/modules`, or `/lib/modules` where /lib is a directory of its own.
fn modules_dir(root: &Path) -> PathBuf {
    let lib = root.join("lib");
    let merged = lib.symlink_metadata().is_ok_and(|lib| lib.is_symlink());
    if merged { root.join("usr/lib/modules") } else { lib.join("modules") }
}

fn is_regular(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|metadata| metadata.is_file())
}

/// The names in a directory, sorted; none if there is no such directory.
fn names_in(dir: &Path) -> Result<BTreeSet<String>, KernelError> {
    let names = || fs::read_dir(dir)?.map(|entry| Ok(entry?.file_name())).collect::<io::Result<Vec<_>>>();
    match names() {
        Ok(names) => Ok(names.into_iter().filter_map(|name| name.into_string().ok()).collect()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(BTreeSet::new()),
        Err(source) => Err(KernelError::Read { path: dir.to_owned(), source }),
    }
}

/// By the root's own depmod(8), whose version fits its modprobe, or by the build host's.
fn index_modules(release: &str, tools: &Tools, step: &Step) -> Result<(), ToolError> {
    let root = tools.sandbox().root();
    if is_regular(&modules_dir(root).join(release).join("modules.dep")) {
        return Ok(());
    }
    let mut command = program("depmod");
    let view = if tools.root_has("depmod")? {
        View::Root
    } else {
        command.arg("-b").arg(root);
        View::Host
    };
    command.arg(release);
    tools.run("indexing kernel modules with depmod", view, command, step)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A root with these kernel images in /boot and these releases in /usr/lib/modules.
    fn root(images: &[&str], modules: &[&str]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("usr/lib", dir.path().join("lib")).unwrap();
        fs::create_dir(dir.path().join("boot")).unwrap();
        for release in images {
            fs::write(dir.path().join(format!("boot/vmlinuz-{release}")), "").unwrap();
        }
        for release in modules {
            fs::create_dir_all(dir.path().join(format!("usr/lib/modules/{release}/kernel"))).unwrap();
        }
        dir
    }

    fn choose(images: &[&str], modules: &[&str], release: Option<&str>) -> Result<Kernel, String> {
        let dir = root(images, modules);
        let spec = KernelSpec { package: None, release: release.map(str::to_owned) };
        Found::in_root(dir.path()).unwrap().choose(&spec).map_err(|error| error.to_string())
    }

    #[test]
    fn image_and_modules_of_one_release_are_the_kernel() {
        let kernel = choose(&["6.1"], &["6.1"], None).unwrap();
        assert_eq!(kernel.release, "6.1");
        assert!(kernel.vmlinuz.ends_with("boot/vmlinuz-6.1"));
    }

    #[test]
    fn a_mismatch_names_the_releases_on_both_sides() {
        let error = choose(&["6.1"], &["6.2"], None).unwrap_err();
        assert!(error.contains("kernel images of 6.1, modules of 6.2"), "{error}");
        let error = choose(&[], &[], None).unwrap_err();
        assert!(error.contains("kernel images of no release"), "{error}");
    }

    #[test]
    fn several_kernels_need_a_choice() {
        let both = ["6.1", "6.2"];
        assert!(choose(&both, &both, None).unwrap_err().contains("several kernels"));
        assert_eq!(choose(&both, &both, Some("6.2")).unwrap().release, "6.2");
        assert!(choose(&both, &both, Some("6.3")).unwrap_err().contains("release 6.3 is not complete"));
        assert_eq!(choose(&both, &["6.2"], None).unwrap().release, "6.2");
    }

    #[test]
    fn the_configuration_says_what_the_kernel_can_do() {
        let dir = root(&["6.1"], &["6.1"]);
        let kernel = Found::in_root(dir.path()).unwrap().choose(&KernelSpec::default()).unwrap();
        let config = || kernel.config(dir.path()).unwrap();
        assert!(config().is_none(), "there is no configuration");
        let text = "CONFIG_RD_ZSTD=y\nCONFIG_OVERLAY_FS=m\n# CONFIG_RD_LZ4 is not set\n";
        fs::write(dir.path().join("boot/config-6.1"), text).unwrap();
        let found = config().unwrap();
        assert!(found.is_built_in("CONFIG_RD_ZSTD") && found.has("CONFIG_RD_ZSTD"));
        assert!(found.has("CONFIG_OVERLAY_FS") && !found.is_built_in("CONFIG_OVERLAY_FS"));
        assert!(!found.has("CONFIG_RD_LZ4") && !found.has("CONFIG_RD"));
        fs::write(dir.path().join("usr/lib/modules/6.1/config"), "CONFIG_RD_LZ4=y\n").unwrap();
        assert!(config().unwrap().has("CONFIG_RD_LZ4"), "the one beside the modules comes first");
    }

    #[test]
    fn a_kernel_image_beside_its_modules_is_found() {
        let dir = root(&[], &["5.14"]);
        fs::write(dir.path().join("usr/lib/modules/5.14/vmlinuz"), "").unwrap();
        let kernel = Found::in_root(dir.path()).unwrap().choose(&KernelSpec::default()).unwrap();
        assert!(kernel.vmlinuz.ends_with("usr/lib/modules/5.14/vmlinuz"));
    }
}
