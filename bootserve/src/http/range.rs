//! Which bytes of a file a request wants (RFC 9110 section 14).

use http_range_header::{EndPosition, StartPosition, SyntacticallyCorrectRange, parse_range_header};

/// Whoever asks for more ranges at once is sent the whole file. Each costs a head of its own.
const MAX_RANGES: usize = 16;

/// Part of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Offset of its first byte.
    pub start: u64,
    /// Number of its bytes.
    pub length: u64,
}

impl Span {
    /// Offset of the first byte behind it.
    pub fn end(self) -> u64 {
        self.start + self.length
    }

    /// The same in pieces of at most `bytes`.
    pub fn pieces(self, bytes: u64) -> impl Iterator<Item = Self> {
        let rests = std::iter::successors(Some(self), move |rest| {
            (rest.length > bytes).then(|| Self { start: rest.start + bytes, length: rest.length - bytes })
        });
        rests
            .map(move |rest| Self { length: rest.length.min(bytes), ..rest })
            .filter(|piece| piece.length > 0)
    }
}

/// What to answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selection {
    /// 200: everything.
    Whole,
    /// 206: a part.
    Part(Span),
    /// 206: several parts.
    Parts(Vec<Span>),
    /// 416: all ranges begin behind the end.
    Unsatisfiable,
}

/// Applies the value of a Range header to a file of `size` bytes. A malformed header is ignored, as are too many ranges and
/// those that together are no less than the file, which RFC 9110 section 14.2 allows: nobody needs them but to do harm.
pub fn select(range: &str, size: u64) -> Selection {
    let Ok(parsed) = parse_range_header(range) else { return Selection::Whole };
    if parsed.ranges.len() > MAX_RANGES {
        return Selection::Whole;
    }
    let spans: Vec<_> = parsed.ranges.iter().filter_map(|range| span_of(range, size)).collect();
    match *spans {
        [] => Selection::Unsatisfiable,
        [span] => Selection::Part(span),
        _ if spans.iter().map(|span| u128::from(span.length)).sum::<u128>() >= u128::from(size) => {
            Selection::Whole
        }
        _ => Selection::Parts(spans),
    }
}

/// None if it begins behind the end.
fn span_of(range: &SyntacticallyCorrectRange, size: u64) -> Option<Span> {
    let start = match range.start {
        StartPosition::Index(start) => start,
        StartPosition::FromLast(length) => size.saturating_sub(length),
    };
    let last = match range.end {
        EndPosition::Index(last) => last.min(size.saturating_sub(1)),
        EndPosition::LastByte => size.saturating_sub(1),
    };
    (start < size && start <= last).then(|| Span { start, length: last - start + 1 })
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
    fn several_ranges_are_honoured_but_for_those_behind_the_end() {
        let parts = |spans: &[(u64, u64)]| {
            Selection::Parts(spans.iter().map(|&(start, length)| Span { start, length }).collect())
        };
        check("bytes=0-1,5-6", 100, parts(&[(0, 2), (5, 2)]));
        check("bytes=90-, 0-0, 200-300", 100, parts(&[(90, 10), (0, 1)]));
        check("bytes=5-6,200-300", 100, part(5, 2));
        check("bytes=200-,300-", 100, Selection::Unsatisfiable);
    }

    #[test]
    fn what_is_no_range_or_too_much_is_ignored() {
        let many = format!("bytes=0-0{}", ",2-2".repeat(MAX_RANGES));
        for range in ["bytes=x", "lines=1-2", "", "bytes=0-50,50-99", "bytes=0-,0-,0-", &many] {
            check(range, 100, Selection::Whole);
        }
    }

    proptest! {
        #[test]
        fn parts_lie_within_the_file(ranges in prop::collection::vec("[0-9]{0,3}-[0-9]{0,3}", 1..4), size in 0u64..500) {
            let spans = match select(&format!("bytes={}", ranges.join(",")), size) {
                Selection::Part(span) => vec![span],
                Selection::Parts(spans) => spans,
                Selection::Whole | Selection::Unsatisfiable => Vec::new(),
            };
            for span in spans {
                prop_assert!(span.length > 0 && span.start + (span.length - 1) < size);
            }
        }

        #[test]
        fn pieces_are_the_span_in_order(start in 0u64..100, length in 0u64..100, bytes in 1u64..40) {
            let mut next = start;
            for piece in (Span { start, length }).pieces(bytes) {
                prop_assert_eq!(piece.start, next);
                prop_assert!(piece.length > 0 && piece.length <= bytes);
                next = piece.end();
            }
            prop_assert_eq!(next, start + length);
        }

        #[test]
        fn any_text_is_handled_without_panic(range in "\\PC{0,30}", size: u64) {
            select(&range, size);
        }
    }
}
