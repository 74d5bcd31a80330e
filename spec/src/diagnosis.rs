//! Errors as users read them, alike in every program: the causes in one line, what to do about them on lines below.
//!
//! An error's message may end in lines that begin with `hint: `.

use std::error::Error;

/// Joins the messages of an error and its sources by colons, and moves their `hint:` lines to the end.
pub fn explain(error: &dyn Error) -> String {
    let mut causes = Vec::new();
    let mut hints = String::new();
    let mut next = Some(error);
    while let Some(error) = next {
        let message = error.to_string();
        let end = message.find("\nhint: ").unwrap_or(message.len());
        causes.push(message[..end].to_owned());
        hints += &message[end..];
        next = error.source();
    }
    causes.join(": ") + &hints
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot read x\nhint: look for it")]
    struct Outer(#[source] Inner);

    #[derive(Debug, thiserror::Error)]
    #[error("no such file")]
    struct Inner;

    #[test]
    fn hints_come_after_all_causes() {
        assert_eq!(explain(&Outer(Inner)), "cannot read x: no such file\nhint: look for it");
        assert_eq!(explain(&Inner), "no such file");
    }
}
