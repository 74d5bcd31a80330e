//! A version as one file: a tar of its files, the manifest first.
//!
//! The format is GNU's, since POSIX' own headers end at 8 GiB; every tar reads it. The same version gives the same bytes.

use std::fs::{self, File, Permissions};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use bootspec::ImageRef;
use bootspec::store::{MANIFEST, MANIFEST_SIGNATURE};
use tar::{Builder, EntryType, Header};

use super::TransferError;
use super::outgoing::Outgoing;
use crate::digest::READ_BYTES;
use crate::file_error::{FileError, failed};
use crate::store::Store;

const BLOCK_BYTES: u64 = 512;

/// Bytes that the exported file would have.
pub fn exported_bytes(store: &Store, image: &ImageRef) -> Result<u64, TransferError> {
    let Outgoing { manifest, json, signature, .. } = &Outgoing::open(store, image)?;
    let documents = [Some(json), signature.as_ref()].into_iter().flatten().map(|text| text.len() as u64);
    let artifacts = manifest.artifacts.values().map(|artifact| artifact.size_bytes);
    let member = |size_bytes: u64| BLOCK_BYTES + size_bytes.next_multiple_of(BLOCK_BYTES);
    let end = 2 * BLOCK_BYTES;
    Ok(documents.chain(artifacts).map(member).sum::<u64>() + end)
}

/// Writes `image` to `out`, which is called `to` in messages. `done` is told how many bytes of it have been read.
pub fn export(
    store: &Store,
    image: &ImageRef,
    out: impl Write,
    to: &str,
    mut done: impl FnMut(u64),
) -> Result<(), TransferError> {
    let outgoing = Outgoing::open(store, image)?;
    let failed = |what: &str| {
        let (what, from, to) = (what.to_owned(), image.to_string(), to.to_owned());
        move |source| TransferError::Copy { what, from, to, source }
    };
    let mut tar = Builder::new(out);
    let documents = [(MANIFEST, Some(&outgoing.json)), (MANIFEST_SIGNATURE, outgoing.signature.as_ref())];
    for (name, text) in documents.into_iter().filter_map(|(name, text)| Some((name, text?))) {
        let header = header(&outgoing, name, text.len() as u64);
        header.and_then(|header| tar.append(&header, text.as_bytes())).map_err(failed(name))?;
    }
    for (name, artifact) in &outgoing.manifest.artifacts {
        let read = outgoing.artifact(name, &mut done)?.take(artifact.size_bytes);
        let mut read = BufReader::with_capacity(READ_BYTES, read);
        header(&outgoing, name.as_str(), artifact.size_bytes)
            .and_then(|header| tar.append(&header, &mut read))
            .map_err(failed(name.as_str()))?;
        outgoing.check(name, read.into_inner().into_inner())?;
    }
    tar.into_inner().and_then(|mut out| out.flush()).map_err(failed("the end"))
}

/// Writes `image` to the file at `path`, which is there when it is whole and on the disk. An older one is replaced.
pub fn export_to_file(
    store: &Store,
    image: &ImageRef,
    path: &Path,
    done: impl FnMut(u64),
) -> Result<(), TransferError> {
    let to = path.display().to_string();
    if fs::metadata(path).is_ok_and(|found| !found.is_file()) {
        return Err(TransferError::NoFile(to));
    }
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let part = tempfile::Builder::new()
        .prefix(&format!(".{name}."))
        .suffix(".part")
        .permissions(Permissions::from_mode(0o644))
        .tempfile_in(dir)
        .map_err(failed("create a file in", dir))?;
    export(store, image, BufWriter::with_capacity(READ_BYTES, part.as_file()), &to, done)?;
    part.as_file().sync_all().map_err(failed("sync to disk", path))?;
    part.persist(path).map_err(|error| failed("replace", path)(error.error))?;
    Ok(sync(dir)?)
}

fn header(outgoing: &Outgoing, name: &str, size_bytes: u64) -> io::Result<Header> {
    let mut header = Header::new_gnu();
    header.set_path(name)?;
    header.set_entry_type(EntryType::Regular);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(u64::try_from(outgoing.manifest.build.time_unix).unwrap_or(0));
    header.set_size(size_bytes);
    header.set_cksum();
    Ok(header)
}

fn sync(dir: &Path) -> Result<(), FileError> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(failed("sync to disk", dir))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;
    use std::process::Command;

    fn sample() -> (tempfile::TempDir, Store, ImageRef) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(dir.path().join("store"));
        let (signer, _) = testing::keys(dir.path());
        let image = testing::publish(&store, Some(&signer));
        (dir, store, image)
    }

    #[test]
    fn tar_lists_and_unpacks_the_files_with_the_manifest_first() {
        let (dir, store, image) = sample();
        let file = dir.path().join("compute.tar");
        let mut read = 0;
        export_to_file(&store, &image, &file, |bytes| read += bytes).unwrap();
        assert_eq!(read, 29);
        assert_eq!(fs::metadata(&file).unwrap().len(), exported_bytes(&store, &image).unwrap());

        let out = dir.path().join("out");
        fs::create_dir(&out).unwrap();
        for (program, list) in [("tar", "-tf"), ("bsdtar", "-tf"), ("busybox", "tar")] {
            let mut command = Command::new(program);
            if program == "busybox" {
                command.args([list, "-tf"]);
            } else {
                command.arg(list);
            }
            let listed = command.arg(&file).output().unwrap();
            assert_eq!(
                String::from_utf8(listed.stdout).unwrap(),
                "manifest.json\nmanifest.json.minisig\ninitramfs-fetched.img\nrootfs.squashfs\nvmlinuz\n",
                "{program}"
            );
        }
        assert!(Command::new("tar").arg("-xf").arg(&file).arg("-C").arg(&out).status().unwrap().success());
        assert_eq!(testing::files(&out), testing::files(&store.dir(&image)));

        let again = dir.path().join("again.tar");
        export_to_file(&store, &image, &again, |_| ()).unwrap();
        assert_eq!(fs::read(file).unwrap(), fs::read(again).unwrap());
    }

    #[test]
    fn damage_in_the_store_leaves_no_file_and_an_older_one_as_it_was() {
        let (dir, store, image) = sample();
        let out = tempfile::tempdir().unwrap();
        let file = out.path().join("compute.tar");
        let kernel = store.dir(&image).join("vmlinuz");
        for (contents, problem) in [("kernal", "has SHA-256"), ("kernel2", "has 7 bytes, expected 6")] {
            fs::write(&kernel, contents).unwrap();
            for older in [None, Some("older")] {
                if let Some(older) = older {
                    fs::write(&file, older).unwrap();
                }
                let error = export_to_file(&store, &image, &file, |_| ()).unwrap_err().to_string();
                assert!(error.contains(&format!("vmlinuz of compute/1 {problem}")), "{error}");
                assert_eq!(testing::files(out.path()).len(), usize::from(older.is_some()));
                assert_eq!(fs::read_to_string(&file).ok().as_deref(), older);
            }
            fs::remove_file(&file).unwrap();
        }
        drop(dir);
    }

    #[test]
    fn what_is_no_file_is_not_replaced() {
        let (dir, store, image) = sample();
        let error = export_to_file(&store, &image, dir.path(), |_| ()).unwrap_err();
        assert!(matches!(error, TransferError::NoFile(_)), "{error}");
        let fifo = dir.path().join("null");
        std::os::unix::fs::symlink("/dev/null", &fifo).unwrap();
        assert!(matches!(export_to_file(&store, &image, &fifo, |_| ()), Err(TransferError::NoFile(_))));
    }
}
