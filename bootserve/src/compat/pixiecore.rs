//! The API of pixiecore, version 1: what its client boots a machine with, as JSON.

use bootspec::MacAddr;
use bootspec::event::BootId;
use serde::Serialize;

/// Where its client asks, with this prefix or bootcfg's.
pub const PATHS: [&str; 2] = ["/v1/boot/{mac}", "/pixiecore/v1/boot/{mac}"];

/// What to boot. Its fields are printed in this order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Answer<Cmdline> {
    /// URL of the kernel, or a path on the server that was asked.
    pub kernel: String,
    /// URLs of the parts of the initramfs, in their order.
    pub initrd: Vec<String>,
    /// Kernel command line: a text, or an object of keys and values. The client adds `initrd=` itself.
    pub cmdline: Cmdline,
}

impl<Cmdline: Serialize> Answer<Cmdline> {
    /// As Go's `json.Marshal` prints it, which escapes what means something in HTML.
    pub fn json(&self) -> String {
        let json = serde_json::to_string(self).expect("texts, lists and JSON are JSON");
        // None of these stands outside of a string.
        [
            ('<', "\\u003c"),
            ('>', "\\u003e"),
            ('&', "\\u0026"),
            ('\u{2028}', "\\u2028"),
            ('\u{2029}', "\\u2029"),
        ]
        .into_iter()
        .fold(json, |json, (from, to)| json.replace(from, to))
    }
}

/// The boot id of a machine of which no events are kept: always the same, so that each answer is.
pub fn unrecorded_boot(mac: MacAddr) -> BootId {
    let octets = mac.octets().into_iter().fold(0, |number, octet| (number << 8) | u64::from(octet));
    BootId::new(octets)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn json_is_compact_and_escaped_as_go_does() {
        let answer = Answer { kernel: "/k?a=1&b=<2>".into(), initrd: vec!["/i".into()], cmdline: "quiet" };
        let expected = r#"{"kernel":"/k?a=1\u0026b=\u003c2\u003e","initrd":["/i"],"cmdline":"quiet"}"#;
        assert_eq!(answer.json(), expected);
    }

    proptest! {
        #[test]
        fn any_text_is_the_same_after_parsing(text in "\\PC{0,20}|[<>&\\\\\"\u{2028}]{0,8}") {
            let answer = Answer { kernel: text.clone(), initrd: vec![text.clone()], cmdline: text.clone() };
            let parsed: serde_json::Value = serde_json::from_str(&answer.json()).unwrap();
            prop_assert_eq!(&parsed["kernel"], &text);
            prop_assert_eq!(&parsed["initrd"][0], &text);
        }
    }
}
