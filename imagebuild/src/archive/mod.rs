//! From a directory tree to the root archive: a tar cut into independently compressed chunks.
//!
//! ```text
//! scan: tree -> entries, sorted  |  plan: entries -> chunks  |  pack: chunks -> streams, on all cores, end to end
//! ```
//! The format is described in `docs/image-format.md`. The same tree, level and chunk size give the same bytes whatever
//! the number of cores.

mod content;
mod decoder;
mod encoder;
mod pack;
mod plan;
mod scan;
mod sparse;
mod tar_entry;

pub use decoder::decode;
pub use pack::{PackError, PackOptions, pack};
pub use scan::{Entry, Kind, ScanError, scan, with_xattr};
