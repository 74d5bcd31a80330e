//! What several unit tests need.

/// Namespaces, owners, devices and mounts are root's. Returns false, and says so, for anybody else.
pub fn is_root() -> bool {
    let is_root = rustix::process::geteuid().is_root();
    if !is_root {
        eprintln!("skipped: needs root");
    }
    is_root
}
