//! Which bytes of a file a request wants (RFC 9110 section 14), one range at most.

use http_range_header::{EndPosition, StartPosition, SyntacticallyCorrectRange, parse_range_header};

/// Part of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Offset of its first byte.
    pub start: u64,
    /// Number of its bytes.
    pub length: u64,
}

/// What to answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Selection {
    /// 200: everything.
    Whole,
    /// 206: a part.
    Part(Span),
    /// 416: the range begins behind the end.
    Unsatisfiable,
}

/// Applies the value of a Range header to a file of `size` bytes. A malformed header and a list of several ranges are
/// ignored, which RFC 9110 allows and curl and iPXE never send.
pub fn select(range: &str, size: u64) -> Selection {
    match parse_range_header(range).as_ref().map(|parsed| parsed.ranges.as_slice()) {
        Ok([range]) => select_one(range, size),
        _ => Selection::Whole,
    }
}

fn select_one(range: &SyntacticallyCorrectRange, size: u64) -> Selection {
    let start = match range.start {
        StartPosition::Index(start) => start,
        StartPosition::FromLast(length) => size.saturating_sub(length),
    };
    let last = match range.end {
        EndPosition::Index(last) => last.min(size.saturating_sub(1)),
        EndPosition::LastByte => size.saturating_sub(1),
    };
    if start >= size || last < start {
        return Selection::Unsatisfiable;
    }
    Selection::Part(Span { start, length: last - start + 1 })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(range: &str, size: u64, expected: Selection) {
        assert_eq!(select(range, size), expected, "{range} of {size}");
    }

    fn part(start: u64, length: u64) -> Selection {
        Selection::Part(Span { start, length })
    }

    #[test]
    fn one_range_is_honoured() {
        check("bytes=0-9", 100, part(0, 10));
        check("bytes=90-", 100, part(90, 10));
        check("bytes=-10", 100, part(90, 10));
        check("bytes=50-1000", 100, part(50, 50));
        check("bytes=-1000", 100, part(0, 100));
    }

    #[test]
    fn a_range_behind_the_end_is_unsatisfiable() {
        check("bytes=100-", 100, Selection::Unsatisfiable);
        check("bytes=0-0", 0, Selection::Unsatisfiable);
        check("bytes=9-5", 100, Selection::Unsatisfiable);
    }

    #[test]
    fn what_is_no_single_range_is_ignored() {
        for range in ["bytes=x", "lines=1-2", "bytes=0-1,5-6", ""] {
            check(range, 100, Selection::Whole);
        }
    }

    proptest! {
        #[test]
        fn a_part_lies_within_the_file(start: u64, end: u64, size: u64) {
            if let Selection::Part(span) = select(&format!("bytes={start}-{end}"), size) {
                prop_assert!(span.length > 0 && span.start + (span.length - 1) < size);
            }
        }

        #[test]
        fn any_text_is_handled_without_panic(range in "\\PC{0,30}", size: u64) {
            select(&range, size);
        }
    }
}
