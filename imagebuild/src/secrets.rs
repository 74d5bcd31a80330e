//! Looks for what should not be in an image, because everyone on the boot network can read images: keys, passwords, and
//! what identifies one machine. It finds what has a usual place, and warns; what the recipe itself asks for is told too.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::recipe::path_glob;
use crate::sandbox::SandboxError;
use crate::tool::Tools;

/// Patterns of files that hold a secret, and what it is.
const FILES: [(&str, &str); 14] = [
    ("/etc/ssh/ssh_host_*_key", "private host key of an SSH server"),
    ("/{root,home/*}/.ssh/id_*", "private SSH key"),
    ("/{root,home/*}/.ssh/authorized_keys*", "SSH keys that may log in"),
    ("/etc/munge/munge.key", "key of munge"),
    ("/etc/krb5.keytab", "Kerberos keys"),
    ("/etc/{ssl,pki/tls}/private/*", "private key of TLS"),
    ("/etc/{slurm,slurm-llnl}/*.key", "key of Slurm"),
    ("/{root,home/*}/.{netrc,pgpass,git-credentials,vault-token}", "passwords or tokens"),
    ("/{root,home/*}/.aws/credentials", "keys of a cloud"),
    ("/{root,home/*}/.{docker,config/containers}/{config,auth}.json", "passwords of a container registry"),
    ("/{root,home/*}/.kube/config", "credentials of Kubernetes"),
    ("/{root,home/*}/.gnupg/private-keys-v1.d/*", "private OpenPGP key"),
    ("/{root,home/*}/.*_history", "what somebody typed"),
    ("/etc/NetworkManager/system-connections/*", "connections with their passwords"),
];
/// Where all of them are.
const TOPS: [&str; 3] = ["/etc", "/root", "/home"];
/// Keys that no one relies on.
const PUBLIC: [&str; 1] = ["/etc/ssl/private/ssl-cert-snakeoil.key"];
const MACHINE_ID: &str = "/etc/machine-id";
const SHADOW: &str = "/etc/shadow";

/// Something that everyone can read once the image is published.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Secret {
    /// Where it is, in the root.
    pub path: PathBuf,
    /// What it is.
    pub what: String,
}

/// Looks through the root of `tools`. What cannot be read is no finding: the packing that follows will say so.
pub fn find(tools: &Tools) -> Result<BTreeSet<Secret>, SandboxError> {
    tools.sandbox().inside(|| {
        let mut found = BTreeSet::new();
        let matcher = |pattern| path_glob(pattern).expect("the patterns are valid").compile_matcher();
        let patterns = FILES.map(|(pattern, what)| (matcher(pattern), what));
        for top in TOPS {
            look(Path::new(top), &mut |path| {
                let matching = patterns.iter().find(|(pattern, _)| pattern.is_match(path));
                let matching = matching.filter(|_| !is_public(path));
                found.extend(
                    matching.map(|(_, what)| Secret { path: path.to_owned(), what: (*what).to_owned() }),
                );
            });
        }
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        if !matches!(read(MACHINE_ID).trim(), "" | "uninitialized") {
            let what = "the id of one machine, which all nodes would have".to_owned();
            found.insert(Secret { path: MACHINE_ID.into(), what });
        }
        found.extend(read(SHADOW).lines().filter_map(password).map(|user| {
            let what = format!("a password of {user}, as a hash");
            Secret { path: SHADOW.into(), what }
        }));
        found
    })
}

/// Shows `seen` each file with contents below `dir`.
fn look(dir: &Path, seen: &mut impl FnMut(&Path)) {
    let entries = || fs::read_dir(dir)?.collect::<io::Result<Vec<_>>>();
    for path in entries().unwrap_or_default().into_iter().map(|entry| entry.path()) {
        match path.symlink_metadata() {
            Ok(metadata) if metadata.is_dir() => look(&path, seen),
            Ok(metadata) if metadata.is_file() && metadata.size() > 0 => seen(&path),
            _ => {}
        }
    }
}

/// Whether it only looks like a secret.
fn is_public(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "pub") || PUBLIC.map(Path::new).contains(&path)
}

/// Whose line of /etc/shadow has a password (shadow(5)): neither locked nor empty.
fn password(line: &str) -> Option<&str> {
    let mut fields = line.split(':');
    let (user, hash) = (fields.next()?, fields.next()?);
    (!hash.is_empty() && !hash.starts_with(['!', '*'])).then_some(user)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::Sandbox;
    use crate::testing::is_root;

    /// What is found in a root with these files.
    fn found(files: &[(&str, &str)]) -> Vec<String> {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        for (path, contents) in files {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, contents).unwrap();
        }
        let tools = Tools::new(Sandbox::new(&root), &dir.path().join("log")).unwrap();
        find(&tools)
            .unwrap()
            .iter()
            .map(|secret| format!("{} {}", secret.path.display(), secret.what))
            .collect()
    }

    #[test]
    fn what_everyone_could_read_is_found() {
        if !is_root() {
            return;
        }
        let found = found(&[
            ("etc/ssh/ssh_host_ed25519_key", "key"),
            ("etc/ssh/ssh_host_ed25519_key.pub", "public"),
            ("root/.ssh/authorized_keys", "ssh-ed25519 AAAA"),
            ("home/user/.ssh/id_rsa", "key"),
            ("home/user/.ssh/id_rsa.pub", "public"),
            ("home/user/.bash_history", "mysql -phunter2"),
            ("etc/munge/munge.key", "key"),
            ("etc/ssl/private/site.key", "key"),
            ("etc/ssl/private/ssl-cert-snakeoil.key", "key"),
            ("etc/machine-id", "0123456789abcdef0123456789abcdef\n"),
            ("etc/shadow", "root:$6$x$y:1:0:::::\nbin:*:1::::::\nuser:!$6$x$y:1::::::\nodd\n"),
        ]);
        let expected = [
            "/etc/machine-id the id of one machine, which all nodes would have",
            "/etc/munge/munge.key key of munge",
            "/etc/shadow a password of root, as a hash",
            "/etc/ssh/ssh_host_ed25519_key private host key of an SSH server",
            "/etc/ssl/private/site.key private key of TLS",
            "/home/user/.bash_history what somebody typed",
            "/home/user/.ssh/id_rsa private SSH key",
            "/root/.ssh/authorized_keys SSH keys that may log in",
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn an_image_as_its_packages_make_it_has_none() {
        if !is_root() {
            return;
        }
        let files =
            [("etc/machine-id", ""), ("root/.ssh/authorized_keys", ""), ("etc/shadow", "root:*:1::::::\n")];
        assert_eq!(found(&files), [""; 0]);
    }
}
