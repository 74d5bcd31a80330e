//! The API on a socket in the file system ([`crate::api_socket`]): the same routes, and whoever may open it is an operator without a
//! token. Changes are noted under the name of the user who asked, which the kernel tells (unix(7), SO_PEERCRED).

use std::io;
use std::sync::Arc;

use axum::Router;
use axum::extract::connect_info::Connected;
use axum::serve::IncomingStream;
use nix::unistd::{Uid, User};
use tokio::net::UnixListener;
use tokio_util::sync::CancellationToken;

use super::{App, Handlers, api_routes, on_disk};
use crate::live::Live;
use crate::tokens::{Role, Token};

/// Who has connected.
#[derive(Clone, Copy, Debug)]
pub(super) struct LocalPeer {
    uid: Option<u32>,
}

impl Connected<IncomingStream<'_, UnixListener>> for LocalPeer {
    fn connect_info(stream: IncomingStream<'_, UnixListener>) -> Self {
        Self { uid: stream.io().peer_cred().ok().map(|peer| peer.uid()) }
    }
}

impl LocalPeer {
    /// What a token would say of him.
    pub async fn token(self) -> Token {
        let name = match self.uid {
            // The user database may be on another machine.
            Some(uid) => on_disk(move || user_name(uid)).await,
            None => "unknown".to_owned(),
        };
        Token { name, role: Role::Operator, created_unix_ms: 0 }
    }
}

fn user_name(uid: u32) -> String {
    let user = User::from_uid(Uid::from_raw(uid)).ok().flatten();
    user.map_or_else(|| format!("uid-{uid}"), |user| user.name)
}

/// Answers on `socket` until `shutdown`.
pub async fn run_local(
    socket: UnixListener,
    live: Arc<Live>,
    app: App,
    shutdown: CancellationToken,
) -> io::Result<()> {
    let router: Router = api_routes().with_state(Handlers { live, app });
    let service = router.into_make_service_with_connect_info::<LocalPeer>();
    axum::serve(socket, service).with_graceful_shutdown(async move { shutdown.cancelled().await }).await
}
