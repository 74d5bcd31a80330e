//! Building without root: a user namespace in which the caller is root and his subordinate ids (subuid(5)) are all other
//! users (user_namespaces(7)). Files that are made there belong to the caller and to these ids outside, and have the owners
//! inside that root would have given them.
//!
//! The mapping is written by newuidmap(1) and newgidmap(1), which may, and which refuse ids that are not the caller's.

use std::fmt::Write as _;
use std::fs;
use std::io::{self, Write as _};
use std::process::{Child, Command, Stdio};

use nix::unistd::User;
use rustix::process::{getegid, geteuid, getpid};

use crate::sys;
use crate::tool::{host_has, program};

/// What an image may need: systems give their users numbers below, and 65534 is nobody's.
const IDS: u32 = 1 << 16;
/// What a namespace shows in place of an id that is not mapped into it (`kernel.overflowuid`).
pub const UNMAPPED_ID: u32 = 65534;
/// Where the kernel tells how ids are mapped, and how they are where nothing is mapped.
const UID_MAP: &str = "/proc/self/uid_map";
const GID_MAP: &str = "/proc/self/gid_map";
const ALL_IDS: [&str; 3] = ["0", "0", "4294967295"];

/// Where a kind of ids is given to users, and the program that maps it.
struct Kind {
    name: &'static str,
    file: &'static str,
    mapper: &'static str,
}

const UIDS: Kind = Kind { name: "user", file: "/etc/subuid", mapper: "newuidmap" };
const GIDS: Kind = Kind { name: "group", file: "/etc/subgid", mapper: "newgidmap" };

/// Settings that forbid user namespaces: file, value, remedy.
const SWITCHES: [(&str, &str, &str); 3] = [
    (
        "/proc/sys/user/max_user_namespaces",
        "0",
        "\nhint: this machine permits no user namespaces: sysctl user.max_user_namespaces=15000",
    ),
    (
        "/proc/sys/kernel/unprivileged_userns_clone",
        "0",
        "\nhint: this machine permits user namespaces to root alone: sysctl kernel.unprivileged_userns_clone=1",
    ),
    (APPARMOR_SWITCH, "1", APPARMOR_HINT),
];
const APPARMOR_SWITCH: &str = "/proc/sys/kernel/apparmor_restrict_unprivileged_userns";
const APPARMOR_HINT: &str = "\nhint: AppArmor gives user namespaces no rights on this machine: sysctl kernel.apparmor_restrict_unprivileged_userns=0, or load a profile for imagebuild that has the rule `userns,`";
const CONTAINER_HINT: &str = "\nhint: without root, the kernel mounts no /proc and no /sys where parts of the existing ones are hidden, as containers hide them: start the container with them unmasked, or run imagebuild as root";
const ROOT_HINT: &str = "\nhint: imagebuild needs CAP_SYS_ADMIN for this: run it as root on the machine itself, or in a container that has it";

/// This user cannot build here.
#[derive(Debug, thiserror::Error)]
pub enum UserNamespaceError {
    /// He has no name.
    #[error(
        "cannot find the user with the number {uid}, who is not root and needs subordinate ids to build images"
    )]
    NoUser {
        /// His number.
        uid: u32,
    },
    /// He has no ids, or not enough of them.
    #[error(
        "cannot build images as {user}: expected {IDS} subordinate {kind} ids in {file}, found {found}\nhint: run imagebuild as root, or let root give {user} ids that nobody else has: touch /etc/subuid /etc/subgid; usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {user}"
    )]
    NoIds {
        /// Who.
        user: String,
        /// `user` or `group`.
        kind: &'static str,
        /// Where they should be.
        file: &'static str,
        /// How many there are.
        found: u64,
    },
    /// Nothing can map them.
    #[error(
        "cannot build images without root: this machine has no {program}\nhint: install it (Debian: uidmap; EL: shadow-utils), or run imagebuild as root"
    )]
    NoProgram {
        /// newuidmap or newgidmap.
        program: &'static str,
    },
    /// It did not.
    #[error(
        "cannot map the ids of {user} into a user namespace: {output}\nhint: newuidmap and newgidmap must be setuid root, or have cap_setuid and cap_setgid, and whoever starts imagebuild must not have given that up (no_new_privs)"
    )]
    NotMapped {
        /// Who.
        user: String,
        /// What the program said.
        output: String,
    },
    /// The kernel gives him no namespace.
    #[error("cannot make a user namespace, in which images are built without root{}", switch_hint())]
    Forbidden {
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A program of the build host.
    #[error("cannot run the programs that map ids")]
    Run {
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// Makes the caller root in a user namespace of its own, unless he is root already. The process must not have started
/// a thread yet.
pub fn enter_unless_root() -> Result<(), UserNamespaceError> {
    let uid = geteuid();
    if uid.is_root() {
        return Ok(());
    }
    let user = match User::from_uid(uid.as_raw().into()) {
        Ok(Some(user)) => user.name,
        _ => return Err(UserNamespaceError::NoUser { uid: uid.as_raw() }),
    };
    let uids = ranges_of(&user, uid.as_raw(), &UIDS)?;
    let gids = ranges_of(&user, uid.as_raw(), &GIDS)?;
    if let Some(Kind { mapper, .. }) = [UIDS, GIDS].into_iter().find(|kind| !host_has(kind.mapper)) {
        return Err(UserNamespaceError::NoProgram { program: mapper });
    }
    let commands =
        [mapping_command(&UIDS, uid.as_raw(), &uids), mapping_command(&GIDS, getegid().as_raw(), &gids)];
    let run = |source| UserNamespaceError::Run { source };
    let mapper = start_mapper(&commands).map_err(run)?;
    sys::unshare_user().map_err(|source| UserNamespaceError::Forbidden { source })?;
    let output = finish(mapper).map_err(run)?;
    if geteuid().is_root() { Ok(()) } else { Err(UserNamespaceError::NotMapped { user, output }) }
}

/// How ids are mapped here. What files say about their owners means something else under another mapping.
pub fn mapping() -> String {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    read(UID_MAP) + &read(GID_MAP)
}

/// Whether this process is in a user namespace, where not even root may do everything.
pub fn is_entered() -> bool {
    fs::read_to_string(UID_MAP).is_ok_and(|map| !map.split_whitespace().eq(ALL_IDS))
}

/// What helps when the kernel does not permit a mount.
pub fn mount_hint() -> &'static str {
    match is_entered() {
        true if is_set(APPARMOR_SWITCH, "1") => APPARMOR_HINT,
        true => CONTAINER_HINT,
        false => ROOT_HINT,
    }
}

fn switch_hint() -> &'static str {
    let found = SWITCHES.iter().find(|(path, value, _)| is_set(path, value));
    found.map_or("\nhint: run imagebuild as root", |(_, _, hint)| hint)
}

