//! What goes wrong with an object store, in the words of who has to mend it.

use std::error::Error;
use std::io;

use bootspec::ImageRef;
use object_store::client::{HttpError, HttpErrorKind};

/// What servers answer to a list, of which the library keeps no status: the bucket is missing, or who asks may not.
const NO_BUCKET: &str = "NoSuchBucket";
const DENIED: [&str; 3] = ["AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch"];

/// An object store did not do what was asked of it.
#[derive(Debug, thiserror::Error)]
pub enum RemoteError {
    /// The text is no URL of ours.
    #[error("'{0}' is no place for images: expected s3://BUCKET or s3://BUCKET/PREFIX")]
    Url(String),
    /// Nobody said who asks.
    #[error(
        "there are no credentials for {0}\nhint: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, and AWS_ENDPOINT_URL if it is not at Amazon; AWS_SKIP_SIGNATURE=true reads what everybody may read"
    )]
    NoCredentials(String),
    /// The environment contradicts itself.
    #[error("cannot use {url} with the AWS_* variables that are set")]
    Settings {
        /// Which place.
        url: String,
        /// What is wrong.
        #[source]
        source: object_store::Error,
    },
    /// There is no such bucket.
    #[error(
        "there is no bucket {bucket} at {endpoint}\nhint: make it first, or look at AWS_ENDPOINT_URL: buckets are never made here"
    )]
    NoBucket {
        /// Its name.
        bucket: String,
        /// Who was asked.
        endpoint: String,
    },
    /// There is no such image.
    #[error("there is no image {image} at {url}\nhint: `imagebuild list {url}` shows what there is")]
    NoImage {
        /// What was asked for.
        image: String,
        /// Where.
        url: String,
    },
    /// There is another version of the same name.
    #[error(
        "there is another {image} at {url}: its files differ\nhint: a version never changes; build another one"
    )]
    Exists {
        /// Which version.
        image: ImageRef,
        /// Where.
        url: String,
    },
    /// The credentials do not allow it.
    #[error(
        "{endpoint} does not allow to {action} {what}: {reason}\nhint: look at AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, and at what they may do"
    )]
    Denied {
        /// What was attempted.
        action: &'static str,
        /// On what.
        what: String,
        /// Who was asked.
        endpoint: String,
        /// What it answered.
        reason: String,
    },
    /// Nobody answers.
    #[error(
        "cannot {action} {what}: {endpoint} cannot be reached: {reason}\nhint: is AWS_ENDPOINT_URL right, and does the server run?"
    )]
    Unreachable {
        /// What was attempted.
        action: &'static str,
        /// On what.
        what: String,
        /// Who was asked.
        endpoint: String,
        /// Why it cannot be reached.
        reason: String,
    },
    /// Anything else.
    #[error("cannot {action} {what} at {endpoint}: {reason}")]
    Failed {
        /// What was attempted.
        action: &'static str,
        /// On what.
        what: String,
        /// Who was asked.
        endpoint: String,
        /// Why not.
        reason: String,
    },
    /// The runtime of the library.
    #[error("cannot prepare for asynchronous work")]
    Runtime(#[source] io::Error),
    /// The user stopped it.
    #[error("interrupted")]
    Interrupted,
}

impl RemoteError {
    /// What `error` means. Its causes repeat each other, so the innermost alone is kept, as text.
    pub(super) fn of(action: &'static str, what: &str, endpoint: &str, error: &object_store::Error) -> Self {
        let (what, endpoint, reason) = (what.to_owned(), endpoint.to_owned(), reason(error));
        use object_store::Error::{PermissionDenied, Unauthenticated};
        let denied = matches!(error, PermissionDenied { .. } | Unauthenticated { .. });
        if denied || DENIED.contains(&reason.as_str()) {
            Self::Denied { action, what, endpoint, reason }
        } else if is_unreachable(error) {
            Self::Unreachable { action, what, endpoint, reason }
        } else {
            Self::Failed { action, what, endpoint, reason }
        }
    }
}

/// Whether `error` means that the bucket is missing.
pub(super) fn is_missing_bucket(error: &object_store::Error) -> bool {
    matches!(error, object_store::Error::NotFound { .. }) || reason(error) == NO_BUCKET
}

fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    let mut next = Some(error);
    std::iter::from_fn(move || {
        let error = next?;
        next = error.source();
        Some(error)
    })
}

fn is_unreachable(error: &object_store::Error) -> bool {
    let mut kinds = causes(error).filter_map(|cause| Some(cause.downcast_ref::<HttpError>()?.kind()));
    kinds.any(|kind| matches!(kind, HttpErrorKind::Connect | HttpErrorKind::Timeout))
}

/// The innermost cause; of an answer, the code in it: `<Code>SignatureDoesNotMatch</Code>`.
fn reason(error: &object_store::Error) -> String {
    let text = causes(error).last().map_or_else(String::new, ToString::to_string);
    let code = text.split_once("<Code>").and_then(|(_, rest)| rest.split_once("</Code>"));
    code.map_or_else(|| text.clone(), |(code, _)| code.to_owned())
}
