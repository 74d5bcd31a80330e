//! Ranges in names: `node-[000-099]`, `rack[1-4]-[1-20/2]`, as ClusterShell writes them.
//!
//! Numbers keep the width of the first: `[08-10]` is 08, 09, 10. Of several brackets the last runs fastest.

/// No pattern is of more names: a slip of the hand must not take all memory.
pub const MAX_NAMES: usize = 100_000;

/// Which digits the numbers have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Radix {
    /// In names and addresses.
    Decimal,
    /// In MAC addresses and UUIDs.
    Hexadecimal,
}

/// A pattern that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// A bracket is not closed, or not opened.
    #[error("'{0}' has a bracket without its counterpart")]
    Bracket(String),
    /// It holds no range.
    #[error("'{range}' in '{pattern}' is no range: expected NUMBER, FIRST-LAST or FIRST-LAST/STEP")]
    Range {
        /// All of it.
        pattern: String,
        /// What stands between the brackets or commas.
        range: String,
    },
    /// There would be too many names.
    #[error("'{0}' is of more than {MAX_NAMES} names")]
    TooMany(String),
}

/// All names that `pattern` is of, in order.
pub fn expand(pattern: &str, radix: Radix) -> Result<Vec<String>, PatternError> {
    let mut names = vec![String::new()];
    let mut rest = pattern;
    while let Some((before, after)) = rest.split_once('[') {
        let unpaired = || PatternError::Bracket(pattern.to_owned());
        let (ranges, behind) = after.split_once(']').ok_or_else(unpaired)?;
        if before.contains(']') || ranges.contains('[') {
            return Err(unpaired());
        }
        let numbers = numbers(pattern, ranges, radix)?;
        if names.len().saturating_mul(numbers.len()) > MAX_NAMES {
            return Err(PatternError::TooMany(pattern.to_owned()));
        }
        let longer = |name: &String| -> Vec<String> {
            numbers.iter().map(|number| format!("{name}{before}{number}")).collect()
        };
        names = names.iter().flat_map(longer).collect();
        rest = behind;
    }
    if rest.contains(']') {
        return Err(PatternError::Bracket(pattern.to_owned()));
    }
    names.iter_mut().for_each(|name| name.push_str(rest));
    Ok(names)
}

/// What stands between two brackets: ranges, separated by commas.
fn numbers(pattern: &str, ranges: &str, radix: Radix) -> Result<Vec<String>, PatternError> {
    let mut numbers = Vec::new();
    for range in ranges.split(',') {
        let error = || PatternError::Range { pattern: pattern.to_owned(), range: range.to_owned() };
        let (first, last, step) = parse_range(range, radix).ok_or_else(error)?;
        let count = (last - first) / step as u64 + 1;
        if count.saturating_add(numbers.len() as u64) > MAX_NAMES as u64 {
            return Err(PatternError::TooMany(pattern.to_owned()));
        }
        let width = range.find(['-', '/']).unwrap_or(range.len());
        numbers.extend((first..=last).step_by(step).map(|number| match radix {
            Radix::Decimal => format!("{number:0width$}"),
            Radix::Hexadecimal => format!("{number:0width$x}"),
        }));
    }
    Ok(numbers)
}

/// First, last, and step.
fn parse_range(range: &str, radix: Radix) -> Option<(u64, u64, usize)> {
    let number = |digits: &str| {
        let base = if radix == Radix::Decimal { 10 } else { 16 };
        digits.chars().all(|digit| digit.is_digit(base)).then(|| u64::from_str_radix(digits, base).ok())?
    };
    let (ends, step) = match range.split_once('/') {
        Some((ends, step)) => (ends, step.parse().ok().filter(|step| *step > 0)?),
        None => (range, 1),
    };
    let (first, last) = ends.split_once('-').unwrap_or((ends, ends));
    let (first, last) = (number(first)?, number(last)?);
    (first <= last && last < u64::MAX).then_some((first, last, step))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(pattern: &str, radix: Radix, expected: &[&str]) {
        assert_eq!(expand(pattern, radix).unwrap(), expected, "{pattern}");
    }

    #[test]
    fn a_pattern_is_of_all_its_numbers_in_order() {
        check("node", Radix::Decimal, &["node"]);
        check("node-[8-10]", Radix::Decimal, &["node-8", "node-9", "node-10"]);
        check("node-[08-10,3]x", Radix::Decimal, &["node-08x", "node-09x", "node-10x", "node-3x"]);
        check("n[0-7/3]", Radix::Decimal, &["n0", "n3", "n6"]);
        check("r[1-2]n[1-2]", Radix::Decimal, &["r1n1", "r1n2", "r2n1", "r2n2"]);
        check("66:[fe-ff]", Radix::Hexadecimal, &["66:fe", "66:ff"]);
        check("66:[09-0b]", Radix::Hexadecimal, &["66:09", "66:0a", "66:0b"]);
    }

    #[test]
    fn what_is_no_pattern_is_refused() {
        for pattern in ["n[1", "n1]", "n]1[", "n[[1]]", "n[1-2][", "n[]]"] {
            assert!(
                matches!(
                    expand(pattern, Radix::Decimal),
                    Err(PatternError::Bracket(_) | PatternError::Range { .. })
                ),
                "{pattern}"
            );
        }
        for pattern in [
            "n[]",
            "n[a]",
            "n[2-1]",
            "n[1-]",
            "n[-1]",
            "n[1-2/0]",
            "n[1,,2]",
            "n[1-2-3]",
            "n[+1]",
            "n[99999999999999999999]",
        ] {
            assert!(matches!(expand(pattern, Radix::Decimal), Err(PatternError::Range { .. })), "{pattern}");
        }
        for pattern in ["n[1-100001]", "n[0-18446744073709551614]", "[1-999][1-999]", "[1-50000,1-50001]"] {
            assert_eq!(expand(pattern, Radix::Decimal), Err(PatternError::TooMany(pattern.to_owned())));
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "[a-c\\[\\],/0-9-]{0,24}", other: String) {
            for radix in [Radix::Decimal, Radix::Hexadecimal] {
                let _ = (expand(&text, radix), expand(&other, radix));
            }
        }
    }
}
