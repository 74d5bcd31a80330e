//! Switches units on and off with the image's own systemctl(1), which works on the files of a system that is not
//! running.

use super::CustomiseError;
use crate::progress::Step;
use crate::recipe::Services;
use crate::sandbox::{Sandbox, SandboxError, View};
use crate::tool::{Tools, program};

/// Enables, disables and masks, in this order.
pub fn apply(services: &Services, tools: &Tools, step: &Step) -> Result<(), CustomiseError> {
    for (action, units) in
        [("enable", &services.enable), ("disable", &services.disable), ("mask", &services.mask)]
    {
        if units.is_empty() {
            continue;
        }
        if !has_systemd(tools.sandbox())? {
            return Err(CustomiseError::NoSystemd { action, units: units.clone() });
        }
        systemctl(action, units, tools, step)?;
    }
    Ok(())
}

/// Runs `systemctl ACTION UNITS` in the root.
pub fn systemctl(action: &str, units: &[String], tools: &Tools, step: &Step) -> Result<(), CustomiseError> {
    let mut command = program("systemctl");
    command.arg(action).args(units);
    let what = format!("systemctl {action} {}", units.join(" "));
    Ok(tools.run(&what, View::Root, command, step)?)
}

/// Whether the image is booted and managed by systemd.
pub fn has_systemd(sandbox: &Sandbox) -> Result<bool, SandboxError> {
    sandbox.inside(|| {
        ["/usr/bin/systemctl", "/bin/systemctl"].iter().any(|path| std::fs::metadata(path).is_ok())
    })
}
