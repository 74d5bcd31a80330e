//! Makes and changes a recipe's users with the image's own useradd(8), usermod(8) and chpasswd(8), which know the
//! image's policies, and writes their SSH keys.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, lchown};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::accounts::{Account, Accounts};
use super::files::{make_way, write_new};
use super::{CustomiseError, failed};
use crate::progress::Step;
use crate::recipe::UserSpec;
use crate::sandbox::View;
use crate::tool::{Tools, program};

/// Makes or changes `users` in order.
pub fn apply(users: &[UserSpec], tools: &Tools, step: &Step) -> Result<(), CustomiseError> {
    for user in users {
        let known = tools.sandbox().inside(Accounts::read)?;
        let known = known.map_err(failed("read", Path::new("/etc/passwd")))?;
        check_uid(user, &known)?;
        let known = known.user(&user.name).is_some();
        if let Some(command) = account_command(user, known) {
            tools.run(&format!("setting up user {}", user.name), View::Root, command, step)?;
        }
        tools.sandbox().inside(|| set_secrets(user))??;
    }
    Ok(())
}

/// No two users share a number.
fn check_uid(user: &UserSpec, known: &Accounts) -> Result<(), CustomiseError> {
    let Some((id, owner)) = user.uid.and_then(|uid| Some((uid, known.user_of(uid)?))) else { return Ok(()) };
    if owner == user.name {
        return Ok(());
    }
    let (name, owner) = (user.name.clone(), owner.to_owned());
    Err(CustomiseError::IdTaken { kind: "user", name, id, owner })
}

/// The command that makes `user`, or that changes it if it is `known` and there is something to change.
fn account_command(user: &UserSpec, known: bool) -> Option<Command> {
    let options: Vec<String> = [
        ("--uid", user.uid.map(|uid| uid.to_string())),
        ("--gid", user.group.clone()),
        ("--groups", (!user.groups.is_empty()).then(|| user.groups.join(","))),
        (if known { "--home" } else { "--home-dir" }, user.home.clone()),
        ("--shell", user.shell.clone()),
    ]
    .into_iter()
    .flat_map(|(name, value)| value.into_iter().flat_map(move |value| [name.to_owned(), value]))
    .collect();
    let mut command = match known {
        true if options.is_empty() => return None,
        true => program("usermod"),
        false => program("useradd"),
    };
    if !known {
        command.arg("--create-home");
    } else if !user.groups.is_empty() {
        command.arg("--append");
    }
    command.args(options).arg(&user.name);
    Some(command)
}

/// Inside the root: the password, which is not for a command line that everybody can read, and the SSH keys.
fn set_secrets(user: &UserSpec) -> Result<(), CustomiseError> {
    if let Some(hash) = &user.password_hash {
        let shadow = Path::new("/etc/shadow");
        let text = fs::read_to_string(shadow).map_err(failed("read", shadow))?;
        // Written in place, so that owner and mode stay.
        fs::write(shadow, with_password(&text, &user.name, hash)).map_err(failed("write", shadow))?;
    }
    if user.ssh_keys.is_empty() {
        return Ok(());
    }
    let passwd = Path::new("/etc/passwd");
    let accounts = Accounts::read().map_err(failed("read", passwd))?;
    let missing = || failed("find the user in", passwd)(io::Error::other(user.name.clone()));
    write_keys(accounts.user(&user.name).ok_or_else(missing)?, &user.ssh_keys)
}

/// shadow(5) with another second field in the line of `name`.
fn with_password(shadow: &str, name: &str, hash: &str) -> String {
    let line = |line: &str| match line.splitn(3, ':').collect::<Vec<_>>()[..] {
        [found, _, rest] if found == name => format!("{name}:{hash}:{rest}\n"),
        _ => format!("{line}\n"),
    };
    shadow.lines().map(line).collect()
}

/// sshd(8) wants the directory and the file to be the user's own and closed to others.
fn write_keys(account: &Account, keys: &[String]) -> Result<(), CustomiseError> {
    let dir = PathBuf::from(&account.home).join(".ssh");
    let file = dir.join("authorized_keys");
    let write = || {
        DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
        fs::set_permissions(&dir, PermissionsExt::from_mode(0o700))?;
        make_way(&file)?;
        write_new(&file, &mut (keys.join("\n") + "\n").as_bytes())?;
        lchown(&dir, Some(account.uid), Some(account.gid))?;
        lchown(&file, Some(account.uid), Some(account.gid))
    };
    write().map_err(failed("write", &file))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(name: &str) -> UserSpec {
        UserSpec {
            name: name.into(),
            uid: None,
            group: None,
            groups: Vec::new(),
            home: None,
            shell: None,
            password_hash: None,
            ssh_keys: Vec::new(),
        }
    }

    fn words(command: &Command) -> Vec<&str> {
        let words = std::iter::once(command.get_program()).chain(command.get_args());
        words.map(|word| word.to_str().unwrap()).collect()
    }

    #[test]
    fn a_new_user_is_added_and_a_known_one_changed_only_where_asked() {
        let alice = UserSpec { uid: Some(1000), groups: vec!["adm".into(), "video".into()], ..user("alice") };
        assert_eq!(
            words(&account_command(&alice, false).unwrap()),
            ["useradd", "--create-home", "--uid", "1000", "--groups", "adm,video", "alice"]
        );
        let root = UserSpec { shell: Some("/bin/sh".into()), ..user("root") };
        assert_eq!(words(&account_command(&root, true).unwrap()), ["usermod", "--shell", "/bin/sh", "root"]);
        assert!(account_command(&user("root"), true).is_none());
    }

    #[test]
    fn a_number_of_another_user_is_refused() {
        let known =
            Accounts::parse("root:x:0:0::/root:/bin/sh\nalice:x:1000:1000::/home/alice:/bin/sh\n", "");
        let with_uid = |name: &str, uid| UserSpec { uid: Some(uid), ..user(name) };
        assert!(check_uid(&with_uid("alice", 1000), &known).is_ok());
        assert!(check_uid(&with_uid("bob", 1001), &known).is_ok());
        let error = check_uid(&with_uid("bob", 1000), &known).unwrap_err().to_string();
        assert!(error.contains("the user 'bob' the number 1000: it is that of 'alice'"), "{error}");
    }

    #[test]
    fn only_the_second_field_of_the_users_own_line_changes() {
        let shadow = "root:*:19700:0:99999:7:::\nrooty:!:1:0:99999:7:::\n";
        assert_eq!(
            with_password(shadow, "root", "$6$x"),
            "root:$6$x:19700:0:99999:7:::\nrooty:!:1:0:99999:7:::\n"
        );
    }
}
