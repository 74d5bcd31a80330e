//! Everything about a tar entry but its contents: from the ustar header and the PAX records before it, and onto the file
//! system.

use std::borrow::Cow;
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::Once;

use rustix::fs::{
    AtFlags, Gid, Mode, Timespec, Timestamps, Uid, XattrFlags, chmodat, chownat, fchmod, fchown, fsetxattr,
    futimens, lsetxattr, utimensat,
};
use rustix::io::Errno;
use tar::Header;

use super::extract::ExtractError;
use super::pax::Record;
use crate::kmsg;

/// Begins the PAX keys of extended attributes.
const XATTR_KEY: &str = "SCHILY.xattr.";

/// The owner of what this process makes.
#[derive(Clone, Copy)]
pub struct Creator {
    /// Effective user.
    pub uid: Uid,
    /// Effective group.
    pub gid: Gid,
}

/// An entry's metadata.
#[derive(Debug)]
pub struct Metadata {
    /// Path relative to the root; empty for the root itself.
    pub path: PathBuf,
    /// Target of a symbolic or hard link, as it stands in the archive.
    pub link: Option<Vec<u8>>,
    /// Length of the file if it is stored with holes left out (GNU sparse format 1.0).
    pub sparse_bytes: Option<u64>,
    /// Permissions, setuid, setgid and sticky bits.
    pub mode: Mode,
    uid: Uid,
    gid: Gid,
    mtime: Timespec,
    xattrs: Vec<(OsString, Vec<u8>)>,
}

impl Metadata {
    /// What `header` and the PAX `records` before it say. The length of an entry is the header's alone: imagebuild writes
    /// lengths of any size there.
    pub fn new(header: &Header, records: Vec<Record>) -> Result<Self, ExtractError> {
        let mut metadata = Self {
            path: path(header.path_bytes()),
            link: header.link_name_bytes().map(Cow::into_owned),
            sparse_bytes: None,
            mode: Mode::from_raw_mode(header.mode().map_err(ExtractError::Archive)? & 0o7777),
            uid: Uid::from_raw(id(header.uid().map_err(ExtractError::Archive)?)?),
            gid: Gid::from_raw(id(header.gid().map_err(ExtractError::Archive)?)?),
            mtime: Timespec {
                tv_sec: header.mtime().map_err(ExtractError::Archive)?.try_into().unwrap_or(i64::MAX),
                tv_nsec: 0,
            },
            xattrs: Vec::new(),
        };
        for (key, value) in records {
            metadata.apply_record(&key, value)?;
        }
        Ok(metadata)
    }

    fn apply_record(&mut self, key: &str, value: Vec<u8>) -> Result<(), ExtractError> {
        let malformed = || ExtractError::Record(format!("{key}={}", String::from_utf8_lossy(&value)));
        let number = || parse_number(&value).ok_or_else(malformed);
        match key {
            "path" | "GNU.sparse.name" => self.path = path(value.into()),
            "linkpath" => self.link = Some(value),
            "mtime" => self.mtime = parse_time(&value).ok_or_else(malformed)?,
            "uid" => self.uid = Uid::from_raw(id(number()?)?),
            "gid" => self.gid = Gid::from_raw(id(number()?)?),
            "GNU.sparse.realsize" => self.sparse_bytes = Some(number()?),
            _ => {
                if let Some(name) = key.strip_prefix(XATTR_KEY) {
                    self.xattrs.push((name.into(), value));
                }
            }
        }
        Ok(())
    }

    /// Whether a file that `creator` makes with this mode lacks nothing but its times.
    pub fn is_plain(&self, creator: Creator) -> bool {
        let is_special = self.mode.intersects(Mode::SUID | Mode::SGID | Mode::SVTX);
        self.uid == creator.uid && self.gid == creator.gid && self.xattrs.is_empty() && !is_special
    }

    /// Sets the times of an open file.
    pub fn set_times_on(&self, fd: BorrowedFd<'_>) -> Result<(), Errno> {
        futimens(fd, &self.times())
    }

    /// Sets everything on an open file or directory. The owner first, because changing it drops setuid and capabilities.
    pub fn set_on(&self, fd: BorrowedFd<'_>) -> Result<(), Errno> {
        fchown(fd, Some(self.uid), Some(self.gid))?;
        fchmod(fd, self.mode)?;
        for (name, value) in &self.xattrs {
            self.or_lost(name, fsetxattr(fd, name, value, XattrFlags::empty()))?;
        }
        futimens(fd, &self.times())
    }

    /// Sets everything on `name` in `parent`, which was just made and is no file or directory.
    pub fn set_at(&self, parent: BorrowedFd<'_>, name: &Path, is_symlink: bool) -> Result<(), Errno> {
        chownat(parent, name, Some(self.uid), Some(self.gid), AtFlags::SYMLINK_NOFOLLOW)?;
        if !is_symlink {
            chmodat(parent, name, self.mode, AtFlags::empty())?;
        }
        if !self.xattrs.is_empty() {
            // There is no call that sets an attribute relative to a directory without following links.
            let path = Path::new("/proc/self/fd").join(parent.as_fd().as_raw_fd().to_string()).join(name);
            for (name, value) in &self.xattrs {
                self.or_lost(name, lsetxattr(&path, name, value, XattrFlags::empty()))?;
            }
        }
        utimensat(parent, name, &self.times(), AtFlags::SYMLINK_NOFOLLOW)
    }

