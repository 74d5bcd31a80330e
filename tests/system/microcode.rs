//! Microcode stands first in the initramfs, as GNU cpio sees it, and stays there.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};
use bootlab::places::program;

const INTEL: &str = "lib/firmware/intel-ucode/06-55-04";

/// A root that boots nothing, a recipe and a store.
struct Bench(tempfile::TempDir);

impl Bench {
    fn new() -> Result<Self> {
        let bench = Self(tempfile::tempdir()?);
        let root = bench.path("root");
        for (path, contents) in [
            ("boot/vmlinuz-1.0", "kernel"),
            ("lib/modules/1.0/modules.dep", ""),
            ("lib/modules/1.0/kernel/empty", ""),
            (INTEL, "\u{1}\0\0\0intel"),
            ("lib/firmware/amd-ucode/microcode_amd.bin", "DMA\0amd"),
        ] {
            let path = root.join(path);
            fs::create_dir_all(path.parent().context("it is below the root")?)?;
            fs::write(path, contents)?;
        }
        Ok(bench)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn imagebuild(&self, arguments: &[&str]) -> Result<Output> {
        let mut command = Command::new(program("imagebuild")?);
        command.args(arguments).arg("--store").arg(self.path("store"));
        Ok(command.current_dir(self.0.path()).output()?)
    }

    /// Builds the root with these lines in `[initramfs]`.
    fn build(&self, initramfs: &str) -> Result<Output> {
        let source = "[source]\ntype = 'directory'\npath = 'root'";
        let recipe = format!("name = 'site'\n{source}\n[initramfs]\nmodules = []\n{initramfs}\n");
        fs::write(self.path("recipe.toml"), recipe)?;
        self.imagebuild(&["build", "recipe.toml", "--cache", "cache"])
    }

    /// A file of the current version.
    fn current(&self, name: &str) -> PathBuf {
        self.path("store/site/current").join(name)
    }
}

fn succeeded(output: Output) -> Result<()> {
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

fn fails_with(output: Output, expected: &str) -> Result<()> {
    let message = String::from_utf8_lossy(&output.stderr);
    ensure!(!output.status.success() && message.contains(expected), "{message}");
    Ok(())
}

/// The first archive in a file: names and contents, as GNU cpio unpacks them.
fn first_archive(initramfs: &Path) -> Result<Vec<(String, String)>> {
    let dir = tempfile::tempdir()?;
    let names = Command::new("cpio")
        .args(["--extract", "--verbose", "--quiet", "--make-directories"])
        .current_dir(dir.path())
        .stdin(File::open(initramfs)?)
        .output()?;
    let mut files = Vec::new();
    for name in String::from_utf8(names.stderr)?.lines() {
        if dir.path().join(name).is_file() {
            files.push((name.to_owned(), fs::read_to_string(dir.path().join(name))?));
        }
    }
    Ok(files)
}

#[test]
fn microcode_comes_first_in_both_initramfs_and_survives_repacking() -> Result<()> {
    let bench = Bench::new()?;
    let expected = [
        ("kernel/x86/microcode/AuthenticAMD.bin".to_owned(), "DMA\0amd".to_owned()),
        ("kernel/x86/microcode/GenuineIntel.bin".to_owned(), "\u{1}\0\0\0intel".to_owned()),
    ];
    succeeded(bench.build("")?)?;
    for command in [None, Some(["repack", "site"])] {
        if let Some(command) = command {
            succeeded(bench.imagebuild(&command)?)?;
        }
        let segment = fs::read(bench.current("microcode.img"))?;
        for initramfs in ["initramfs.img", "initramfs-fetched.img"] {
            let path = bench.current(initramfs);
            ensure!(first_archive(&path)? == expected, "{:?}", first_archive(&path)?);
            let bytes = fs::read(&path)?;
            let rest = bytes.strip_prefix(&*segment).context("microcode.img comes first")?;
            // The kernel of this root does not say what it unpacks.
            ensure!(rest.starts_with(&[0x1f, 0x8b]), "init's segment does not follow");
        }
    }

    fs::write(bench.current("microcode.img"), "damaged")?;
    fails_with(bench.imagebuild(&["repack", "site"])?, "microcode.img is not as the manifest")
}

#[test]
fn a_recipe_leaves_microcode_out_or_insists_on_it() -> Result<()> {
    let bench = Bench::new()?;
    succeeded(bench.build("microcode = false")?)?;
    ensure!(!bench.current("microcode.img").exists() && fs::read(bench.current("initramfs.img"))?[0] == 0x1f);

    fs::write(bench.path("root").join(INTEL), "<html>")?;
    fails_with(bench.build("")?, "lib/firmware/intel-ucode/06-55-04 in the root is no microcode")?;
    fs::remove_dir_all(bench.path("root/lib/firmware"))?;
    fails_with(bench.build("microcode = true")?, "hint: add its package: Debian: intel-microcode")?;
    succeeded(bench.build("")?)
}
