//! imagebuild's commands on a store, as an admin runs them.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bootlab::deadline::wait_until;
use bootlab::places::{cache_dir, program};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// Runs a command of imagebuild on `store`.
fn imagebuild(store: &Path, arguments: &[&str]) -> Result<Output> {
    let mut command = Command::new(program("imagebuild")?);
    command.args(arguments).arg("--store").arg(store);
    if arguments.first() == Some(&"build") {
        command.arg("--cache").arg(cache_dir());
    }
    Ok(command.output()?)
}

/// The same with `--json`, for commands that succeed.
fn json(store: &Path, arguments: &[&str]) -> Result<Value> {
    let output = imagebuild(store, &[arguments, &["--json"]].concat())?;
    ensure!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).with_context(|| format!("{arguments:?} printed no JSON"))
}

fn text(value: &Value) -> Result<String> {
    value.as_str().map(str::to_owned).with_context(|| format!("{value} is no text"))
}

#[test]
fn images_are_built_listed_repacked_verified_and_reused() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let store = dir.path();
    let built = json(store, &["build", "failsafe"])?;
    let first = text(&built["image"])?;
    ensure!(built["reused"] == false);
    let again = json(store, &["build", "failsafe", "--if-changed"])?;
    ensure!(again["reused"] == true && again["image"] == first.as_str(), "{again}");

    let repacked = json(store, &["repack", "failsafe"])?;
    let second = text(&repacked["image"])?;
    ensure!(second != first, "a version was replaced");
    let list = json(store, &["list"])?;
    let listed: Vec<_> =
        list.as_array().into_iter().flatten().map(|v| (&v["image"], &v["current"])).collect();
    ensure!(listed.contains(&(&first.as_str().into(), &false.into())), "{list}");
    ensure!(listed.contains(&(&second.as_str().into(), &true.into())), "{list}");
    let kernel = |image: &str| -> Result<u64> { Ok(fs::metadata(store.join(image).join("vmlinuz"))?.ino()) };
    ensure!(kernel(&first)? == kernel(&second)?, "the kernel was copied");

    ensure!(json(store, &["show", &first])?["mode"] == "failsafe");
    let same = json(store, &["diff", &first, &second])?;
    ensure!(same["packages"] == Value::Array(vec![]) && same["files"] == Value::Array(vec![]), "{same}");
    ensure!(json(store, &["verify", &second])?["damage"].as_array().is_some_and(Vec::is_empty));
    check_retention(store, &first, &second)
}

/// Goes back from `second`, the current version, to `first`, and removes what is not needed.
fn check_retention(store: &Path, first: &str, second: &str) -> Result<()> {
    let current = || -> Result<String> { text(&json(store, &["show", "failsafe"])?["image"]) };
    let refused = imagebuild(store, &["rm", second])?;
    let message = String::from_utf8_lossy(&refused.stderr).into_owned();
    ensure!(!refused.status.success() && message.contains("hint: make another version current"), "{message}");
    ensure!(json(store, &["rollback", "failsafe", "--dry-run"])?["image"] == first && current()? == second);
    ensure!(json(store, &["rollback", "failsafe"])?["changed"] == true && current()? == first);
    ensure!(!imagebuild(store, &["rollback", "failsafe"])?.status.success(), "there is none before it");

    let fates = |arguments: &[&str]| -> Result<Vec<(Value, Value)>> {
        let fates = json(store, &[&["gc"], arguments].concat())?;
        let fate = |fate: &Value| (fate["kept"].clone(), fate["removed"].clone());
        Ok(fates.as_array().into_iter().flatten().map(fate).collect())
    };
    let [current, recent] = ["current", "recent"].map(|kept| (Value::from(kept), Value::from(false)));
    ensure!(fates(&["--keep", "1"])? == [current.clone(), recent]);
    ensure!(fates(&["--keep", "0", "--dry-run"])? == [current.clone(), (Value::Null, false.into())]);
    ensure!(fates(&["--keep", "0"])? == [current.clone(), (Value::Null, true.into())]);
    ensure!(fates(&[])? == [current]);
    ensure!(!imagebuild(store, &["gc", "nosuch"])?.status.success());
    Ok(())
}

