//! Sets of nodes: `node-[000-099]`, `@gpu,!node-[010-019]`, in ClusterShell's syntax.
//!
//! `,` or a space adds, `!` takes away, `&` keeps what is in both, `^` keeps what is in one alone; all from left to right. `@NAME` is a
//! group, `@*` all nodes.

use std::fmt;

use bootspec::store::NodeName;
use indexmap::IndexSet;

use super::pattern::{PatternError, Radix, expand};

/// Names, each once, in the order in which they were named.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeSet(pub IndexSet<NodeName>);

/// A set that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NodeSetError {
    /// A pattern in it.
    #[error(transparent)]
    Pattern(#[from] PatternError),
    /// A name in it.
    #[error("'{name}' is not the name of a node: {problem}")]
    Name {
        /// The name.
        name: String,
        /// What is wrong with it.
        problem: String,
    },
    /// Something is missing before or behind an operator.
    #[error("'{0}' is not a set of nodes: expected names, @groups, and one of , ! & ^ between them")]
    Syntax(String),
    /// There is no such group.
    #[error("there is no group '{0}'\nhint: groups stand under [groups] in the inventory")]
    Group(String),
    /// A group holds itself.
    #[error("the group '{0}' holds itself")]
    Cycle(String),
}

/// Finds groups by their names.
pub type Groups<'a> = &'a dyn Fn(&str) -> Result<NodeSet, NodeSetError>;

impl NodeSet {
    /// The set that `text` names.
    pub fn parse(text: &str, groups: Groups) -> Result<Self, NodeSetError> {
        let syntax = || NodeSetError::Syntax(text.to_owned());
        let mut set = Self::default();
        for (operator, term) in terms(text).ok_or_else(syntax)? {
            let other = match term.strip_prefix('@') {
                Some("") => return Err(syntax()),
                Some(group) => groups(group)?,
                None => Self::of_pattern(term)?,
            };
            set.combine(operator, &other);
        }
        Ok(set)
    }

    fn of_pattern(pattern: &str) -> Result<Self, NodeSetError> {
        let name = |name: String| {
            name.parse().map_err(|error: bootspec::store::NameError| NodeSetError::Name {
                name,
                problem: error.to_string(),
            })
        };
        expand(pattern, Radix::Decimal)?.into_iter().map(name).collect::<Result<_, _>>().map(Self)
    }

