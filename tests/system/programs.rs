//! Properties of the programs as they are built.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use bootlab::places::program;

/// init rides in every initramfs.
const MAX_INIT_BYTES: u64 = 2 << 20;

#[test]
fn init_is_static_stripped_and_small() -> Result<()> {
    // target/debug/imagebuild -> target/init/init, where `make init` puts it.
    let imagebuild = program("imagebuild")?;
    let target = imagebuild.ancestors().nth(2).context("imagebuild lies in a target directory")?;
    let init = target.join("init/init");
    let file = Command::new("file").arg("--brief").arg(&init).output()?;
    let kind = String::from_utf8(file.stdout)?;
    ensure!(kind.contains("statically linked") && kind.contains(", stripped"), "{}: {kind}", init.display());
    let size = fs::metadata(&init)?.len();
    ensure!(size <= MAX_INIT_BYTES, "{} has {size} bytes", init.display());
    Ok(())
}

/// Exit statuses: 0 success, 1 failure, 2 usage.
#[test]
fn failure_and_usage_have_their_own_exit_status() -> Result<()> {
    for (name, failing) in [
        ("imagebuild", ["show", "no-such-image"]),
        ("bootserve", ["check", "--config=/nonexistent"]),
        ("bootlab", ["boot", "no-such-image"]),
    ] {
        let empty = tempfile::tempdir()?;
        let status = |arguments: &[&str]| -> Result<Option<i32>> {
            let mut command = Command::new(program(name)?);
            command.env("BOOTNODE_STORE", empty.path()).env("BOOTLAB_DIR", empty.path());
            Ok(command.args(arguments).output()?.status.code())
        };
        ensure!(status(&failing)? == Some(1), "{name} {failing:?}");
        ensure!(status(&["--no-such-option"])? == Some(2), "{name} usage");
        ensure!(status(&["--help"])? == Some(0), "{name} help");
    }
    Ok(())
}