#[test]
fn a_recipe_that_extends_another_is_shown_checked_and_built() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let recipe = dir.path().join("recipe.toml");
    fs::write(
        &recipe,
        "name = \"rescue\"\nextends = \"failsafe\"\n[variables]\nconsole = \"ttyS0\"\n\
         [variant.quiet]\nkernel.args = { add = [\"quiet\", \"console=@{console}\"] }\n",
    )?;
    let recipe = recipe.to_string_lossy().into_owned();
    let run = |arguments: &[&str]| -> Result<(bool, String)> {
        let output = Command::new(program("imagebuild")?).arg("recipe").args(arguments).output()?;
        Ok((output.status.success(), String::from_utf8(output.stdout)?))
    };
    let (_, shown) = run(&["show", &recipe])?;
    ensure!(shown.contains("failsafe/recipe.toml:"), "{shown}");
    let (right, checked) = run(&["check", &recipe])?;
    ensure!(right && checked.contains("--variant quiet: right, makes the image rescue-quiet"), "{checked}");
    let (right, checked) = run(&["check", &recipe, "failsafe", "nosuch"])?;
    ensure!(!right && checked.contains("nosuch: there is no recipe 'nosuch'"), "{checked}");

    let store = dir.path().join("store");
    let chosen = ["build", &recipe, "--variant", "quiet", "--set", "console=ttyS1,9600"];
    let image = text(&json(&store, &chosen)?["image"])?;
    ensure!(image.starts_with("rescue-quiet/"), "{image}");
    let arguments = &json(&store, &["show", &image])?["kernel_args"];
    let arguments: Vec<_> = arguments.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    ensure!(arguments.ends_with(&["quiet", "console=ttyS1,9600"]), "{arguments:?}");
    let reused = json(&store, &[&chosen[..], &["--if-changed"]].concat())?;
    ensure!(reused["reused"] == true, "{reused}");
    let other = json(&store, &["build", &recipe, "--variant", "quiet", "--if-changed"])?;
    ensure!(other["reused"] == false, "another value of a variable is another image: {other}");
    Ok(())
}

#[test]
fn keys_are_never_overwritten_and_no_password_is_asked_for_in_vain() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let keygen = |arguments: &[&str]| -> Result<Output> {
        let mut command = Command::new(program("imagebuild")?);
        command.args(["key", "new", "--out"]).arg(dir.path()).args(arguments).stdin(Stdio::null());
        Ok(command.output()?)
    };
    ensure!(keygen(&[])?.status.success());
    let public = fs::read(dir.path().join("bootnode.pub"))?;
    let again = keygen(&["--password"])?;
    let message = String::from_utf8(again.stderr)?;
    ensure!(again.status.code() == Some(1) && message.contains("bootnode.key exists already"), "{message}");
    ensure!(message.contains("\nhint: keys are never overwritten"), "{message}");
    ensure!(fs::read(dir.path().join("bootnode.pub"))? == public, "the key was overwritten");
    Ok(())
}

#[test]
fn damage_is_found_by_name_and_fails() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let image = text(&json(dir.path(), &["build", "failsafe"])?["image"])?;
    let initramfs = dir.path().join(&image).join("initramfs.img");
    let mut bytes = fs::read(&initramfs)?;
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&initramfs, bytes)?;
    let verified = imagebuild(dir.path(), &["verify", "failsafe"])?;
    ensure!(verified.status.code() == Some(1));
    let message = String::from_utf8(verified.stderr)?;
    ensure!(message.contains("initramfs.img has SHA-256") && message.contains("\nhint: "), "{message}");

    // A repacked version shares the kernel, and must not take its damage for the truth.
    fs::write(dir.path().join(&image).join("vmlinuz"), "damaged")?;
    json(dir.path(), &["repack", "failsafe"])?;
    let message = String::from_utf8(imagebuild(dir.path(), &["verify", "failsafe"])?.stderr)?;
    ensure!(message.contains("vmlinuz has 7 bytes"), "{message}");
    Ok(())
}

