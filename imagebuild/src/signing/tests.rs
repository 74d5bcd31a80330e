//! Both directions between our keys and signatures and those of the program minisign; and what is refused.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output, Stdio};

use bootspec::initramfs::{KEYS_DIR, MIN_ROLLBACK_INDEX};
use bootspec::signature::{SignatureError, verify};
use proptest::prelude::*;

use super::*;

/// Runs minisign in `dir` with `input` on its standard input.
fn minisign(dir: &Path, arguments: &[&str], input: &str) -> Output {
    let mut child = Command::new("minisign")
        .args(arguments)
        .current_dir(dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("scripts/setup installs minisign");
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

fn no_password(path: &Path) -> Result<String, SigningError> {
    panic!("{} has no password", path.display())
}

/// A pair of keys in a directory of its own.
fn pair(password: Option<&str>) -> (tempfile::TempDir, KeyFiles) {
    let dir = tempfile::tempdir().unwrap();
    let files = keygen(dir.path(), password.map(str::to_owned)).unwrap();
    (dir, files)
}

fn signer(files: &KeyFiles) -> Signer {
    Signer::read(&files.secret, no_password).unwrap()
}

/// The chain of an error as one text.
fn chain(error: &dyn std::error::Error) -> String {
    let source = error.source().map(chain).unwrap_or_default();
    format!("{error}: {source}")
}

#[test]
fn minisign_verifies_what_we_sign() {
    let (dir, files) = pair(None);
    let document = dir.path().join("overlay.tar");
    fs::write(&document, "files of a node").unwrap();
    let signature = sign_file(&document, &signer(&files), 1_700_000_000).unwrap();
    assert_eq!(signature, dir.path().join("overlay.tar.minisig"));
    let arguments = ["-V", "-p", "bootnode.pub", "-m", "overlay.tar"];
    let verified = minisign(dir.path(), &arguments, "");
    assert!(verified.status.success(), "{verified:?}");
    let comment = String::from_utf8(verified.stdout).unwrap();
    assert!(comment.contains("Trusted comment: timestamp:1700000000\tfile:overlay.tar"), "{comment}");
    fs::write(&document, "files of another").unwrap();
    assert!(!minisign(dir.path(), &arguments, "").status.success());
}

#[test]
fn init_trusts_what_minisign_signs_with_our_key() {
    let (dir, files) = pair(None);
    fs::write(dir.path().join("manifest.json"), "{}").unwrap();
    let signed = minisign(dir.path(), &["-S", "-s", "bootnode.key", "-m", "manifest.json"], "");
    assert!(signed.status.success(), "{signed:?}");
    let signature = fs::read_to_string(dir.path().join("manifest.json.minisig")).unwrap();
    let trust = Trust::read(&[files.public], None).unwrap();
    assert_eq!(verify(b"{}", Some(&signature), &trust.trusted_keys()), Ok(()));
    assert_eq!(key_id_of(&signature), Some(files.id));
}

#[test]
fn a_legacy_signature_of_minisign_is_called_so() {
    let (dir, files) = pair(None);
    fs::write(dir.path().join("manifest.json"), "{}").unwrap();
    let signed = minisign(dir.path(), &["-S", "-l", "-s", "bootnode.key", "-m", "manifest.json"], "");
    assert!(signed.status.success(), "{signed:?}");
    let signature = fs::read_to_string(dir.path().join("manifest.json.minisig")).unwrap();
    let trust = Trust::read(&[files.public], None).unwrap();
    assert_eq!(verify(b"{}", Some(&signature), &trust.trusted_keys()), Err(SignatureError::Legacy));
}

#[test]
fn we_sign_with_keys_that_minisign_made() {
    let dir = tempfile::tempdir().unwrap();
    let generate = |arguments: &[&str], input| {
        let made = minisign(dir.path(), &[&["-G"], arguments].concat(), input);
        assert!(made.status.success(), "{made:?}");
    };
    generate(&["-W", "-p", "plain.pub", "-s", "plain.key"], "");
    generate(&["-p", "locked.pub", "-s", "locked.key"], "hunter2\nhunter2\n");
    for (name, password) in [("plain", None), ("locked", Some("hunter2"))] {
        let ask = |path: &Path| password.map(str::to_owned).map_or_else(|| no_password(path), Ok);
        let signer = Signer::read(&dir.path().join(name).with_extension("key"), ask).unwrap();
        let signature = signer.sign(b"document", "").unwrap();
        let trust = Trust::read(&[dir.path().join(name).with_extension("pub")], None).unwrap();
        assert_eq!(trust.ids(), [signer.id()]);
        assert_eq!(verify(b"document", Some(&signature), &trust.trusted_keys()), Ok(()));
    }
}

#[test]
fn a_key_with_a_password_needs_it() {
    let (_dir, files) = pair(Some("correct"));
    let read = |password: &str| Signer::read(&files.secret, |_| Ok(password.to_owned()));
    assert_eq!(read("correct").unwrap().id(), files.id);
    let error = chain(&read("wrong").err().unwrap());
    assert!(
        error.contains("bootnode.key is not a secret key") && error.contains("Wrong password"),
        "{error}"
    );
}

#[test]
fn the_secret_key_is_its_owners_and_no_key_is_overwritten() {
    let (dir, files) = pair(None);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&files.secret), mode(&files.public)), (0o600, 0o644));
    let before = fs::read(&files.secret).unwrap();
    let error = keygen(dir.path(), None).unwrap_err().to_string();
    let found = format!("bootnode.pub holds key {}\n", files.id);
    for part in ["bootnode.key exists already", &found, "hint: keys are never overwritten", "(--out)"] {
        assert!(error.contains(part), "no {part:?} in {error}");
    }
    fs::rename(&files.secret, dir.path().join("moved")).unwrap();
    assert!(chain(&keygen(dir.path(), None).unwrap_err()).contains("bootnode.pub"));
    assert!(!files.secret.exists(), "a secret key was left whose public key is another's");
    assert_eq!(fs::read(dir.path().join("moved")).unwrap(), before);
}