    /// A tmpfs keeps no attributes of the namespace `user` before Linux 6.6. Nothing that boots a machine is kept there, so
    /// they are lost, and the first of them is named.
    fn or_lost(&self, name: &OsStr, set: Result<(), Errno>) -> Result<(), Errno> {
        static SAID: Once = Once::new();
        if set != Err(Errno::OPNOTSUPP) || !name.as_bytes().starts_with(b"user.") {
            return set;
        }
        SAID.call_once(|| {
            kmsg::warn(&format!(
                "this kernel's tmpfs keeps no user attributes (Linux 6.6 does): they are lost, first {} of /{}",
                name.display(),
                self.path.display()
            ));
        });
        Ok(())
    }

    fn times(&self) -> Timestamps {
        Timestamps { last_access: self.mtime, last_modification: self.mtime }
    }
}

/// A name in an archive as a path: directories end in a slash, and the root is `./`.
pub fn path(bytes: Cow<'_, [u8]>) -> PathBuf {
    let path = PathBuf::from(OsString::from_vec(bytes.into_owned()));
    path.strip_prefix(".").map(Path::to_owned).unwrap_or(path)
}

/// Owners are 32 bits wide, and the highest means "unchanged" to the kernel.
fn id(number: u64) -> Result<u32, ExtractError> {
    u32::try_from(number)
        .ok()
        .filter(|id| *id != u32::MAX)
        .ok_or_else(|| ExtractError::Record(format!("owner {number}")))
}

/// A decimal number, digits alone.
pub fn parse_number(text: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(text).ok()?;
    if text.bytes().all(|byte| byte.is_ascii_digit()) { text.parse().ok() } else { None }
}

/// PAX's decimal seconds: `1700000000.25`, `-0.5`. Rounded down to a nanosecond.
fn parse_time(text: &[u8]) -> Option<Timespec> {
    let (negative, text) = match text.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let point = text.iter().position(|byte| *byte == b'.').unwrap_or(text.len());
    let seconds = i64::try_from(parse_number(&text[..point])?).ok()?;
    let fraction = text.get(point + 1..).unwrap_or_default();
    let nanos = parse_nanos(fraction)?;
    Some(match (negative, nanos) {
        (false, _) => Timespec { tv_sec: seconds, tv_nsec: nanos },
        (true, 0) => Timespec { tv_sec: -seconds, tv_nsec: 0 },
        (true, _) => Timespec { tv_sec: -seconds - 1, tv_nsec: 1_000_000_000 - nanos },
    })
}

fn parse_nanos(fraction: &[u8]) -> Option<i64> {
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let digits = fraction.iter().copied().chain(std::iter::repeat(b'0')).take(9);
    Some(digits.fold(0, |nanos, digit| nanos * 10 + i64::from(digit - b'0')))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check_time(text: &str, expected: Option<(i64, i64)>) {
        let found = parse_time(text.as_bytes()).map(|time| (time.tv_sec, time.tv_nsec));
        assert_eq!(found, expected, "{text:?}");
    }

    #[test]
    fn times_are_decimal_seconds() {
        check_time("1700000000", Some((1_700_000_000, 0)));
        check_time("1.5", Some((1, 500_000_000)));
        check_time("1.0000000019", Some((1, 1)));
        check_time("-0.500000000", Some((-1, 500_000_000)));
        check_time("-2", Some((-2, 0)));
        for text in ["", "x", "1.x", "--1", "99999999999999999999"] {
            check_time(text, None);
        }
    }

    #[test]
    fn only_user_attributes_that_the_file_system_does_not_know_are_lost() {
        let mut header = Header::new_ustar();
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        let metadata = Metadata::new(&header, Vec::new()).unwrap();
        for (name, found, expected) in [
            ("user.x", Err(Errno::OPNOTSUPP), Ok(())),
            ("user.x", Err(Errno::NOSPC), Err(Errno::NOSPC)),
            ("user.x", Ok(()), Ok(())),
            ("security.capability", Err(Errno::OPNOTSUPP), Err(Errno::OPNOTSUPP)),
            ("username", Err(Errno::OPNOTSUPP), Err(Errno::OPNOTSUPP)),
        ] {
            assert_eq!(metadata.or_lost(name.as_ref(), found), expected, "{name}");
        }
    }

    #[test]
    fn the_root_is_an_empty_path_and_others_lose_their_dot() {
        let check = |name: &[u8], expected: &str| assert_eq!(path(name.into()), Path::new(expected));
        check(b"./", "");
        check(b"./usr/bin/", "usr/bin");
        check(b"usr/bin/", "usr/bin");
    }

    proptest! {
        #[test]
        fn any_time_is_parsed_or_rejected_without_panic(text: Vec<u8>) {
            if let Some(time) = parse_time(&text) {
                prop_assert!((0..1_000_000_000).contains(&time.tv_nsec));
            }
        }
    }
}
