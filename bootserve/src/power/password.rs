//! Passwords of BMCs: read from files, never logged, and wiped when they are no longer used.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

/// Longer ones are no passwords.
const MAX_BYTES: usize = 1024;

/// A password. Its Debug does not show it.
pub struct Password(Zeroizing<String>);

/// A file has no password.
#[derive(Debug, thiserror::Error)]
pub enum PasswordError {
    /// It cannot be read.
    #[error("cannot read the password in {}\nhint: bmc.password_file names a file that you may read", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Everybody may read or write it.
    #[error("{} has mode {mode:04o}: expected a file that is closed to others\nhint: chmod 600 {}", path.display(), path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// What is in it is none.
    #[error("{} holds no password: expected one line of at most {MAX_BYTES} bytes", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
    },
}

impl Password {
    /// Reads the one line of the file.
    pub fn read(path: &Path) -> Result<Self, PasswordError> {
        let unreadable = |source| PasswordError::Read { path: path.to_owned(), source };
        let file = File::open(path).map_err(unreadable)?;
        let mode = file.metadata().map_err(unreadable)?.mode() & 0o7777;
        if mode & 0o007 != 0 {
            return Err(PasswordError::Open { path: path.to_owned(), mode });
        }
        // As large as it may become: growing would leave copies behind.
        let mut text = Zeroizing::new(String::with_capacity(MAX_BYTES + 2));
        file.take(MAX_BYTES as u64 + 1).read_to_string(&mut text).map_err(unreadable)?;
        let line = text.strip_suffix('\n').unwrap_or(&text);
        match line.is_empty() || line.len() > MAX_BYTES || line.contains(char::is_control) {
            true => Err(PasswordError::Malformed { path: path.to_owned() }),
            false => Ok(Self(Zeroizing::new(line.to_owned()))),
        }
    }

    /// What it is.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Password {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Password(…)")
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{Permissions, set_permissions, write};
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_password_is_the_one_line_of_a_file_that_is_closed_to_others() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("password");
        let read = |text: &str, mode| {
            write(&path, text).unwrap();
            set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            Password::read(&path)
        };
        for text in ["p w: x", "p w: x\n"] {
            assert_eq!(read(text, 0o640).unwrap().expose(), "p w: x");
        }
        assert_eq!(format!("{:?}", read("secret", 0o600).unwrap()), "Password(…)");
        for mode in [0o644, 0o602, 0o601] {
            assert!(matches!(read("x", mode), Err(PasswordError::Open { .. })), "{mode:o}");
        }
        for text in ["", "\n", "a\nb\n", "a\0b", &"x".repeat(MAX_BYTES + 1)] {
            assert!(matches!(read(text, 0o600), Err(PasswordError::Malformed { .. })), "{text}");
        }
        assert!(read(&"x".repeat(MAX_BYTES), 0o600).is_ok());
        assert!(matches!(Password::read(&dir.path().join("none")), Err(PasswordError::Read { .. })));
    }
}
