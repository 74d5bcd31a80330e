//! What two of bootnode's programs must agree on, as types.
//!
//! `imagebuild` writes images, `init` unpacks them, `bootserve` hands them out and says on the kernel command line
//! how they are to be booted. None of the programs depends on another; all of them depend on this crate. It does no
//! I/O: callers read the bytes, this crate gives them meaning.
#![forbid(unsafe_code)]

pub mod cmdline;
pub mod console;
pub mod credential;
pub mod diagnosis;
pub mod digest;
pub mod event;
pub mod facts;
pub mod initramfs;
pub mod mac;
pub mod manifest;
pub mod pax;
pub mod signature;
pub mod store;

pub use digest::Sha256Digest;
pub use mac::MacAddr;
pub use store::{ImageName, ImageRef, ImageVersion};