#[test]
fn a_version_moves_to_another_store_and_damage_does_not() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let (here, there) = (dir.path().join("here"), dir.path().join("there"));
    let image = text(&json(&here, &["build", "failsafe"])?["image"])?;
    let file = dir.path().join("failsafe.tar").display().to_string();
    ensure!(json(&here, &["export", "failsafe", &file, "--dry-run"])?["image"] == image.as_str());
    ensure!(!Path::new(&file).exists(), "a dry run wrote the file");
    let exported = json(&here, &["export", "failsafe", &file])?;
    ensure!(exported["size_bytes"] == fs::metadata(&file)?.len(), "{exported}");

    let dry = json(&there, &["import", &file, "--dry-run"])?;
    ensure!(dry["published"] == false && !there.exists(), "{dry}");
    let imported = json(&there, &["import", &file])?;
    ensure!(imported["image"] == image.as_str() && imported["published"] == true, "{imported}");
    ensure!(imported["current"] == false, "nobody asked for it to be current");
    ensure!(json(&there, &["import", &file, "--current"])?["reused"] == true);
    ensure!(json(&there, &["show", "failsafe"])?["image"] == image.as_str());
    ensure!(json(&there, &["verify", "failsafe"])?["damage"].as_array().is_some_and(Vec::is_empty));
    let same = Command::new("diff").arg("-r").args([here.join(&image), there.join(&image)]).status()?;
    ensure!(same.success(), "its files differ");

    // Through a pipe, as over ssh; and what is damaged on the way.
    let piped = imagebuild(&here, &["export", "failsafe", "-"])?.stdout;
    ensure!(piped == fs::read(&file)?, "standard output is another file");
    let mut damaged = piped;
    let middle = damaged.len() / 2;
    damaged[middle] ^= 1;
    let file = dir.path().join("damaged.tar");
    fs::write(&file, damaged)?;
    let elsewhere = dir.path().join("elsewhere");
    let mut import = Command::new(program("imagebuild")?);
    import.args(["import", "-", "--store"]).arg(&elsewhere).stdin(fs::File::open(&file)?);
    let refused = import.output()?;
    let message = String::from_utf8(refused.stderr)?;
    ensure!(
        refused.status.code() == Some(1) && message.contains("of standard input has SHA-256"),
        "{message}"
    );
    ensure!(fs::read_dir(elsewhere.join("failsafe"))?.next().is_none(), "something is left");
    Ok(())
}

#[test]
fn an_interrupted_build_cleans_up_and_says_so() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let log = dir.path().join("cache/logs/failsafe.log");
    let build = Command::new(program("imagebuild")?)
        .args(["build", "failsafe", "--store"].map(OsStr::new))
        .arg(dir.path().join("store"))
        .arg("--cache")
        .arg(dir.path().join("cache"))
        .stderr(Stdio::piped())
        .spawn()?;
    let begun = || fs::metadata(&log).is_ok_and(|log| log.len() > 0);
    ensure!(wait_until(Duration::from_secs(30), begun), "mmdebstrap has not begun");
    kill_process(Pid::from_child(&build), Signal::INT)?;
    let ended = build.wait_with_output()?;
    let message = String::from_utf8_lossy(&ended.stderr).into_owned();
    ensure!(ended.status.code() == Some(1) && message.contains("interrupted"), "{}: {message}", ended.status);
    let left: Vec<_> = fs::read_dir(dir.path().join("store/failsafe"))?.collect();
    ensure!(left.is_empty(), "something is left: {left:?}");
    Ok(())
}
