//! PID 1 of a diskless node.
//!
//! [`boot::boot`] is the way from the kernel to the image's own init, step by step; the modules below are its steps. The
//! same binary, run as `bootnode-report` in the booted system, tells bootserve how the boot went ([`report`]).
//!
//! Nothing here runs asynchronously, no step waits for the network unless the root is to be fetched, and every path ends
//! in exec, a shell, or the documented failure policy ([`failure`]).

pub mod boot;
pub mod clock;
pub mod code;
pub mod discover;
pub mod failsafe;
pub mod failure;
pub mod fetch;
pub mod http;
pub mod image;
pub mod jitter;
pub mod kmsg;
pub mod last_words;
pub mod memory;
pub mod modules;
pub mod mounts;
pub mod network;
pub mod node_overlay;
pub mod overlay_root;
pub mod report;
pub mod secrets;
pub mod selinux;
pub mod switch_root;
mod sys;
pub mod threads;
pub mod tls;
pub mod trust;
pub mod unpack;
