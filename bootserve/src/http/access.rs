//! Who may use the part of the API that shows and changes how nodes are configured. All else is the nodes' own, and open to their network.

use std::net::SocketAddrV4;
use std::sync::Arc;

use axum::extract::{ConnectInfo, FromRef, FromRequestParts};
use axum::http::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use tracing::warn;

use super::local::LocalPeer;
use super::{App, internal_error, text};
use crate::config::Scheme;
use crate::tokens::{Role, Token, find};

/// The bearer of a token that may see how nodes are configured.
pub(super) struct Viewer;

/// The bearer of a token that may change nodes.
pub(super) struct Operator(pub Token);

impl<S: Send + Sync> FromRequestParts<S> for Viewer
where
    Arc<App>: FromRef<S>,
{
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Response> {
        admit(&Arc::from_ref(state), parts, Role::Viewer).await.map(|_| Self)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Operator
where
    Arc<App>: FromRef<S>,
{
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Response> {
        admit(&Arc::from_ref(state), parts, Role::Operator).await.map(Self)
    }
}

/// The token of a request, if that is good for `role`; or what it is answered.
///
/// A token is not looked at if everyone on the way has seen it: it is to come with TLS, or from this machine.
async fn admit(app: &App, parts: &Parts, role: Role) -> Result<Token, Response> {
    // The permissions of the socket have said already that he may.
    if let Some(ConnectInfo(peer)) = parts.extensions.get::<ConnectInfo<LocalPeer>>() {
        return Ok(peer.token().await);
    }
    let peer = parts.extensions.get::<ConnectInfo<SocketAddrV4>>().map(|ConnectInfo(peer)| *peer);
    let path = parts.uri.path();
    if !is_private(parts.extensions.get().copied(), peer) {
        warn!(?peer, path, "an API request without TLS was refused");
        return Err(text(
            StatusCode::FORBIDDEN,
            "this is answered to https alone, or on the boot server itself\nhint: [tls] in bootserve's configuration",
        ));
    }
    let Some(secret) = bearer(&parts.headers) else {
        return Err(unauthorized(
            "this needs a token\nhint: Authorization: Bearer TOKEN; bootserve token new",
        ));
    };
    match find(app.events.database(), secret).await {
        Ok(Some(token)) if token.role >= role => Ok(token),
        Ok(Some(Token { name, role: has, .. })) => {
            warn!(?peer, token = name, path, "a token was not good enough");
            Err(text(StatusCode::FORBIDDEN, format!("the token {name} has the role {has}, expected {role}")))
        }
        Ok(None) => {
            warn!(?peer, path, "an unknown token was shown");
            Err(unauthorized("this token is not known\nhint: bootserve token list"))
        }
        Err(error) => Err(internal_error(&error)),
    }
}

/// Whether nobody on the way has seen the token.
fn is_private(scheme: Option<Scheme>, peer: Option<SocketAddrV4>) -> bool {
    scheme == Some(Scheme::Https) || peer.is_some_and(|peer| peer.ip().is_loopback())
}

/// RFC 6750 section 2.1.
pub(super) fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("Bearer").then(|| token.trim())
}

fn unauthorized(message: &str) -> Response {
    let mut response = text(StatusCode::UNAUTHORIZED, message).into_response();
    response.headers_mut().insert(WWW_AUTHENTICATE, "Bearer".parse().expect("it is a header value"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_comes_with_tls_or_from_this_machine() {
        let cases = [
            (Some(Scheme::Https), "192.168.0.7:1", true),
            (Some(Scheme::Http), "127.0.0.1:1", true),
            (Some(Scheme::Http), "192.168.0.7:1", false),
            (None, "192.168.0.7:1", false),
        ];
        for (scheme, peer, expected) in cases {
            assert_eq!(is_private(scheme, Some(peer.parse().unwrap())), expected, "{scheme:?} {peer}");
        }
        assert!(!is_private(None, None));
    }

    #[test]
    fn a_bearer_is_read_as_rfc_6750_writes_it() {
        let headers = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(AUTHORIZATION, value.parse().unwrap());
            headers
        };
        let cases = [("Bearer x", Some("x")), ("bearer x", Some("x")), ("Basic x", None), ("Bearer", None)];
        for (value, expected) in cases {
            assert_eq!(bearer(&headers(value)), expected, "{value}");
        }
    }
}
