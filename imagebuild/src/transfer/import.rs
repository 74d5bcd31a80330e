//! A version out of a file that `export` wrote, or somebody who wants to look like it.

use std::io::{self, Read};

use bootspec::store::{MANIFEST, MANIFEST_SIGNATURE, MAX_MANIFEST_BYTES, MAX_SIGNATURE_BYTES};
use tar::{Archive, Entries, Entry, EntryType};

use super::incoming::{Arrival, Incoming, Terms};
use super::{Receiving, TransferError};
use crate::progress::Step;
use crate::store::Store;

/// Takes the version that `file` holds into the store. The file is called `from` in messages.
pub fn import(
    store: &Store,
    file: impl Read,
    from: &str,
    terms: Terms<'_>,
    step: &Step,
) -> Result<Arrival, TransferError> {
    let mut archive = Archive::new(file);
    let mut members = Members::new(&mut archive, from)?;
    let json = match members.next()? {
        Some(mut member) if member.name == MANIFEST => member.document(MAX_MANIFEST_BYTES)?,
        other => return Err(no_manifest(from, other)),
    };
    let mut member = members.next()?;
    let signature = match &mut member {
        Some(found) if found.name == MANIFEST_SIGNATURE => {
            let signature = found.document(MAX_SIGNATURE_BYTES)?;
            member = members.next()?;
            Some(signature)
        }
        _ => None,
    };
    let incoming = Incoming::check(from, json, signature, terms.keys)?;
    if let Some(there) = incoming.find(store)? {
        there.make_current(store, terms)?;
        return Ok(there);
    }
    let mut receiving = incoming.receive(store, terms.dry_run)?;
    step.set_total(receiving.artifact_bytes());
    while let Some(found) = member {
        receive(&mut receiving, found, step)?;
        member = members.next()?;
    }
    receiving.publish(store, terms.make_current)
}

fn receive<R: Read>(
    receiving: &mut Receiving,
    mut member: Member<'_, R>,
    step: &Step,
) -> Result<(), TransferError> {
    let mut out = receiving.artifact(&member.name, member.entry.size(), |bytes| step.advance(bytes))?;
    io::copy(&mut member.entry, &mut out).map_err(|source| TransferError::Copy {
        what: member.name.clone(),
        from: member.from.to_owned(),
        to: "the store".to_owned(),
        source,
    })?;
    receiving.arrived(&member.name, out)
}

fn no_manifest<R: Read>(from: &str, first: Option<Member<'_, R>>) -> TransferError {
    let found =
        first.map_or_else(|| "its end".to_owned(), |member| format!("'{}'", member.name.escape_debug()));
    TransferError::NoManifest { from: from.to_owned(), found }
}

/// The members of the archive, as they lie there: what would lengthen a name or change a size is not followed.
struct Members<'a, R: Read> {
    entries: Entries<'a, R>,
    from: &'a str,
}

struct Member<'a, R: Read> {
    name: String,
    entry: Entry<'a, R>,
    from: &'a str,
}

impl<'a, R: Read> Members<'a, R> {
    fn new(archive: &'a mut Archive<R>, from: &'a str) -> Result<Self, TransferError> {
        let entries = archive.entries().map_err(no_tar(from))?.raw(true);
        Ok(Self { entries, from })
    }

    /// The next member, which has to be a regular file.
    fn next(&mut self) -> Result<Option<Member<'a, R>>, TransferError> {
        let Some(entry) = self.entries.next().transpose().map_err(no_tar(self.from))? else {
            return Ok(None);
        };
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let member = Member { name, entry, from: self.from };
        match member.entry.header().entry_type() {
            EntryType::Regular => Ok(Some(member)),
            _ => Err(member.unexpected("is no regular file")),
        }
    }
}

impl<R: Read> Member<'_, R> {
    /// The contents of a member that is to be held in memory.
    fn document(&mut self, most_bytes: u64) -> Result<Vec<u8>, TransferError> {
        if self.entry.size() > most_bytes {
            return Err(self.unexpected(&format!("has more than {most_bytes} bytes")));
        }
        let mut contents = Vec::new();
        self.entry.read_to_end(&mut contents).map_err(no_tar(self.from))?;
        match contents.len() as u64 == self.entry.size() {
            true => Ok(contents),
            false => Err(self.unexpected("is cut off")),
        }
    }

    fn unexpected(&self, problem: &str) -> TransferError {
        TransferError::Unexpected {
            from: self.from.to_owned(),
            member: format!("'{}'", self.name.escape_debug()),
            problem: problem.to_owned(),
        }
    }
}

