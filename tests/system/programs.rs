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

/// Every command has a manual page, and bash accepts the script that completes its arguments.
#[test]
fn manual_pages_and_completions_are_those_of_the_command_line() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let imagebuild = || Ok::<_, anyhow::Error>(Command::new(program("imagebuild")?));
    ensure!(imagebuild()?.arg("manual").arg(dir.path()).status()?.success());
    let help = String::from_utf8(imagebuild()?.arg("--help").output()?.stdout)?;
    let (_, commands) = help.split_once("Commands:\n").context("it has commands")?;
    let names = commands.lines().take_while(|line| !line.is_empty()).filter(|line| !line.starts_with("   "));
    let names: Vec<_> = names.filter_map(|line| line.split_whitespace().next()).collect();
    ensure!(names.contains(&"build") && names.contains(&"manual"), "{names:?}");
    for name in names.iter().filter(|name| **name != "help") {
        let page = fs::read_to_string(dir.path().join(format!("imagebuild-{name}.1")))
            .with_context(|| format!("the page of {name}"))?;
        ensure!(page.contains(".SH SYNOPSIS"), "{name}: {page}");
    }
    let script = dir.path().join("completions");
    fs::write(&script, imagebuild()?.args(["completions", "bash"]).output()?.stdout)?;
    let complete = "source \"$0\"; COMP_WORDS=(imagebuild rec); COMP_CWORD=1; _imagebuild imagebuild rec imagebuild; echo ${COMPREPLY[@]}";
    let output = Command::new("bash").args(["-c", complete]).arg(&script).output()?;
    ensure!(String::from_utf8_lossy(&output.stdout).trim() == "recipe", "{output:?}");
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
