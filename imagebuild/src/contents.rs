//! What an artifact is compared with while its bytes pass, on their way from or to wherever: its size and digest in the
//! manifest, and, of the root, the digests of its chunks or blocks, which are what nodes check.

use std::io::{self, Read, Write};

use bootspec::Sha256Digest;
use bootspec::manifest::{Artifact, Manifest, Piece, Root};
use bootspec::store::ArtifactName;
use sha2::{Digest, Sha256};

use crate::interrupt;

/// Compares one artifact with the manifest.
pub struct Check {
    expected: Artifact,
    size_bytes: u64,
    whole: Sha256,
    pieces: Option<Pieces>,
}

/// The chunks or blocks of a root, which lie end to end.
struct Pieces {
    kind: &'static str,
    pieces: Vec<Piece>,
    index: usize,
    done_bytes: u64,
    digest: Sha256,
    first_damaged: Option<usize>,
}

impl Check {
    /// For the artifact `name` of `manifest`, if it has one of that name.
    pub fn new(manifest: &Manifest, name: &ArtifactName) -> Option<Self> {
        let expected = manifest.artifacts.get(name)?.clone();
        let root = manifest.root.as_ref().filter(|root| root.file() == name);
        Some(Self { expected, size_bytes: 0, whole: Sha256::new(), pieces: root.map(Pieces::new) })
    }

    /// The next bytes of the artifact.
    pub fn update(&mut self, bytes: &[u8]) {
        self.size_bytes += bytes.len() as u64;
        self.whole.update(bytes);
        if let Some(pieces) = &mut self.pieces {
            pieces.update(bytes);
        }
    }

    /// What is wrong with the bytes that have passed, in words that follow the artifact's name. Nothing, if they are all
    /// that the manifest says.
    pub fn problems(self) -> Vec<String> {
        if self.size_bytes != self.expected.size_bytes {
            return vec![format!("has {} bytes, expected {}", self.size_bytes, self.expected.size_bytes)];
        }
        let found = Sha256Digest::new(self.whole.finalize().into());
        let differs = || format!("has SHA-256 {found}, expected {}", self.expected.sha256);
        let whole = (found != self.expected.sha256).then(differs);
        whole.into_iter().chain(self.pieces.and_then(Pieces::problem)).collect()
    }
}

impl Pieces {
    fn new(root: &Root) -> Self {
        let (kind, pieces) = match root {
            Root::Archive(archive) => ("chunk", archive.pieces().collect()),
            Root::FileSystem(image) => ("block", image.pieces().collect()),
        };
        Self { kind, pieces, index: 0, done_bytes: 0, digest: Sha256::new(), first_damaged: None }
    }

    fn update(&mut self, mut bytes: &[u8]) {
        while let Some(piece) = self.pieces.get(self.index) {
            let left = usize::try_from(piece.size_bytes - self.done_bytes).unwrap_or(usize::MAX);
            let (now, later) = bytes.split_at(left.min(bytes.len()));
            self.digest.update(now);
            self.done_bytes += now.len() as u64;
            bytes = later;
            if self.done_bytes < piece.size_bytes {
                return;
            }
            let found = Sha256Digest::new(self.digest.finalize_reset().into());
            if found != piece.sha256 && self.first_damaged.is_none() {
                self.first_damaged = Some(self.index);
            }
            (self.index, self.done_bytes) = (self.index + 1, 0);
        }
    }

    fn problem(self) -> Option<String> {
        let Self { kind, pieces, index, first_damaged, .. } = self;
        match first_damaged {
            Some(damaged) => Some(format!("is damaged in {kind} {damaged} of {}", pieces.len())),
            None if index < pieces.len() => Some(format!("ends before {kind} {index} of {}", pieces.len())),
            None => None,
        }
    }
}

/// A reader or a writer whose bytes are checked as they pass. `done` is told how many.
pub struct Checked<T, F> {
    inner: T,
    check: Check,
    done: F,
}

impl<T, F: FnMut(u64)> Checked<T, F> {
    /// Checks what is read from or written to `inner`.
    pub fn new(inner: T, check: Check, done: F) -> Self {
        Self { inner, check, done }
    }

    /// See [`Check::problems`].
    pub fn problems(self) -> Vec<String> {
        self.check.problems()
    }

    fn passed(&mut self, bytes: &[u8]) {
        self.check.update(bytes);
        (self.done)(bytes.len() as u64);
    }
}

impl<T: Read, F: FnMut(u64)> Read for Checked<T, F> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        interrupt::check()?;
        let length = self.inner.read(buffer)?;
        self.passed(&buffer[..length]);
        Ok(length)
    }
}

impl<T: Write, F: FnMut(u64)> Write for Checked<T, F> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        interrupt::check()?;
        let length = self.inner.write(bytes)?;
        self.passed(&bytes[..length]);
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;
    use proptest::prelude::*;

    /// What is wrong with `bytes` as the root of the sample, if they come in steps of `step`.
    fn problems(bytes: &[u8], step: usize) -> Vec<String> {
        let manifest = testing::manifest();
        let name = manifest.root.as_ref().unwrap().file().clone();
        let mut check = Check::new(&manifest, &name).unwrap();
        bytes.chunks(step).for_each(|bytes| check.update(bytes));
        check.problems()
    }

    #[test]
    fn damage_is_named_with_its_place_and_a_wrong_size_alone() {
        assert_eq!(problems(testing::ROOT, 5), [""; 0]);
        let damage = problems(b"block 0 blOck 1 eNd", 5);
        assert!(damage[0].starts_with("has SHA-256 ") && damage.len() == 2, "{damage:?}");
        assert_eq!(damage[1], "is damaged in block 1 of 3");
        assert_eq!(problems(b"block 0", 7), ["has 7 bytes, expected 19"]);
        assert_eq!(problems(b"block 0 block 1 end and more", 9), ["has 28 bytes, expected 19"]);
    }

    #[test]
    fn blocks_that_the_file_does_not_have_are_missed() {
        let mut manifest = testing::manifest();
        let Some(Root::FileSystem(root)) = &mut manifest.root else { panic!("the sample has a file system") };
        root.size_bytes = 32;
        root.blocks.push(root.blocks[0]);
        let name = root.file.clone();
        let mut check = Check::new(&manifest, &name).unwrap();
        check.update(testing::ROOT);
        assert_eq!(check.problems(), ["ends before block 2 of 4"]);
    }

    proptest! {
        #[test]
        fn how_the_bytes_are_cut_makes_no_difference(step in 1usize..30, at in 0..testing::ROOT.len(), bit in 0u8..8) {
            prop_assert!(problems(testing::ROOT, step).is_empty());
            let mut bytes = testing::ROOT.to_vec();
            bytes[at] ^= 1 << bit;
            let expected = format!("is damaged in block {} of 3", at / 8);
            prop_assert_eq!(&problems(&bytes, step)[1], &expected);
        }
    }
}
