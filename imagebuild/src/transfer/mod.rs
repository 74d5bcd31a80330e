//! Versions of images leave the store and come into it: as one file (`export`, `import`), or by an object store (`remote`).
//!
//! What leaves is read against its manifest, so that damage stays where it is. What comes is hostile until it has been checked:
//! names, sizes and digests against the manifest, and the manifest, where keys are given, against its signature. It is published
//! under its own name, whole or not at all.

mod export;
mod import;
mod incoming;
mod outgoing;
pub mod remote;

use std::io;

use bootspec::ImageRef;
use bootspec::manifest::ManifestError;
use bootspec::signature::SignatureError;

use crate::file_error::FileError;
use crate::store::StoreError;

pub use export::{export, export_to_file, exported_bytes};
pub use import::import;
use incoming::Receiving;
pub use incoming::{Arrival, Terms};

/// A version cannot be copied.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    /// The store refused.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A file of this machine.
    #[error(transparent)]
    File(#[from] FileError),
    /// The object store refused.
    #[error(transparent)]
    Remote(#[from] remote::RemoteError),
    /// Where the file should be is something else.
    #[error(
        "{0} exists and is no regular file: it is not replaced\nhint: name another file, or - for standard output"
    )]
    NoFile(String),
    /// Reading or writing came to an end.
    #[error("cannot copy {what} from {from} to {to}")]
    Copy {
        /// The artifact.
        what: String,
        /// Where it is.
        from: String,
        /// Where it was to be.
        to: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// What is to be copied is not what the manifest says.
    #[error("{what} of {from} {problem}: it is damaged\nhint: {}", hint(*.leaving))]
    Damaged {
        /// The artifact.
        what: String,
        /// Where it is: a version, a file, a URL.
        from: String,
        /// What is wrong with it.
        problem: String,
        /// Whether it was to leave the store.
        leaving: bool,
    },
    /// The file is no tar.
    #[error(
        "cannot read {from} as a tar\nhint: it has to be a file of `imagebuild export`; unpack a compressed one on the way: `zstdcat FILE | imagebuild import -`"
    )]
    NoTar {
        /// The file.
        from: String,
        /// What is wrong with it.
        #[source]
        source: io::Error,
    },
    /// The manifest does not come first.
    #[error(
        "{from} is no exported image: it begins with {found}, expected manifest.json\nhint: it has to be a file of `imagebuild export`"
    )]
    NoManifest {
        /// The file.
        from: String,
        /// What comes first.
        found: String,
    },
    /// The manifest is not usable.
    #[error("the manifest of {from} is not usable")]
    Manifest {
        /// Where it came from.
        from: String,
        /// What is wrong with it.
        #[source]
        source: ManifestError,
    },
    /// A version of such a manifest would not boot, or not fit into a store.
    #[error("the manifest of {from} {problem}")]
    Unusable {
        /// Where it came from.
        from: String,
        /// What is wrong with it.
        problem: String,
    },
    /// Nobody who is trusted has signed it.
    #[error("{image} of {from} is not trusted")]
    Untrusted {
        /// Which version it says it is.
        image: ImageRef,
        /// Where it came from.
        from: String,
        /// Why not.
        #[source]
        source: SignatureError,
    },
    /// Something is there that does not belong there.
    #[error("{from} has {member}, which {problem}: it is refused")]
    Unexpected {
        /// Where it came from.
        from: String,
        /// What it calls itself.
        member: String,
        /// Why it does not belong there.
        problem: String,
    },
    /// Something is not there.
    #[error("{from} has no {name}, which its manifest lists")]
    Missing {
        /// Where it should be.
        from: String,
        /// What is missing.
        name: String,
    },
}

fn hint(leaving: bool) -> &'static str {
    match leaving {
        true => "`imagebuild verify` tells what else is; build the image again",
        false => "copy it again, from a place where `imagebuild verify` finds it whole",
    }
}