fn is_set(path: &str, value: &str) -> bool {
    fs::read_to_string(path).is_ok_and(|set| set.trim() == value)
}

/// A number of ids that follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Range {
    first: u32,
    count: u32,
}

fn ranges_of(user: &str, uid: u32, kind: &Kind) -> Result<Vec<Range>, UserNamespaceError> {
    let ranges = parse_ranges(&fs::read_to_string(kind.file).unwrap_or_default(), user, uid);
    let found = ranges.iter().map(|range| u64::from(range.count)).sum();
    // With the caller's own one less would do, but ranges are given in this size.
    if found >= u64::from(IDS) {
        return Ok(ranges);
    }
    Err(UserNamespaceError::NoIds { user: user.to_owned(), kind: kind.name, file: kind.file, found })
}

/// Those of a user, who is named or numbered in the lines `USER:FIRST:COUNT`. Other lines are not looked at, as newuidmap
/// does not.
fn parse_ranges(text: &str, user: &str, uid: u32) -> Vec<Range> {
    let parse = |line: &str| {
        let [owner, first, count] = line.trim().split(':').collect::<Vec<_>>()[..] else { return None };
        let range = Range { first: first.parse().ok()?, count: count.parse().ok()? };
        let is_his = owner == user || owner.parse() == Ok(uid);
        is_his.then_some(range)
    };
    text.lines().filter_map(parse).collect()
}

/// The caller becomes 0, and `ranges` what follows.
fn mapping_command(kind: &Kind, own: u32, ranges: &[Range]) -> String {
    let mut command = format!("{} {} 0 {own} 1", kind.mapper, getpid());
    let mut next = 1_u64;
    for Range { first, count } in ranges {
        write!(command, " {next} {first} {count}").expect("writing to a string does not fail");
        next += u64::from(*count);
    }
    command
}

/// Starts what maps the ids once it is told to: it must be outside of the namespace, and so be there before.
fn start_mapper(commands: &[String]) -> io::Result<Child> {
    let mut shell: Command = program("sh");
    shell.arg("-c").arg(format!("read -r go && {}", commands.join(" && ")));
    shell.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()
}

/// Returns what it printed.
fn finish(mut mapper: Child) -> io::Result<String> {
    let mut stdin = mapper.stdin.take().expect("it is a pipe");
    stdin.write_all(b"go\n")?;
    drop(stdin);
    let output = mapper.wait_with_output()?;
    Ok(String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_those_of_the_user_by_name_or_number() {
        let text =
            "alice:100000:65536\nbob:165536:65536\n# 1000:1:1\n1000:300000:10\nalice:400000\nalice:x:1\n";
        let range = |first, count| Range { first, count };
        assert_eq!(parse_ranges(text, "alice", 1000), [range(100_000, 65_536), range(300_000, 10)]);
        assert_eq!(parse_ranges(text, "carol", 1001), []);
    }

    #[test]
    fn the_caller_becomes_root_and_his_ranges_follow() {
        let ranges = [Range { first: 100_000, count: 65_536 }, Range { first: 300_000, count: 10 }];
        let expected = format!("newuidmap {} 0 1000 1 1 100000 65536 65537 300000 10", std::process::id());
        assert_eq!(mapping_command(&UIDS, 1000, &ranges), expected);
    }

    #[test]
    fn a_user_without_ids_is_told_how_to_get_them() {
        let error = ranges_of("nobody-has-this-name", u32::MAX, &GIDS).unwrap_err().to_string();
        assert!(error.contains("65536 subordinate group ids in /etc/subgid, found 0\nhint: "), "{error}");
    }

    #[test]
    fn root_needs_no_namespace() {
        if crate::testing::is_root() {
            let before = mapping();
            enter_unless_root().unwrap();
            assert_eq!(mapping(), before);
        }
    }
}
