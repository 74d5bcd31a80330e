//! The same recipe gives the same image, whoever builds it where. That of a dnf source: `dnf.rs`.

use std::fs;

use anyhow::Result;
use bootlab::reproduction;

/// It touches what imagebuild makes itself besides the packages: files, directories, users, services, a script.
const RECIPE: &str = r#"
name = "reproducible"
architecture = "x86_64"
packages = ["systemd", "libcap2-bin"]

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
run = """
mkdir /opt/made
echo made > /opt/made/file
cp /bin/true /opt/made/capable
setcap cap_net_raw=ep /opt/made/capable
cp /bin/true /opt/made/setuid
chown someone:65535 /opt/made/setuid
chmod 6755 /opt/made/setuid
"""

[[script]]
name = "the network"
network = true
run = "test -s /etc/resolv.conf; test -d /sys/kernel; echo made > /dev/null"

[[check]]
name = "what belongs to whom"
run = """
getcap /opt/made/capable | grep cap_net_raw=ep
test "$(stat -c '%a %U %g' /opt/made/setuid)" = "6755 someone 65535"
"""

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
