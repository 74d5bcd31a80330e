//! What files hold, as far as it decides where in the archive they stand and how they are compressed.
//!
//! Like compresses best beside like, and one filter serves only some: the x86 filter of xz turns the relative targets of
//! calls and jumps into absolute ones, which repeat. In programs and shared libraries that saves 4 %. Object files, kernel
//! modules among them, have zeros in place of the targets, which it would spoil. ELF(5) tells which is which.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use super::scan::{Entry, Kind};

/// What an object of the tree holds, in the order in which it is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Content {
    /// Programs and shared libraries for x86 or x86-64.
    X86Code,
    /// All other ELF files: object files, such as kernel modules, and code for other processors.
    OtherElf,
    /// Everything else.
    Other,
}

const ELF_MAGIC: &[u8] = b"\x7fELF";
/// Up to and with `e_machine`.
const HEAD_BYTES: u64 = 20;
const ET_EXEC: u16 = 2;
const ET_DYN: u16 = 3;
const EM_386: u16 = 3;
const EM_X86_64: u16 = 62;

/// Looks into the file that `entry` is in the tree at `root`.
pub fn read_content(root: &Path, entry: &Entry) -> io::Result<Content> {
    let mut head = Vec::new();
    if let Kind::File { .. } = entry.kind {
        File::open(root.join(&entry.path))?.take(HEAD_BYTES).read_to_end(&mut head)?;
    }
    Ok(content_of(&head))
}

/// What a file that begins with `head` holds.
fn content_of(head: &[u8]) -> Content {
    // x86 is little-endian; the fields of a header in the other order are no numbers of x86.
    let field = |offset| head.get(offset..offset + 2).map(|bytes| u16::from_le_bytes([bytes[0], bytes[1]]));
    match (field(16), field(18)) {
        _ if !head.starts_with(ELF_MAGIC) => Content::Other,
        (Some(ET_EXEC | ET_DYN), Some(EM_386 | EM_X86_64)) => Content::X86Code,
        _ => Content::OtherElf,
    }
}

/// By what entries with the same content are sorted: translations of one program, for instance, stand together.
pub fn likeness(content: Content, path: &Path) -> Option<(Option<&OsStr>, Option<&OsStr>)> {
    (content == Content::Other).then(|| (path.extension(), path.file_name()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(elf_type: u16, machine: u16, expected: Content) {
        let head = [ELF_MAGIC, &[2, 1, 1], &[0; 9], &elf_type.to_le_bytes(), &machine.to_le_bytes()].concat();
        assert_eq!(head.len() as u64, HEAD_BYTES);
        assert_eq!(content_of(&head), expected, "type {elf_type}, machine {machine}");
    }

    #[test]
    fn only_linked_code_for_x86_is_code_for_x86() {
        const ET_REL: u16 = 1;
        const EM_AARCH64: u16 = 183;
        check(ET_EXEC, EM_X86_64, Content::X86Code);
        check(ET_DYN, EM_X86_64, Content::X86Code);
        check(ET_DYN, EM_386, Content::X86Code);
        check(ET_REL, EM_X86_64, Content::OtherElf);
        check(ET_DYN, EM_AARCH64, Content::OtherElf);
        check(ET_DYN, EM_X86_64.swap_bytes(), Content::OtherElf);
    }

    #[test]
    fn what_is_no_elf_file_is_something_else() {
        assert_eq!(content_of(b""), Content::Other);
        assert_eq!(content_of(b"#!/bin/sh\nexec true and some more"), Content::Other);
        assert_eq!(content_of(ELF_MAGIC), Content::OtherElf);
    }
}
