//! The program that reports `ready` from the booted node: a copy of init, started once by systemd.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::files::{make_way, write_new};
use super::services::{SYSTEMCTL, systemctl};
use super::{CustomiseError, failed};
use crate::progress::Step;
use crate::tool::Tools;

const PROGRAM: &str = "/usr/lib/bootnode/bootnode-report";
const UNIT: &str = "bootnode-report.service";
const UNIT_PATH: &str = "/usr/lib/systemd/system/bootnode-report.service";
const UNIT_TEXT: &str = "\
[Unit]
Description=Report to the boot server that this node is ready
Wants=network-online.target
After=multi-user.target network-online.target

[Service]
ExecStart=/usr/lib/bootnode/bootnode-report

[Install]
WantedBy=multi-user.target
";

/// Installs and enables it, and says whether it did: an image without systemd has nothing that would start it, and gets
/// nothing.
pub fn install(init_binary: &Path, tools: &Tools, step: &Step) -> Result<bool, CustomiseError> {
    if !tools.root_has(SYSTEMCTL)? {
        return Ok(false);
    }
    let mut program = File::open(init_binary)
        .map_err(|source| CustomiseError::Host { path: init_binary.to_owned(), source })?;
    tools.sandbox().inside(|| {
        put(Path::new(PROGRAM), &mut program, 0o755)?;
        put(Path::new(UNIT_PATH), &mut UNIT_TEXT.as_bytes(), 0o644)
    })??;
    systemctl("enable", &[UNIT.to_owned()], tools, step)?;
    Ok(true)
}

fn put(path: &Path, content: &mut dyn std::io::Read, mode: u32) -> Result<(), CustomiseError> {
    make_way(path).map_err(failed("make way for", path))?;
    write_new(path, content).map_err(failed("write", path))?;
    fs::set_permissions(path, PermissionsExt::from_mode(mode)).map_err(failed("set the mode of", path))
}
