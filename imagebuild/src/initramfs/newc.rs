//! Writes newc archives, the kernel's form of cpio.

use std::collections::BTreeSet;
use std::io::{self, Read, Write};

use cpio::newc;

use super::{InitramfsError, member_bytes};

const DIRECTORY: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const DATA: u32 = 0o100_644;
const CONSOLE: u32 = 0o020_600;

/// A newc archive being written. All times and owners are zero, inode numbers count up, so the same members give the
/// same bytes. The kernel makes no parents by itself, so each directory is added before what is in it.
pub struct Newc<W: Write> {
    out: W,
    next_inode: u32,
    directories: BTreeSet<String>,
}

impl<W: Write> Newc<W> {
    /// An empty archive into `out`.
    pub fn new(out: W) -> Self {
        Self { out, next_inode: 1, directories: BTreeSet::new() }
    }

    /// Adds a directory, and its parents.
    pub fn directory(&mut self, name: &str) -> Result<(), InitramfsError> {
        if self.directories.contains(name) {
            return Ok(());
        }
        self.parents_of(name)?;
        self.directories.insert(name.to_owned());
        self.copy_as(name, DIRECTORY, 0, &mut io::empty())
    }

    /// Adds an executable file.
    pub fn program(&mut self, name: &str, contents: &[u8]) -> Result<(), InitramfsError> {
        self.copy_as(name, PROGRAM, length(name, contents)?, &mut &contents[..])
    }

    /// Adds a file.
    pub fn data(&mut self, name: &str, contents: &[u8]) -> Result<(), InitramfsError> {
        self.copy(name, length(name, contents)?, &mut &contents[..])
    }

    /// Adds a file whose contents are the next `size_bytes` of `from`.
    pub fn copy(&mut self, name: &str, size_bytes: u32, from: &mut impl Read) -> Result<(), InitramfsError> {
        self.copy_as(name, DATA, size_bytes, from)
    }

    /// The kernel opens /dev/console for PID 1 before anything is mounted: character device 5:1.
    pub fn console(&mut self) -> Result<(), InitramfsError> {
        self.directory("dev")?;
        let console = self.member("dev/console", CONSOLE).rdev_major(5).rdev_minor(1);
        console.write(&mut self.out, 0).finish().map_err(InitramfsError::Write)?;
        Ok(())
    }

    /// Ends the archive.
    pub fn finish(self) -> Result<W, InitramfsError> {
        newc::trailer(self.out).map_err(InitramfsError::Write)
    }

    fn copy_as(
        &mut self,
        name: &str,
        mode: u32,
        size_bytes: u32,
        from: &mut impl Read,
    ) -> Result<(), InitramfsError> {
        self.parents_of(name)?;
        let mut writer = self.member(name, mode).write(&mut self.out, size_bytes);
        let copied =
            io::copy(&mut from.take(size_bytes.into()), &mut writer).map_err(InitramfsError::Write)?;
        if copied != u64::from(size_bytes) {
            return Err(InitramfsError::Short { name: name.to_owned(), expected: size_bytes, found: copied });
        }
        writer.finish().map_err(InitramfsError::Write)?;
        Ok(())
    }

    fn parents_of(&mut self, name: &str) -> Result<(), InitramfsError> {
        match name.rsplit_once('/') {
            Some((parent, _)) => self.directory(parent),
            None => Ok(()),
        }
    }

    fn member(&mut self, name: &str, mode: u32) -> newc::Builder {
        let inode = self.next_inode;
        self.next_inode += 1;
        newc::Builder::new(name).ino(inode).mode(mode).nlink(1)
    }
}

fn length(name: &str, contents: &[u8]) -> Result<u32, InitramfsError> {
    member_bytes(name, contents.len() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(mut archive: &[u8]) -> Vec<String> {
        let mut names = Vec::new();
        loop {
            let reader = newc::Reader::new(archive).unwrap();
            if reader.entry().is_trailer() {
                return names;
            }
            names.push(reader.entry().name().to_owned());
            archive = reader.finish().unwrap();
        }
    }

    #[test]
    fn directories_come_once_and_before_what_is_in_them() {
        let mut archive = Newc::new(Vec::new());
        archive.data("lib/firmware/bnx2/a.fw", b"a").unwrap();
        archive.data("lib/firmware/b.fw", b"").unwrap();
        archive.directory("lib/firmware").unwrap();
        let expected =
            ["lib", "lib/firmware", "lib/firmware/bnx2", "lib/firmware/bnx2/a.fw", "lib/firmware/b.fw"];
        assert_eq!(names(&archive.finish().unwrap()), expected);
    }

    #[test]
    fn a_source_that_ends_early_is_an_error_with_the_member() {
        let mut archive = Newc::new(Vec::new());
        let error = archive.copy("bootnode/chunks/00000.tar.xz", 4, &mut &b"abc"[..]).unwrap_err();
        assert!(error.to_string().contains("00000.tar.xz: expected 4 bytes"), "{error}");
    }
}
