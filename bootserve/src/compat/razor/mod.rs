//! What clients of Razor ask for: `docs/migrating.md`. Its machines are those of [`crate::discovery`], and its policies ours.
//!
//! [`hardware`] is what a URL says of a machine, [`store`] knows machines by it and gives them numbers, [`facts`] turns facter's facts
//! into ours and back, [`rule`] reads Razor's rules of tags, and [`bootstrap`] writes the script that iPXE starts with. The routes are
//! in `http/razor`. Razor's tasks, brokers, repositories and its own API are not there.

pub mod bootstrap;
pub mod facts;
pub mod hardware;
pub mod rule;
pub mod store;
