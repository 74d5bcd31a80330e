//! Matches what a device says that it is with the patterns of modules.alias, as kmod does: fnmatch(3) without flags, where
//! `-` and `_` are the same outside of brackets.

/// Whether two names are the same to the kernel.
pub fn is_same(a: &str, b: &str) -> bool {
    a.len() == b.len() && a.bytes().zip(b.bytes()).all(|(a, b)| fold(a) == fold(b))
}

/// Whether `pattern` matches all of `text`. `*` is any bytes, `?` any one, `[a-f]` and `[!a-f]` one of a set or none of it,
/// and a backslash makes the next byte ordinary.
pub fn matches(pattern: &str, text: &str) -> bool {
    let (mut pattern, mut text) = (pattern.as_bytes(), text.as_bytes());
    // What is behind the last star, and the text that it has not taken yet.
    let mut star: Option<(&[u8], &[u8])> = None;
    loop {
        if let [b'*', rest @ ..] = pattern {
            pattern = rest;
            star = Some((pattern, text));
            continue;
        }
        let Some((&byte, rest)) = text.split_first() else { return pattern.is_empty() };
        if let Some(length) = match_one(pattern, byte) {
            (pattern, text) = (&pattern[length..], rest);
            continue;
        }
        // The star takes one byte more.
        match star {
            Some((behind, [_, rest @ ..])) => {
                (pattern, text) = (behind, rest);
                star = Some((behind, rest));
            }
            _ => return false,
        }
    }
}

/// The length of the beginning of `pattern` that stands for one byte, if it matches `byte`.
fn match_one(pattern: &[u8], byte: u8) -> Option<usize> {
    match pattern {
        [] => None,
        [b'?', ..] => Some(1),
        [b'\\', escaped, ..] => (fold(*escaped) == fold(byte)).then_some(2),
        [first, rest @ ..] => match bracket(rest) {
            Some((set, negated, length)) if *first == b'[' => {
                (in_set(set, byte) != negated).then_some(1 + length)
            }
            _ => (fold(*first) == fold(byte)).then_some(1),
        },
    }
}

/// Behind an opening bracket: the set, whether it is negated, and the length up to behind the closing one. None if there is
/// no closing bracket: then the opening one is an ordinary byte.
fn bracket(rest: &[u8]) -> Option<(&[u8], bool, usize)> {
    let negated = matches!(rest, [b'!' | b'^', ..]);
    let start = usize::from(negated);
    // A closing bracket that comes first belongs to the set.
    let end = (start + 1..rest.len()).find(|&at| rest[at] == b']')?;
    Some((&rest[start..end], negated, end + 1))
}

fn in_set(mut set: &[u8], byte: u8) -> bool {
    loop {
        let found;
        (found, set) = match set {
            [] => return false,
            [first, b'-', last, rest @ ..] => ((*first..=*last).contains(&byte), rest),
            [one, rest @ ..] => (*one == byte, rest),
        };
        if found {
            return true;
        }
    }
}

fn fold(byte: u8) -> u8 {
    if byte == b'-' { b'_' } else { byte }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn patterns_of_real_drivers_match_their_devices() {
        for (pattern, text, expected) in [
            (
                "pci:v00008086d000010D3sv*sd*bc*sc*i*",
                "pci:v00008086d000010D3sv00008086sd0000A01Fbc02sc00i00",
                true,
            ),
            (
                "pci:v00008086d000010D3sv*sd*bc*sc*i*",
                "pci:v00008086d000010D4sv00008086sd0000A01Fbc02sc00i00",
                false,
            ),
            ("virtio:d00000001v*", "virtio:d00000001v00001AF4", true),
            ("virtio:d00000001v*", "virtio:d00000010v00001AF4", false),
            ("acpi*:VMBUS:*", "acpi:VMBUS:", true),
            ("usb:v0BDAp[0-9A-F]*", "usb:v0BDAp8153d3100", true),
            ("usb:v0BDAp[!0-9]*", "usb:v0BDAp8153d3100", false),
            ("xen:vif", "xen:vif", true),
            ("xen:vif", "xen:vifx", false),
            ("platform:ab-c*", "platform:ab_cd", true),
            ("a[]]b", "a]b", true),
            ("a[b", "a[b", true),
            ("a[a-]", "a-", true),
            ("a\\*", "a*", true),
            ("a\\*", "ab", false),
            ("*a*b", "aabab", true),
            ("*", "", true),
            ("", "", true),
            ("?", "", false),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern} {text}");
        }
    }

    /// What the patterns mean, without regard to time: brackets and backslashes are left out.
    fn matches_slowly(pattern: &[u8], text: &[u8]) -> bool {
        match (pattern, text) {
            ([], []) => true,
            ([b'*', rest @ ..], _) => (0..=text.len()).any(|taken| matches_slowly(rest, &text[taken..])),
            ([b'?', pattern @ ..], [_, text @ ..]) => matches_slowly(pattern, text),
            ([p, pattern @ ..], [t, text @ ..]) => p == t && matches_slowly(pattern, text),
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn stars_match_as_if_all_ways_were_tried(pattern in "[ab*?]{0,8}", text in "[ab]{0,10}") {
            prop_assert_eq!(matches(&pattern, &text), matches_slowly(pattern.as_bytes(), text.as_bytes()));
        }

        #[test]
        fn any_pattern_is_matched_without_panic(pattern in "([\\[\\]!^*?\\\\-]|\\PC){0,20}", text in "\\PC{0,20}") {
            let _ = matches(&pattern, &text);
        }

        #[test]
        fn a_text_in_backslashes_matches_itself(text in "\\PC{0,20}") {
            let escaped: String = text.chars().flat_map(|c| c.is_ascii().then_some('\\').into_iter().chain([c])).collect();
            prop_assert!(matches(&escaped, &text));
        }
    }
}
