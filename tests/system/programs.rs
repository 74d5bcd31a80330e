//! Properties of the programs as they are built.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use bootlab::places::program;

/// init rides in every initramfs.
const MAX_INIT_BYTES: u64 = 3 << 20;

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
    check_manual("imagebuild", "rec", "recipe")?;
    check_manual("bootserve", "expl", "explain")
}

fn check_manual(name: &'static str, begun: &str, completed: &str) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let program = || Ok::<_, anyhow::Error>(Command::new(program(name)?));
    ensure!(program()?.arg("manual").arg(dir.path()).status()?.success());
    let help = String::from_utf8(program()?.arg("--help").output()?.stdout)?;
    let (_, commands) = help.split_once("Commands:\n").context("it has commands")?;
    let commands =
        commands.lines().take_while(|line| !line.is_empty()).filter(|line| !line.starts_with("   "));
    let commands: Vec<_> = commands.filter_map(|line| line.split_whitespace().next()).collect();
    ensure!(commands.contains(&"manual") && commands.contains(&"completions"), "{commands:?}");
    for command in commands.iter().filter(|command| **command != "help") {
        let page = fs::read_to_string(dir.path().join(format!("{name}-{command}.1")))
            .with_context(|| format!("the page of {name} {command}"))?;
        ensure!(page.contains(".SH SYNOPSIS"), "{name} {command}: {page}");
    }
    let script = dir.path().join("completions");
    fs::write(&script, program()?.args(["completions", "bash"]).output()?.stdout)?;
    let complete = format!(
        "source \"$0\"; COMP_WORDS=({name} {begun}); COMP_CWORD=1; _{name} {name} {begun} {name}; echo ${{COMPREPLY[@]}}"
    );
    let output = Command::new("bash").args(["-c", &complete]).arg(&script).output()?;
    ensure!(String::from_utf8_lossy(&output.stdout).trim() == completed, "{output:?}");
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
