//! Reading directories of sysfs and procfs. What is not there, or cannot be read, is none: hardware tells what it can.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use bootspec::facts::Text;

/// Nothing that is read here is longer, but for /proc/cpuinfo, which repeats itself.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// A directory.
#[derive(Clone, Debug)]
pub struct Dir(PathBuf);

impl Dir {
    /// The directory at `path`.
    pub fn new(path: &Path) -> Self {
        Self(path.to_owned())
    }

    /// A directory in it, or further below.
    pub fn dir(&self, path: &str) -> Self {
        Self(self.0.join(path))
    }

    /// Its own name.
    pub fn name(&self) -> &str {
        self.0.file_name().and_then(|name| name.to_str()).unwrap_or_default()
    }

    /// The directories in it, sorted by name, links to directories included.
    pub fn dirs(&self) -> Vec<Self> {
        let entries = fs::read_dir(&self.0).into_iter().flatten().flatten();
        let mut paths: Vec<_> = entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect();
        paths.sort();
        paths.into_iter().map(Self).collect()
    }

    /// Whether there is something of this name.
    pub fn has(&self, name: &str) -> bool {
        self.0.join(name).exists()
    }

    /// The contents of a file.
    pub fn bytes(&self, file: &str) -> Option<Vec<u8>> {
        let mut bytes = Vec::new();
        File::open(self.0.join(file)).ok()?.take(MAX_FILE_BYTES).read_to_end(&mut bytes).ok()?;
        Some(bytes)
    }

    /// The contents of a file of lines.
    pub fn lines(&self, file: &str) -> Option<String> {
        Some(String::from_utf8_lossy(&self.bytes(file)?).into_owned())
    }

    /// A file that is one line of text.
    pub fn text(&self, file: &str) -> Option<Text> {
        Text::clean(&self.lines(file)?)
    }

    /// A file that is a decimal number, of which -1 means none.
    pub fn number<T: FromStr>(&self, file: &str) -> Option<T> {
        self.lines(file)?.trim().parse().ok()
    }

    /// A file that is a hexadecimal number: `0x10d3`.
    pub fn hex(&self, file: &str) -> Option<u32> {
        let text = self.lines(file)?;
        u32::from_str_radix(text.trim().strip_prefix("0x")?, 16).ok()
    }

    /// The name of what a link leads to.
    pub fn link(&self, name: &str) -> Option<Text> {
        let target = fs::read_link(self.0.join(name)).ok()?;
        Text::clean(target.file_name()?.to_str()?)
    }

    /// Where it really is, behind all links: the device with those that it is attached to, from the root on.
    pub fn real_path(&self) -> Vec<String> {
        let path = self.0.canonicalize().unwrap_or_default();
        path.iter().map(|part| part.to_string_lossy().into_owned()).collect()
    }
}
