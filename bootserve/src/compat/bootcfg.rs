//! CoreOS bootcfg of 2015: `{boot,cloud}/uuid/UUID`, then `{boot,cloud}/mac/MAC`, then `{boot,cloud}/default`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use super::data_dir::{DataFile, file_name};
use super::labels::HardwareAddr;
use super::matchbox::template::go_text;
use super::pixiecore::Answer;
use super::{CompatError, DataDir, Found, Labels, read_json};
use bootspec::diagnosis::explain;

/// The script that passes on what iPXE knows of the machine, relative to its own URL. `net0` is the first card, as bootcfg had it.
pub const FIRST_SCRIPT: &str = "#!ipxe\nchain ipxe?uuid=${uuid}&mac=${net0/mac:hexhyp}&ip=${ip}&domain=${domain}\
                                &hostname=${hostname}&serial=${serial}\n";

/// A boot config: a file below `boot/`.
#[derive(Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
struct BootConfig {
    #[serde(deserialize_with = "null_is_none")]
    kernel: String,
    initrd: Option<Vec<String>>,
    cmdline: Option<BTreeMap<String, Value>>,
}

/// Go leaves a field as it is that is null.
pub(super) fn null_is_none<'de, T: Default + Deserialize<'de>, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}

/// What the machine boots. A file that matches and is not valid is an error: the next one is not for this machine.
pub fn boot(dir: &DataDir, labels: &Labels) -> Result<Option<Found>, CompatError> {
    for name in candidates("boot", labels) {
        if let Some(config) = read_json::<BootConfig>(dir, &name)? {
            return Ok(Some(config.found(&name)));
        }
    }
    Ok(None)
}

/// The cloud config of the machine, to be sent as it is.
pub fn cloud(dir: &DataDir, labels: &Labels) -> Result<Option<DataFile>, CompatError> {
    for name in candidates("cloud", labels) {
        if let Some(file) = dir.open_file(&name)? {
            return Ok(Some(file));
        }
    }
    Ok(None)
}

/// Which files are for the machine, in the order of the search. A UUID is the name of a file as it came.
fn candidates(kind: &str, labels: &Labels) -> Vec<PathBuf> {
    let uuid = labels.get("uuid").and_then(file_name).map(|uuid| format!("{kind}/uuid/{uuid}"));
    let mac = labels.get("mac").map(|mac| format!("{kind}/mac/{mac}"));
    [uuid, mac, Some(format!("{kind}/default"))].into_iter().flatten().map(PathBuf::from).collect()
}

impl BootConfig {
    fn found(self, name: &Path) -> Found {
        let (script, rule) = (self.script(), format!("bootcfg {}", name.display()));
        let Self { kernel, initrd, cmdline } = self;
        let initrd = initrd.unwrap_or_default();
        let json = Answer { kernel: kernel.clone(), initrd, cmdline: cmdline.unwrap_or_default() }.json();
        Found { rule, kernel, script, json }
    }

    /// All files of the initramfs stand in one line, each with a blank behind it.
    fn script(&self) -> String {
        let arguments: String = self.cmdline.iter().flatten().map(argument).collect();
        let initrd: String = self.initrd.iter().flatten().map(|file| format!("{file} ")).collect();
        format!("#!ipxe\nkernel {}{arguments}\ninitrd {initrd}\nboot\n", self.kernel)
    }
}

/// One argument with a blank before it: the key alone if its value says no more than that it is there.
fn argument((key, value): (&String, &Value)) -> String {
    let is_empty = match value {
        Value::Null | Value::Bool(false) => true,
        Value::Bool(true) => false,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
    };
    if is_empty { format!(" {key}") } else { format!(" {key}={}", go_text(value)) }
}

