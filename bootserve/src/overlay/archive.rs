//! A node's overlay as a tar: the same bytes for the same files, in the order of their paths.

use std::io;

use tar::{Builder, EntryType, Header};

use super::layers::{Layers, Placed};
use super::tree::Kind;

/// A tar ends with so many zeros (POSIX.1-2017, pax, "ustar Interchange Format").
const END_BYTES: usize = 1024;

/// The tar of files, directories and links, in GNU's format. Of templates, it has the source. If there is an archive `on_top`, its entries
/// come after all others.
pub fn write(layers: &Layers, on_top: Option<&[u8]>) -> io::Result<Vec<u8>> {
    let mut builder = Builder::new(Vec::new());
    for (path, placed) in layers {
        append(&mut builder, path, placed)?;
    }
    let mut tar = builder.into_inner()?;
    if let Some(on_top) = on_top {
        tar.truncate(tar.len() - END_BYTES);
        tar.extend_from_slice(on_top);
    }
    Ok(tar)
}

fn append(builder: &mut Builder<Vec<u8>>, path: &str, placed: &Placed) -> io::Result<()> {
    let entry = &placed.entry;
    let mut header = Header::new_gnu();
    header.set_uid(entry.uid.into());
    header.set_gid(entry.gid.into());
    header.set_mode(entry.mode);
    header.set_mtime(entry.mtime);
    header.set_size(0);
    match &entry.kind {
        Kind::Directory => {
            header.set_entry_type(EntryType::Directory);
            builder.append_data(&mut header, format!("{path}/"), io::empty())
        }
        Kind::Symlink(target) => {
            header.set_entry_type(EntryType::Symlink);
            builder.append_link(&mut header, path, target)
        }
        Kind::File(contents) | Kind::Template(contents) => {
            header.set_entry_type(EntryType::Regular);
            header.set_size(contents.len() as u64);
            builder.append_data(&mut header, path, &contents[..])
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::overlay::tree::Entry;
    use std::io::Write;
    use std::process::{Command, Stdio};

    fn layers(entries: &[(&str, Kind, u32, u32)]) -> Layers {
        let placed = entries.iter().map(|(path, kind, mode, uid)| {
            let entry = Entry { kind: kind.clone(), mode: *mode, uid: *uid, gid: 9, mtime: 1_700_000_000 };
            ((*path).to_owned(), Placed { overlay: "base".parse().unwrap(), entry })
        });
        placed.collect()
    }

    fn listed(tar: &[u8]) -> String {
        let mut command = Command::new("tar");
        let mut child = command
            .args(["--list", "--verbose", "--numeric-owner", "--utc", "--file=-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("GNU tar is installed");
        child.stdin.take().unwrap().write_all(tar).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(
            output.status.success() && output.stderr.is_empty(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap()
    }

    #[test]
    fn gnu_tar_reads_the_overlay_back() {
        let long = format!("etc/{}", "n".repeat(150));
        let target = "t".repeat(200);
        let layers = layers(&[
            ("etc", Kind::Directory, 0o750, 0),
            ("etc/hosts", Kind::File(b"127.0.0.1\n".to_vec()), 0o644, 998),
            ("etc/link", Kind::Symlink("../usr".to_owned()), 0o777, 0),
            (&long, Kind::Symlink(target.clone()), 0o777, 0),
        ]);
        let tar = write(&layers, None).unwrap();
        let expected = format!(
            "drwxr-x--- 0/9               0 2023-11-14 22:13 etc/\n\
             -rw-r--r-- 998/9            10 2023-11-14 22:13 etc/hosts\n\
             lrwxrwxrwx 0/9               0 2023-11-14 22:13 etc/link -> ../usr\n\
             lrwxrwxrwx 0/9               0 2023-11-14 22:13 {long} -> {target}\n"
        );
        assert_eq!(listed(&tar), expected);
        assert_eq!(write(&layers, None).unwrap(), tar);
    }

    #[test]
    fn a_tar_on_top_comes_after_all_else() {
        let [below, above] = ["a", "b"].map(|name| layers(&[(name, Kind::File(name.into()), 0o644, 0)]));
        let above = write(&above, None).unwrap();
        let both = listed(&write(&below, Some(&above)).unwrap());
        let names: Vec<_> = both.lines().filter_map(|line| line.split(' ').next_back()).collect();
        assert_eq!(names, ["a", "b"]);
        assert_eq!(listed(&write(&Layers::new(), None).unwrap()), "");
    }
}
