//! The socket in the file system on which the API is answered without a token: who may open it is said by its permissions.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileTypeExt, PermissionsExt, lchown};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use nix::unistd::Group;
use socket2::{Domain, SockAddr, Socket, Type};

use crate::config::Server;
use crate::privileges::{PrivilegeError, find_user};

/// Owner and group alone.
const MODE: u32 = 0o660;
const BACKLOG: i32 = 128;

/// The socket cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum ApiSocketError {
    /// It cannot be made.
    #[error("cannot listen on the API's socket {}\nhint: its directory must be there; systemd's RuntimeDirectory= makes one", path.display())]
    Bind {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Someone answers there.
    #[error("another program listens on {}\nhint: is bootserve running already? ss -lxp shows who it is", path.display())]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// There is something else.
    #[error("{} is there already, and is no socket\nhint: remove it, or name another file in server.api_socket", path.display())]
    NoSocket {
        /// The file.
        path: PathBuf,
    },
    /// There is no such group.
    #[error("there is no group {0}\nhint: set server.api_group to one of /etc/group")]
    NoGroup(String),
    /// Its owner is not there.
    #[error(transparent)]
    Owner(#[from] PrivilegeError),
}

/// Listens on `server.api_socket`, if that is set. A socket that nobody listens on any more is replaced.
pub fn bind(server: &Server) -> Result<Option<UnixListener>, ApiSocketError> {
    let Some(path) = &server.api_socket else { return Ok(None) };
    let owner = server.user.as_deref().map(find_user).transpose()?.map(|user| user.uid.as_raw());
    let group = server.api_group.as_deref().map(find_group).transpose()?;
    make_room(path)?;
    let listen = || {
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        socket.bind(&SockAddr::unix(path)?)?;
        // Before anybody can connect.
        fs::set_permissions(path, fs::Permissions::from_mode(MODE))?;
        lchown(path, owner, group)?;
        socket.listen(BACKLOG)?;
        Ok(socket.into())
    };
    let listener: io::Result<UnixListener> = listen();
    listener.map(Some).map_err(|source| ApiSocketError::Bind { path: path.clone(), source })
}

fn find_group(name: &str) -> Result<u32, ApiSocketError> {
    let found = Group::from_name(name).ok().flatten();
    found.map(|group| group.gid.as_raw()).ok_or_else(|| ApiSocketError::NoGroup(name.to_owned()))
}

/// Removes the socket of a bootserve that was killed. Nothing else is removed.
fn make_room(path: &Path) -> Result<(), ApiSocketError> {
    let failed = |source| ApiSocketError::Bind { path: path.to_owned(), source };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
        Ok(found) if !found.file_type().is_socket() => {
            return Err(ApiSocketError::NoSocket { path: path.to_owned() });
        }
        Ok(_) => {}
    }
    match UnixStream::connect(path) {
        Ok(_) => Err(ApiSocketError::InUse { path: path.to_owned() }),
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => fs::remove_file(path).map_err(failed),
        Err(error) => Err(failed(error)),
    }
}
