//! Tests that run again as a process of their own, in namespaces that end with it (unshare(1)). Needs root.

use std::env;
use std::process::Command;

/// Set in the process that runs in the namespaces.
const INSIDE: &str = "BOOTNODE_TEST_INSIDE";

/// Runs `test`, whose name is `name`, in mount and network namespaces of its own, which the shell script `setup` prepares.
pub fn isolated(name: &str, setup: &str, test: impl FnOnce()) {
    if env::var_os(INSIDE).is_some() {
        return test();
    }
    let output = Command::new("unshare")
        .args(["--net", "--mount", "--propagation", "private", "sh", "-c"])
        .arg(format!("set -e\n{setup}\nexec \"$@\""))
        .arg("sh")
        .arg(env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env(INSIDE, "1")
        .output()
        .expect("cannot run unshare(1), of util-linux");
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && stdout.contains("1 passed"), "in the namespaces:\n{stdout}\n{stderr}");
}
