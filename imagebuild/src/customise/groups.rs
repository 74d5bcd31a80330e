//! Makes a recipe's groups with the image's own groupadd(8).

use std::path::Path;
use std::process::Command;

use super::accounts::Accounts;
use super::{CustomiseError, failed};
use crate::progress::Step;
use crate::recipe::GroupSpec;
use crate::sandbox::View;
use crate::tool::{Tools, program};

/// Makes those of `groups` that are not there, in order.
pub fn apply(groups: &[GroupSpec], tools: &Tools, step: &Step) -> Result<(), CustomiseError> {
    for group in groups {
        let known = tools.sandbox().inside(Accounts::read)?;
        let known = known.map_err(failed("read", Path::new("/etc/group")))?;
        if is_missing(group, &known)? {
            tools.run(&format!("making group {}", group.name), View::Root, command(group), step)?;
        }
    }
    Ok(())
}

/// Whether the group is to be made. Its number is never changed: files of packages belong to it.
fn is_missing(group: &GroupSpec, known: &Accounts) -> Result<bool, CustomiseError> {
    let Some(wanted) = group.gid else { return Ok(known.group(&group.name).is_none()) };
    match (known.group(&group.name), known.group_of(wanted)) {
        (Some(gid), _) if gid == wanted => Ok(false),
        (Some(gid), _) => Err(CustomiseError::OtherGid { name: group.name.clone(), wanted, gid }),
        (None, Some(owner)) => Err(CustomiseError::IdTaken {
            kind: "group",
            name: group.name.clone(),
            id: wanted,
            owner: owner.to_owned(),
        }),
        (None, None) => Ok(true),
    }
}

fn command(group: &GroupSpec) -> Command {
    let mut command = program("groupadd");
    if group.system {
        command.arg("--system");
    }
    if let Some(gid) = group.gid {
        command.arg("--gid").arg(gid.to_string());
    }
    command.arg(&group.name);
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_made_unless_it_is_there_and_keeps_its_number() {
        let known = Accounts::parse("", "root:x:0:\nmunge:x:110:\n");
        let check = |name: &str, gid| {
            let group = GroupSpec { name: name.to_owned(), gid, system: false };
            is_missing(&group, &known).map_err(|error| error.to_string())
        };
        assert_eq!(check("hpc", Some(4000)), Ok(true));
        assert_eq!(check("hpc", None), Ok(true));
        assert_eq!(check("munge", None), Ok(false));
        assert_eq!(check("munge", Some(110)), Ok(false));
        let error = check("munge", Some(400)).unwrap_err();
        assert!(error.contains("group 'munge' has the number 110, not 400\nhint:"), "{error}");
        let error = check("hpc", Some(110)).unwrap_err();
        assert!(error.contains("'hpc' the number 110: it is that of 'munge'"), "{error}");
    }
}
