//! Giving up root once the low ports are bound. It must happen before the runtime starts its threads, though setuid
//! acts on all of them.

use std::io;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::unistd::{Gid, Uid, User, setgid, setgroups, setuid};

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
    /// The state directory cannot be made or handed over.
    #[error("cannot prepare the state directory {}", path.display())]
    State {
        /// Directory or file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Makes the state directory, open to no one else, and hands it to `user` with all that is in it.
pub fn prepare_state(state: &Path, user: Option<&User>) -> Result<(), PrivilegeError> {
    let state_error = |source| PrivilegeError::State { path: state.to_owned(), source };
    std::fs::create_dir_all(state).map_err(state_error)?;
    let Some(user) = user else { return Ok(()) };
    let owner = (Some(user.uid.as_raw()), Some(user.gid.as_raw()));
    std::os::unix::fs::chown(state, owner.0, owner.1).map_err(state_error)?;
    for entry in std::fs::read_dir(state).map_err(state_error)? {
        // The link itself, not what it points to: the directory may have belonged to the user before.
        std::os::unix::fs::lchown(entry.map_err(state_error)?.path(), owner.0, owner.1)
            .map_err(state_error)?;
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
