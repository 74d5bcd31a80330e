//! The users and groups of an image, as its /etc/passwd and /etc/group name them (passwd(5), group(5)).
//!
//! Only these files count: the build host's name services know nothing of the image.

use std::fs;
use std::io;
use std::path::Path;

/// A line of /etc/passwd.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    pub name: String,
    pub uid: u32,
    pub gid: u32,
    pub home: String,
}

/// All lines that are well formed.
#[derive(Clone, Debug, Default)]
pub struct Accounts {
    users: Vec<Account>,
    groups: Vec<(String, u32)>,
}

impl Accounts {
    /// Reads the files of the root that is `/` for the calling thread. An image without them has no accounts.
    pub fn read() -> io::Result<Self> {
        Ok(Self::parse(&read_if_there("/etc/passwd")?, &read_if_there("/etc/group")?))
    }

    /// The accounts of passwd(5) and group(5).
    pub fn parse(passwd: &str, group: &str) -> Self {
        let users = passwd.lines().filter_map(parse_account).collect();
        Self { users, groups: group.lines().filter_map(parse_group).collect() }
    }

    /// The user called `name`.
    pub fn user(&self, name: &str) -> Option<&Account> {
        self.users.iter().find(|user| user.name == name)
    }

    /// The number of the user called `name`; a number stands for itself.
    pub fn uid(&self, name: &str) -> Option<u32> {
        number(name).or_else(|| Some(self.user(name)?.uid))
    }

    /// The number of the group called `name`; a number stands for itself.
    pub fn gid(&self, name: &str) -> Option<u32> {
        number(name).or_else(|| self.group(name))
    }

    /// The number of the group called `name`.
    pub fn group(&self, name: &str) -> Option<u32> {
        self.groups.iter().find(|(group, _)| group == name).map(|(_, gid)| *gid)
    }

    /// The group with this number.
    pub fn group_of(&self, gid: u32) -> Option<&str> {
        self.groups.iter().find(|(_, number)| *number == gid).map(|(group, _)| group.as_str())
    }

    /// The user with this number.
    pub fn user_of(&self, uid: u32) -> Option<&str> {
        self.users.iter().find(|user| user.uid == uid).map(|user| user.name.as_str())
    }
}

/// Root is 0 in images without these files, too.
fn number(name: &str) -> Option<u32> {
    if name == "root" { Some(0) } else { name.parse().ok() }
}

fn read_if_there(path: &str) -> io::Result<String> {
    match fs::read(Path::new(path)) {
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(error),
    }
}

fn parse_account(line: &str) -> Option<Account> {
    let fields: Vec<_> = line.split(':').collect();
    let [name, _password, uid, gid, _gecos, home, _shell] = fields[..] else { return None };
    Some(Account {
        name: name.to_owned(),
        uid: uid.parse().ok()?,
        gid: gid.parse().ok()?,
        home: home.to_owned(),
    })
}

fn parse_group(line: &str) -> Option<(String, u32)> {
    let mut fields = line.split(':');
    let name = fields.next()?.to_owned();
    Some((name, fields.nth(1)?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/bash\n+::::::\nalice:x:1000:100::/home/alice:/bin/sh\n";

    #[test]
    fn names_and_numbers_are_resolved_by_the_image() {
        let accounts = Accounts::parse(PASSWD, "root:x:0:\nusers:x:100:alice\n");
        assert_eq!(accounts.uid("alice"), Some(1000));
        assert_eq!(accounts.gid("users"), Some(100));
        assert_eq!((accounts.uid("4711"), accounts.gid("4712")), (Some(4711), Some(4712)));
        assert_eq!((accounts.uid("bob"), accounts.gid("wheel"), accounts.uid("+")), (None, None, None));
        assert_eq!(accounts.user("alice").unwrap().home, "/home/alice");
    }

    proptest! {
        #[test]
        fn any_files_are_read_without_panic(passwd in "\\PC{0,80}", group in "[a-z0-9:\n]{0,80}") {
            Accounts::parse(&passwd, &group).uid("root");
        }
    }
}