fn no_tar(from: &str) -> impl FnOnce(io::Error) -> TransferError {
    let from = from.to_owned();
    move |source| TransferError::NoTar { from, source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::Progress;
    use crate::testing;
    use crate::transfer::export;
    use proptest::prelude::*;
    use std::fs;
    use std::path::Path;
    use std::sync::OnceLock;
    use tar::{Builder, Header};

    /// The sample as a file, without a signature.
    fn exported() -> &'static [u8] {
        static EXPORTED: OnceLock<Vec<u8>> = OnceLock::new();
        EXPORTED.get_or_init(|| {
            let dir = tempfile::tempdir().unwrap();
            let store = Store::new(dir.path());
            let image = testing::publish(&store, None);
            let mut file = Vec::new();
            export(&store, &image, &mut file, "memory", |_| ()).unwrap();
            file
        })
    }

    fn take(store: &Path, file: &[u8], terms: Terms<'_>) -> Result<Arrival, String> {
        let step = Progress::quiet().step("import");
        let result = import(&Store::new(store), file, "the file", terms, &step);
        result.map_err(|error| bootspec::diagnosis::explain(&error))
    }

    /// Imports `file`, which is refused, into an empty store; returns the message.
    fn check_refused(file: &[u8]) -> String {
        let dir = tempfile::tempdir().unwrap();
        let error = take(dir.path(), file, Terms::default()).unwrap_err();
        assert!(is_empty(dir.path()), "something is left");
        error
    }

    /// Whether no version and no draft is in the store, at most directories for them.
    fn is_empty(store: &Path) -> bool {
        fs::read_dir(store).unwrap().all(|image| {
            let image = image.unwrap();
            fs::read_dir(image.path()).unwrap().next().is_none()
        })
    }

    /// A tar of these members.
    fn tar(members: &[(EntryType, &str, &[u8])]) -> Vec<u8> {
        let mut tar = Builder::new(Vec::new());
        for (kind, name, contents) in members {
            let mut header = Header::new_gnu();
            header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
            header.set_entry_type(*kind);
            header.set_size(contents.len() as u64);
            header.set_cksum();
            tar.append(&header, *contents).unwrap();
        }
        tar.into_inner().unwrap()
    }

    /// The sample's members behind `manifest`, with `change` made to them.
    fn changed<'a>(
        manifest: &'a [u8],
        change: impl FnOnce(&mut Vec<(EntryType, &'a str, &'a [u8])>),
    ) -> Vec<u8> {
        let [initramfs, kernel] = testing::OTHERS;
        let files = [(MANIFEST, manifest), initramfs, ("rootfs.squashfs", testing::ROOT), kernel];
        let mut members = files.map(|(name, contents)| (EntryType::Regular, name, contents)).to_vec();
        change(&mut members);
        tar(&members)
    }

    #[test]
    fn a_version_arrives_as_it_left_and_nodes_boot_what_they_booted() {
        let dir = tempfile::tempdir().unwrap();
        let (there, here) = (dir.path().join("there"), dir.path().join("here"));
        let (signer, keys) = testing::keys(dir.path());
        let image = testing::publish(&Store::new(&there), Some(&signer));
        let mut file = Vec::new();
        export(&Store::new(&there), &image, &mut file, "memory", |_| ()).unwrap();

        let store = Store::new(&here);
        let terms = Terms { keys: &keys, ..Terms::default() };
        let dry = take(&here, &file, Terms { dry_run: true, ..terms }).unwrap();
        assert!(!dry.reused && !here.exists(), "a dry run writes nothing");
        let arrival = take(&here, &file, terms).unwrap();
        assert_eq!(arrival, Arrival { image: image.clone(), reused: false, other_signature: false });
        assert_eq!(testing::files(&store.dir(&image)), testing::files(&Store::new(&there).dir(&image)));
        assert_eq!(store.current(&image.name).unwrap(), None);

        assert!(take(&here, &file, terms).unwrap().reused);
        take(&here, &file, Terms { make_current: true, ..terms }).unwrap();
        assert_eq!(store.current(&image.name).unwrap(), Some(image.clone()));
        let unsigned = take(&here, exported(), Terms::default()).unwrap();
        assert!(unsigned.reused && unsigned.other_signature, "{unsigned:?}");
    }

    #[test]
    fn another_version_of_the_same_name_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let image = testing::publish(&Store::new(dir.path()), None);
        let before = testing::files(&Store::new(dir.path()).dir(&image));
        let mut manifest = testing::manifest();
        manifest.rollback_index = 1;
        let file = changed(manifest.to_json().as_bytes(), |_| ());
        let error = take(dir.path(), &file, Terms::default()).unwrap_err();
        assert!(error.contains("there is another compute/1 in the store"), "{error}");
        assert_eq!(testing::files(&Store::new(dir.path()).dir(&image)), before);
    }

    #[test]
    fn with_keys_an_unsigned_version_is_refused_before_its_files_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let (_, keys) = testing::keys(dir.path());
        let store = dir.path().join("store");
        let terms = Terms { keys: &keys, ..Terms::default() };
        let error = take(&store, exported(), terms).unwrap_err();
        assert!(
            error.contains("compute/1 of the file is not trusted") && error.contains("not signed"),
            "{error}"
        );
        assert!(!store.exists());
    }

    #[test]
    fn what_is_no_export_is_refused_with_its_reason() {
        let json = testing::manifest().to_json();
        let manifest = json.as_bytes();
        let regular = EntryType::Regular;
        assert!(check_refused(b"").contains("begins with its end"));
        assert!(check_refused(&[7; 4096]).contains("cannot read the file as a tar"));
        assert!(check_refused(&tar(&[(regular, "vmlinuz", b"")])).contains("begins with 'vmlinuz'"));
        assert!(
            check_refused(&tar(&[(regular, MANIFEST, b"{}")])).contains("manifest of the file is not usable")
        );
        let check = |expected: &str, file: Vec<u8>| {
            let error = check_refused(&file);
            assert!(error.contains(expected), "{error}");
        };
        check("has no vmlinuz", changed(manifest, |members| members.truncate(3)));
        check("'vmlinuz', which comes twice", changed(manifest, |members| members.push(members[3])));
        check("'other', which its manifest does not", changed(manifest, |m| m.push((regular, "other", b""))));
        check(
            "'../x', which its manifest does not",
            changed(manifest, |m| m.insert(1, (regular, "../x", b""))),
        );
        check("'/x', which its manifest does not", changed(manifest, |m| m.insert(1, (regular, "/x", b""))));
        check("'vmlinuz', which is no regular", changed(manifest, |m| m[3].0 = EntryType::Symlink));
        check(
            "'long', which is no regular",
            changed(manifest, |m| m[1] = (EntryType::GNULongName, "long", b"x")),
        );
        check("'vmlinuz', which has 3 bytes, expected 6", changed(manifest, |m| m[3].2 = b"ker"));
        check("vmlinuz of the file has SHA-256", changed(manifest, |m| m[3].2 = b"kernal"));
        check(
            "which has more than 4096 bytes",
            changed(manifest, |m| m.insert(1, (regular, MANIFEST_SIGNATURE, &[0; 5000]))),
        );
        check(
            "signature that is no text",
            changed(manifest, |m| m.insert(1, (regular, MANIFEST_SIGNATURE, &[255]))),
        );
    }

    #[test]
    fn a_manifest_of_what_cannot_boot_or_stand_in_a_store_is_refused() {
        let check = |change: &dyn Fn(&mut bootspec::manifest::Manifest), expected: &str| {
            let mut manifest = testing::manifest();
            change(&mut manifest);
            let error = check_refused(&changed(manifest.to_json().as_bytes(), |_| ()));
            assert!(error.contains(expected), "{error}");
        };
        let artifact = testing::manifest().artifacts.values().next().unwrap().clone();
        for name in [MANIFEST, MANIFEST_SIGNATURE, "scratch"] {
            let add = |m: &mut bootspec::manifest::Manifest| {
                m.artifacts.insert(name.parse().unwrap(), artifact.clone());
            };
            check(&add, &format!("lists {name}, which is no name"));
        }
        for name in ["vmlinuz", "rootfs.squashfs", "initramfs-fetched.img"] {
            let remove = |m: &mut bootspec::manifest::Manifest| {
                m.artifacts.remove(&name.parse().unwrap());
            };
            check(&remove, &format!("does not list {name}"));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        #[test]
        fn a_damaged_file_is_refused_or_means_the_same(
            at in 0..exported().len(),
            byte in any::<u8>(),
            cut in prop::option::of(0..exported().len()),
            checksums in any::<bool>(),
        ) {
            let mut file = exported().to_vec();
            file[at] = byte;
            file.truncate(cut.unwrap_or(file.len()));
            if checksums {
                mend_checksums(&mut file);
            }
            let dir = tempfile::tempdir().unwrap();
            match take(dir.path(), &file, Terms::default()) {
                Err(_) => prop_assert!(is_empty(dir.path())),
                // What the manifest says of times and hosts is nobody's to check without a key.
                Ok(arrival) => {
                    let mut files = testing::files(&Store::new(dir.path()).dir(&arrival.image));
                    files.remove(MANIFEST);
                    let expected = testing::OTHERS.into_iter().chain([("rootfs.squashfs", testing::ROOT)]);
                    let expected = expected.map(|(name, contents)| (name.to_owned(), contents.to_vec()));
                    prop_assert_eq!(files, expected.collect());
                }
            }
        }
    }

    /// Damage to a header is refused by its checksum alone, unless that is as damaged.
    fn mend_checksums(file: &mut [u8]) {
        for block in file.chunks_exact_mut(512) {
            let mut header = Header::new_old();
            header.as_mut_bytes().copy_from_slice(block);
            if header.as_gnu().is_some() {
                header.set_cksum();
                block.copy_from_slice(header.as_bytes());
            }
        }
    }
}
