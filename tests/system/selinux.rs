//! A node with `enforcing=1`, out of RAM.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Result, ensure};
use bootlab::deadline::within;
use bootlab::images;
use bootlab::lab::Lab;
use bootlab::places::store_dir;
use bootlab::qemu::NodeSpec;

/// From power-on to what the image's probe says when all is up, on an idle machine without KVM.
const IDLE_BOOT: Duration = Duration::from_secs(150);

#[test]
fn a_root_in_a_tmpfs_is_labelled_and_the_policy_is_enforced() -> Result<()> {
    let recipe = Path::new(env!("CARGO_MANIFEST_DIR")).join("system/recipes/selinux.toml");
    let image = images::build(&recipe.to_string_lossy(), &store_dir(), Stdio::piped())?;
    let spec = NodeSpec::classic(1, &image.to_string());
    let lab = Lab::start("selinux", &store_dir(), std::slice::from_ref(&spec))?;
    let node = lab.boot(&spec)?;
    node.console().wait_for("probe: end", within(IDLE_BOOT))?;
    let text = node.console().text();
    for expected in [
        "bootnode: loaded the SELinux policy, enforcing",
        "probe: enforcing: 1",
        "probe: root is tmpfs",
        "probe: systemd runs as system_u:system_r:init_t:s0",
        "probe: systemd-network runs as system_u:system_r:systemd_networkd_t:s0",
        "probe: labels are right",
        "probe: / is system_u:object_r:root_t:s0",
        "probe: /etc/shadow is system_u:object_r:shadow_t:s0",
        "probe: /usr/bin/login is system_u:object_r:login_exec_t:s0",
    ] {
        ensure!(text.contains(expected), "no '{expected}' on the console\n{}", node.console().tail());
    }
    for unexpected in ["probe: failed:", "probe: wrong:"] {
        ensure!(!text.contains(unexpected), "'{unexpected}' on the console\n{}", node.console().tail());
    }
    Ok(())
}