#[test]
fn a_damaged_key_is_refused() {
    let (dir, files) = pair(None);
    let text = fs::read_to_string(&files.secret).unwrap();
    let key = text.lines().nth(1).unwrap();
    // In the secret half; with and without the checksum.
    let damaged = format!("{}{}{}", &key[..90], if &key[90..91] == "A" { "B" } else { "A" }, &key[91..]);
    let no_checksum = format!("{}{}", &damaged[..168], "A".repeat(key.len() - 168 - 2) + "A=");
    let refused = |key: &str| {
        let path = dir.path().join("damaged.key");
        fs::write(&path, format!("untrusted comment: x\n{key}\n")).unwrap();
        let error = chain(&Signer::read(&path, no_password).err().expect(key));
        assert!(error.contains("damaged.key is not a secret key"), "{error}");
        error
    };
    assert!(refused(&damaged).contains("Corrupted key"));
    assert!(refused(&no_checksum).contains("Could not verify signature"));
    refused("junk");
    refused("");
    let error = Trust::read(std::slice::from_ref(&files.secret), None).unwrap_err();
    assert!(error.to_string().contains("bootnode.key is not a public key"), "{error}");
}

/// The error, if any, for an image that is signed and trusted so.
fn check(
    signed_by: Option<&KeyFiles>,
    trusted: &[&KeyFiles],
    (least, index): (Option<u64>, u64),
    mode: BootMode,
) -> Result<(), String> {
    let public: Vec<_> = trusted.iter().map(|files| files.public.clone()).collect();
    let signing = Signing { signer: signed_by.map(signer), trust: Trust::read(&public, least).unwrap() };
    signing.check(mode, index).map_err(|error| error.to_string())
}

#[test]
fn an_image_that_no_node_would_boot_is_refused_before_it_is_built() {
    let ((_a, ours), (_b, other)) = (pair(None), pair(None));
    let any = (None, 0);
    assert_eq!(check(None, &[], any, BootMode::Carried), Ok(()));
    assert_eq!(check(Some(&ours), &[], any, BootMode::Carried), Ok(()));
    assert_eq!(check(Some(&ours), &[&other, &ours], any, BootMode::Carried), Ok(()));
    let error = check(Some(&ours), &[&other], any, BootMode::Fetched).unwrap_err();
    assert!(error.contains(&ours.id) && error.contains(&format!("only key {}", other.id)), "{error}");
    assert!(check(None, &[&ours], any, BootMode::Carried).unwrap_err().contains("--sign-key"));
    assert!(check(None, &[&ours], any, BootMode::Failsafe).is_err());
    assert_eq!(check(None, &[&ours], any, BootMode::Fetched), Ok(()), "it can be signed later");
    assert_eq!(check(None, &[], (Some(3), 3), BootMode::Carried), Ok(()));
    let error = check(None, &[], (Some(3), 2), BootMode::Carried).unwrap_err();
    assert!(error.contains("rollback index 2") && error.contains("3 and above"), "{error}");
}

#[test]
fn the_initramfs_gets_each_key_once_and_the_rollback_index() {
    let (_dir, files) = pair(None);
    let trust = Trust::read(&[files.public.clone(), files.public], Some(7)).unwrap();
    let key = format!("{KEYS_DIR}/{}.pub", files.id);
    let members = trust.members();
    assert_eq!(members.iter().map(|(path, _)| path.as_str()).collect::<Vec<_>>(), [&key, MIN_ROLLBACK_INDEX]);
    assert_eq!(members[1].1, "7\n");
    let signature = signer(&pair(None).1).sign(b"x", "").unwrap();
    let wrong = verify(b"x", Some(&signature), &trust.trusted_keys());
    assert_eq!(wrong, Err(SignatureError::Wrong { keys: 1 }));
}

proptest! {
    #[test]
    fn any_text_is_a_key_or_none_without_panic(
        key in "(RWQAAEIy|RWQ)?[A-Za-z0-9+/]{0,220}={0,2}", comment in "(untrusted comment: )?\\PC{0,9}",
    ) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        fs::write(&path, format!("{comment}\n{key}\n")).unwrap();
        let _ = Signer::read(&path, |_| Ok(String::new()));
        let _ = Trust::read(&[path], None);
        let _ = key_id_of(&format!("{comment}\n{key}\ntrusted comment: \n{key}\n"));
    }
}
