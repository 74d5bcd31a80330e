//! Switches units on and off with the image's own systemctl(1), which works on the files of a system that is not
//! running.

use super::CustomiseError;
use crate::progress::Step;
use crate::recipe::Services;
use crate::sandbox::View;
use crate::tool::{Tools, program};

/// Present in every image that systemd manages.
pub const SYSTEMCTL: &str = "systemctl";

/// Applies the presets, then enables, disables and masks, in this order.
pub fn apply(services: &Services, tools: &Tools, step: &Step) -> Result<(), CustomiseError> {
    if services.presets {
        if !tools.root_has(SYSTEMCTL)? {
            return Err(CustomiseError::NoSystemd { action: "preset", units: vec!["all units".to_owned()] });
        }
        systemctl("preset-all", &[], tools, step)?;
    }
    for (action, units) in
        [("enable", &services.enable), ("disable", &services.disable), ("mask", &services.mask)]
    {
        if units.is_empty() {
            continue;
        }
        if !tools.root_has(SYSTEMCTL)? {
            return Err(CustomiseError::NoSystemd { action, units: units.clone() });
        }
        systemctl(action, units, tools, step)?;
    }
    Ok(())
}

/// Runs `systemctl ACTION UNITS` in the root.
pub fn systemctl(action: &str, units: &[String], tools: &Tools, step: &Step) -> Result<(), CustomiseError> {
    let mut command = program(SYSTEMCTL);
    command.arg(action).args(units);
    let what = format!("systemctl {action} {}", units.join(" "));
    Ok(tools.run(&what, View::Root, command, step)?)
}
