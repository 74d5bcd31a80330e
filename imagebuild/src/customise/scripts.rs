//! Runs a recipe's scripts and checks inside the root.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::files::{make_way, write_new};
use super::{CustomiseError, failed};
use crate::progress::Step;
use crate::recipe::ScriptSpec;
use crate::sandbox::View;
use crate::tool::{Tools, program};

/// Where a script lies while it runs.
const PATH: &str = "/.bootnode-script";
/// For a script that does not name its interpreter: the first command that fails ends it.
const DEFAULT_INTERPRETER: &str = "#!/bin/sh -e\n";

/// Runs `scripts` in order; the first that fails ends the build.
pub fn run(scripts: &[ScriptSpec], tools: &Tools, step: &Step) -> Result<(), CustomiseError> {
    scripts.iter().try_for_each(|script| {
        let view = if script.network { View::RootOnline } else { View::Root };
        run_one("script", script, view, tools, step)
    })
}

/// Runs `checks` in order, in a root that they cannot change; the first that fails ends the build.
pub fn check(checks: &[ScriptSpec], tools: &Tools, step: &Step) -> Result<(), CustomiseError> {
    checks.iter().try_for_each(|check| run_one("check", check, View::RootReadOnly, tools, step))
}

fn run_one(
    what: &str,
    script: &ScriptSpec,
    view: View,
    tools: &Tools,
    step: &Step,
) -> Result<(), CustomiseError> {
    let path = Path::new(PATH);
    tools.sandbox().inside(|| write(path, &script.text))??;
    tools.run(&format!("{what} '{}'", script.name), view, program(PATH), step)?;
    tools.sandbox().inside(|| fs::remove_file(path).map_err(failed("remove", path)))?
}

fn write(path: &Path, text: &str) -> Result<(), CustomiseError> {
    let text = if text.starts_with("#!") { text.to_owned() } else { format!("{DEFAULT_INTERPRETER}{text}") };
    let write = || {
        make_way(path)?;
        write_new(path, &mut text.as_bytes())?;
        fs::set_permissions(path, PermissionsExt::from_mode(0o700))
    };
    write().map_err(failed("write", path))
}
