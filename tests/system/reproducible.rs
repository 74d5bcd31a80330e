//! The same recipe gives the same image, whoever builds it where. That of a dnf source: `dnf.rs`.

use std::fs;

use anyhow::Result;
use bootlab::reproduction;

/// It touches what imagebuild makes itself besides the packages: files, directories, users, services, a script.
const RECIPE: &str = r#"
name = "reproducible"
packages = ["systemd"]

[source]
type = "mmdebstrap"
suite = "bookworm"

[kernel]
package = "linux-image-cloud-amd64"

[[file]]
path = "/etc/site/motd"
content = "hello"

[[user]]
name = "someone"
password_hash = "!"
ssh_keys = ["ssh-ed25519 AAAA someone"]

[services]
enable = ["systemd-networkd.service"]

[[script]]
name = "made by a script"
run = "mkdir /opt/made; echo made > /opt/made/file"

[compression]
format = "zstd"
level = 1
"#;

#[test]
fn two_builds_give_the_same_bytes_in_other_surroundings() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let recipe = dir.path().join("recipe.toml");
    fs::write(&recipe, RECIPE)?;
    reproduction::check(&recipe)
}
