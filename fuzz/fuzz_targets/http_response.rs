//! The head of a boot server's answer, as init reads it.
#![no_main]

use init::http::{parse_head, read_head};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut rest = data;
    if let Ok(head) = read_head(&mut rest) {
        assert_eq!(head.len() + rest.len(), data.len(), "the body is left unread");
        let _ = parse_head(&head);
    }
    if let Ok(head) = parse_head(data) {
        assert!((200..1000).contains(&head.status));
        assert_eq!(head.range.is_some(), head.status == 206);
        assert!(head.range.is_none_or(|range| range.start < range.total));
    }
});