/// What is wrong with the files, each in a sentence.
pub fn problems(dir: &DataDir) -> Result<Vec<String>, CompatError> {
    let mut problems = Vec::new();
    for name in dir.names("boot/uuid")? {
        problems.extend(boot_problem(dir, &format!("boot/uuid/{name}")));
    }
    for name in dir.names("boot/mac")? {
        problems.extend(boot_problem(dir, &format!("boot/mac/{name}")));
    }
    problems.extend(boot_problem(dir, "boot/default"));
    for kind in ["boot/mac", "cloud/mac"] {
        for name in dir.names(kind)? {
            problems.extend(address_problem(dir, kind, &name));
        }
    }
    Ok(problems)
}

fn boot_problem(dir: &DataDir, name: &str) -> Option<String> {
    let path = dir.path().join(name);
    match read_json::<BootConfig>(dir, Path::new(name)) {
        Err(error) => Some(explain(&error)),
        Ok(Some(config)) if config.kernel.is_empty() => Some(format!("{} names no kernel", path.display())),
        // Something is there, and it does not count.
        Ok(None) if path.symlink_metadata().is_ok() => {
            Some(format!("{} is no regular file of the directory", path.display()))
        }
        Ok(_) => None,
    }
}

fn address_problem(dir: &DataDir, kind: &str, name: &str) -> Option<String> {
    let address = name.parse::<HardwareAddr>().ok().map(|address| address.to_string());
    let path = dir.path().join(kind).join(name);
    let problem = match address {
        Some(address) if address == name => return None,
        Some(address) => format!("a machine's file is looked for as {address}"),
        None => "expected a MAC address such as 52:54:00:a1:9c:ae".to_owned(),
    };
    Some(format!("{} is found by no machine: {problem}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn config(json: &str) -> BootConfig {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn arguments_are_sorted_and_a_value_that_says_nothing_is_left_out() {
        let json = r#"{"kernel": "/k", "initrd": ["/a", "/b"],
            "cmdline": {"z": "", "b": false, "c": true, "n": null, "a": "x", "zero": 0, "speed": 115200, "half": 0.5}}"#;
        let expected = "#!ipxe\nkernel /k a=x b c=true half=0.5 n speed=115200 z zero\ninitrd /a /b \nboot\n";
        assert_eq!(config(json).script(), expected);
    }

    #[test]
    fn what_is_left_out_or_null_is_empty() {
        for json in ["{}", r#"{"kernel": null, "initrd": null, "cmdline": null, "comment": 1}"#] {
            let found = config(json).found(Path::new("boot/default"));
            assert_eq!(found.script, "#!ipxe\nkernel \ninitrd \nboot\n");
            assert_eq!(found.json, r#"{"kernel":"","initrd":[],"cmdline":{}}"#);
        }
    }

    #[test]
    fn files_are_looked_for_by_uuid_then_mac_then_default() {
        let check = |query, expected: &[&str]| {
            let found = candidates("boot", &Labels::parse(query));
            assert_eq!(found, expected.iter().map(PathBuf::from).collect::<Vec<_>>(), "{query}");
        };
        let mac = "boot/mac/52:54:00:a1:9c:ae";
        check("uuid=aB-1&mac=52-54-00-A1-9C-AE", &["boot/uuid/aB-1", mac, "boot/default"]);
        check("uuid=&mac=5254.00a1.9cae", &[mac, "boot/default"]);
        check("uuid=../../cloud/default", &["boot/default"]);
        check("uuid=..&mac=../default", &["boot/default"]);
        check("", &["boot/default"]);
    }

    proptest! {
        #[test]
        fn any_json_is_a_config_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            let _ = serde_json::from_slice::<BootConfig>(&bytes);
        }

        #[test]
        fn the_command_line_has_each_key_once(keys in prop::collection::btree_set("[a-z.]{1,8}", 0..6)) {
            let cmdline = keys.iter().map(|key| (key.clone(), Value::Null)).collect();
            let config = BootConfig { kernel: "/k".into(), initrd: None, cmdline: Some(cmdline) };
            let words = keys.iter().map(|key| format!(" {key}")).collect::<String>();
            prop_assert_eq!(config.script(), format!("#!ipxe\nkernel /k{words}\ninitrd \nboot\n"));
        }
    }
}