    fn combine(&mut self, operator: Operator, other: &Self) {
        match operator {
            Operator::Add => self.0.extend(other.0.iter().cloned()),
            Operator::TakeAway => self.0.retain(|name| !other.0.contains(name)),
            Operator::Both => self.0.retain(|name| other.0.contains(name)),
            Operator::OneAlone => {
                let only: Vec<_> = other.0.difference(&self.0).cloned().collect();
                self.combine(Operator::TakeAway, other);
                self.0.extend(only);
            }
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operator {
    Add,
    TakeAway,
    Both,
    OneAlone,
}

/// The parts of a set, each with the operator before it; the first is added. None where one is missing.
fn terms(text: &str) -> Option<Vec<(Operator, &str)>> {
    let mut terms = Vec::new();
    let mut rest = text.trim();
    // `!node-000` alone takes away from nothing, which is a slip.
    let mut operator = Operator::Add;
    loop {
        let end = end_of_term(rest);
        let (term, behind) = rest.split_at(end);
        if term.is_empty() {
            return None;
        }
        terms.push((operator, term));
        if behind.is_empty() {
            return Some(terms);
        }
        // `,!` is `!`, and spaces around an operator are none.
        let operand = behind.trim_start_matches([' ', ',']);
        operator = match operand.chars().next()? {
            '!' => Operator::TakeAway,
            '&' => Operator::Both,
            '^' => Operator::OneAlone,
            _ => Operator::Add,
        };
        rest = if operator == Operator::Add { operand } else { operand[1..].trim_start() };
    }
}

/// Commas between brackets are none of ours.
fn end_of_term(text: &str) -> usize {
    let mut depth = 0;
    for (index, character) in text.char_indices() {
        match character {
            '[' => depth += 1,
            ']' => depth -= 1,
            ',' | ' ' | '!' | '&' | '^' if depth <= 0 => return index,
            _ => {}
        }
    }
    text.len()
}

impl fmt::Display for NodeSet {
    /// Runs of numbers as ranges: `login,node-[000-099]`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0.iter().map(NodeName::as_str).peekable();
        let mut separator = "";
        while let Some(first) = rest.next() {
            let mut last = first;
            while let Some(next) = rest.peek().copied().filter(|next| follows(last, next)) {
                last = next;
                rest.next();
            }
            let (stem, number) = split_number(first);
            match first == last {
                true => write!(f, "{separator}{first}")?,
                false => write!(f, "{separator}{stem}[{number}-{}]", split_number(last).1)?,
            }
            separator = ",";
        }
        Ok(())
    }
}

/// Whether `next` has the number behind that of `last`, and no other width.
fn follows(last: &str, next: &str) -> bool {
    let ((stem, number), (next_stem, next_number)) = (split_number(last), split_number(next));
    let value = |digits: &str| digits.parse::<u64>().ok();
    let is_padded = |digits: &str| digits.starts_with('0') && digits.len() > 1;
    let same_width = number.len() == next_number.len() || !(is_padded(number) || is_padded(next_number));
    let follows = value(number)
        .and_then(|number| number.checked_add(1))
        .is_some_and(|number| Some(number) == value(next_number));
    stem == next_stem && same_width && follows
}

fn split_number(name: &str) -> (&str, &str) {
    name.split_at(name.trim_end_matches(|character: char| character.is_ascii_digit()).len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(text: &str) -> Result<NodeSet, NodeSetError> {
        NodeSet::parse(text, &|group| match group {
            "gpu" => parse("n[3-5]"),
            "*" => parse("n[1-9]"),
            _ => Err(NodeSetError::Group(group.to_owned())),
        })
    }

    #[test]
    fn sets_are_combined_from_left_to_right() {
        for (text, expected) in [
            ("n1", "n1"),
            ("n[1-3],m1", "n[1-3],m1"),
            ("n[1-3] m1", "n[1-3],m1"),
            ("n[1-3],n[2-5]", "n[1-5]"),
            ("n[1-5]!n[2-3]", "n1,n[4-5]"),
            ("n[1-5],!n[2-3]", "n1,n[4-5]"),
            ("@*,!@gpu", "n[1-2],n[6-9]"),
            ("@gpu&n[4-9]", "n[4-5]"),
            ("@gpu & n[4-9] ^ n[5-6]", "n4,n6"),
            ("n[1-3]!n2,n2", "n1,n[3-3]"),
            ("n[098-101]", "n[098-101]"),
            ("n[9-10]", "n[9-10]"),
            ("n[09,10]", "n[09-10]"),
            ("n9,n010", "n9,n010"),
            ("n1!n1", ""),
        ] {
            let expected = expected.replace("n[3-3]", "n3,n2");
            assert_eq!(parse(text).unwrap().to_string(), expected, "{text}");
        }
    }

    #[test]
    fn what_is_no_set_is_refused() {
        for text in ["", " ", "!n1", ",n1", "n1,", "n1!", "n1!!n2", "@", "n1 ! ,n2"] {
            assert!(matches!(parse(text), Err(NodeSetError::Syntax(_))), "{text}: {:?}", parse(text));
        }
        assert_eq!(parse("@none"), Err(NodeSetError::Group("none".into())));
        assert!(matches!(parse("Node 1/2"), Err(NodeSetError::Name { .. })));
        assert!(matches!(parse("n[1"), Err(NodeSetError::Pattern(_))));
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "[n1-3\\[\\],!&^@ gpu-]{0,20}", other: String) {
            let _ = (parse(&text), parse(&other));
        }

        #[test]
        fn a_set_that_is_written_is_read_as_the_same(numbers in prop::collection::vec(0u16..120, 1..20), width in 1usize..4) {
            let names: Vec<_> = numbers.iter().map(|number| format!("n{number:0width$}")).collect();
            let set = parse(&names.join(",")).unwrap();
            prop_assert_eq!(parse(&set.to_string()).unwrap(), set);
        }
    }
}
