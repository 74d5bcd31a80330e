//! A laboratory for diskless boots: a network namespace with a bridge, bootserve on it, and qemu nodes on taps.
//!
//! [`lab::Lab`] ties the parts together; tests start there. Everything is awaited with a deadline (see [`deadline`]),
//! nothing is slept for. All traffic stays inside the namespace, so labs run side by side with the same addresses and
//! nothing reaches the host's network.
//!
//! Needs root (namespaces and taps), iproute2 and qemu; `scripts/setup` installs them.

pub mod accel;
pub mod api;
pub mod balance;
pub mod boot;
pub mod bootserve;
pub mod cli;
pub mod console;
pub mod daemon;
pub mod deadline;
pub mod demo;
pub mod direct;
pub mod firmware;
pub mod held;
pub mod images;
pub mod lab;
pub mod leftovers;
pub mod netns;
pub mod open_files;
pub mod other_dhcp;
pub mod places;
pub mod published;
pub mod qemu;
pub mod relay;
pub mod report;
pub mod reproduction;
pub mod rpm_repo;
pub mod served;
pub mod small_root;
pub mod tftp;
pub mod timeline;
pub mod udp_wire;
pub mod user;
