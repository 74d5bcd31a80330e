//! Giving up root once the low ports are bound. It must happen before the runtime starts its threads, though setuid
//! acts on all of them.

use std::io;
use std::os::unix::fs::lchown;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::unistd::{Gid, Uid, User, setgid, setgroups, setuid};

use crate::database::FILES;

/// The user cannot be changed.
#[derive(Debug, thiserror::Error)]
pub enum PrivilegeError {
    /// There is no such user.
    #[error("there is no user {0}\nhint: set server.user to one of /etc/passwd")]
    NoUser(String),
    /// The kernel or the user database refused.
    #[error("cannot {action}")]
    Refused {
        /// What was attempted.
        action: &'static str,
        /// Why.
        #[source]
        source: Errno,
    },
    /// The state directory or the database in it cannot be made or handed over.
    #[error("cannot make {} or hand it to server.user", path.display())]
    State {
        /// The directory or file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Makes the state directory and hands it, with the database in it, to `user`. Nothing else that may be in the
/// directory changes hands: the path may be a mistake.
pub fn prepare_state(state: &Path, user: Option<&User>) -> Result<(), PrivilegeError> {
    let state_error = |path: &Path| {
        let path = path.to_owned();
        move |source| PrivilegeError::State { path, source }
    };
    std::fs::create_dir_all(state).map_err(state_error(state))?;
    let Some(user) = user else { return Ok(()) };
    let database = FILES.iter().map(|name| state.join(name)).filter(|path| path.exists());
    for path in std::iter::once(state.to_owned()).chain(database) {
        // The link itself, not what it points to: the directory may have belonged to the user before.
        lchown(&path, Some(user.uid.as_raw()), Some(user.gid.as_raw())).map_err(state_error(&path))?;
    }
    Ok(())
}

/// Looks up a user to become.
pub fn find_user(name: &str) -> Result<User, PrivilegeError> {
    let found = User::from_name(name);
    let found = found.map_err(|source| PrivilegeError::Refused { action: "look up server.user", source })?;
    found.ok_or_else(|| PrivilegeError::NoUser(name.to_owned()))
}

/// Becomes `user` for good: groups first, as it is root who may change them.
pub fn become_user(user: &User) -> Result<(), PrivilegeError> {
    let refused = |action| move |source| PrivilegeError::Refused { action, source };
    if Uid::effective() == user.uid && Gid::effective() == user.gid {
        return Ok(());
    }
    setgroups(&[user.gid]).map_err(refused("drop supplementary groups"))?;
    setgid(user.gid).map_err(refused("change the group"))?;
    setuid(user.uid).map_err(refused("change the user"))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_user_is_named() {
        let error = find_user("no-such-user").unwrap_err().to_string();
        assert!(error.contains("no-such-user"), "{error}");
    }

    #[test]
    fn the_state_directory_is_made() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("a/b");
        prepare_state(&state, None).unwrap();
        assert!(state.is_dir());
    }
}
