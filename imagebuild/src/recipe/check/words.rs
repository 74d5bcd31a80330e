//! What single texts of a recipe may be.

use std::path::{Component, PathBuf};

/// useradd(8) refuses longer names.
const MAX_USER_NAME_BYTES: usize = 32;

/// Says what was expected if a value is not acceptable.
pub type Check = fn(&str) -> Result<(), &'static str>;

/// One argument of a program that is not taken for an option.
pub fn check_word(text: &str) -> Result<(), &'static str> {
    let plain = !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic());
    (plain && !text.starts_with('-')).then_some(()).ok_or("one word that does not begin with '-'")
}

/// mmdebstrap takes a comma-separated list.
pub fn check_package(text: &str) -> Result<(), &'static str> {
    check_word(text)?;
    (!text.contains(',')).then_some(()).ok_or("one package")
}

/// A module with a stream. Profiles are left out: what is to be installed, `packages` say.
pub fn check_module_stream(text: &str) -> Result<(), &'static str> {
    let expected = "a module and its stream, such as nodejs:20";
    check_word(text).map_err(|_| expected)?;
    let named = |(module, stream): (&str, &str)| {
        !module.is_empty() && !stream.is_empty() && !stream.contains([':', '/'])
    };
    text.split_once(':').is_some_and(named).then_some(()).ok_or(expected)
}

/// dnf takes `@nodejs:20/common` for a module.
pub fn check_group(text: &str) -> Result<(), &'static str> {
    let plain = check_word(text).is_ok() && !text.contains(['@', ':', '/', ',']);
    plain.then_some(()).ok_or("the id of a group without '@', such as core")
}

pub fn check_variable_name(text: &str) -> Result<(), &'static str> {
    let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    plain.then_some(()).ok_or("letters, digits and '_', without '$'")
}

pub fn check_line(text: &str) -> Result<(), &'static str> {
    let plain = !text.is_empty() && !text.contains(char::is_control) && !text.starts_with('-');
    plain.then_some(()).ok_or("one line")
}

pub fn check_root_path(text: &str) -> Result<(), &'static str> {
    let path = PathBuf::from(text);
    let mut components = path.components();
    let absolute = components.next() == Some(Component::RootDir);
    let mut names = components.peekable();
    let named = names.peek().is_some() && names.all(|c| matches!(c, Component::Normal(_)));
    let plain = !text.contains(char::is_control) && !text.ends_with('/');
    (absolute && named && plain).then_some(()).ok_or("an absolute path inside the image, without '..'")
}

/// A field of /etc/passwd.
pub fn check_passwd_path(text: &str) -> Result<(), &'static str> {
    check_root_path(text)?;
    (!text.contains(':')).then_some(()).ok_or("a path without ':'")
}

pub fn check_user_name(text: &str) -> Result<(), &'static str> {
    let first = text.starts_with(|c: char| c.is_ascii_lowercase() || c == '_');
    let rest = text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"_-".contains(&b));
    (first && rest && text.len() <= MAX_USER_NAME_BYTES)
        .then_some(())
        .ok_or("at most 32 lower-case letters, digits, '_' and '-', the first a letter or '_'")
}

pub fn check_password_hash(text: &str) -> Result<(), &'static str> {
    let hash = text.starts_with(['$', '!', '*']) && text.bytes().all(|b| b.is_ascii_graphic() && b != b':');
    hash.then_some(()).ok_or("a hash as `mkpasswd` or `openssl passwd -6` prints it, or '!' for no password")
}

pub fn check_ssh_key(text: &str) -> Result<(), &'static str> {
    let line = !text.contains(char::is_control) && text.split_whitespace().count() >= 2;
    line.then_some(()).ok_or("one line of an authorized_keys file")
}

pub fn parse_mode(text: &str) -> Result<u32, String> {
    let mode = u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o7777);
    mode.ok_or_else(|| format!("found '{text}', expected an octal mode such as \"0644\""))
}
