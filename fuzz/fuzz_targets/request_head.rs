//! Heads of HTTP requests to bootserve. What is taken for one is the same however the bytes are cut on their way, and asks for no
//! longer body than is allowed.
#![no_main]

use bootserve::http::connection::head::{MAX_BODY_BYTES, MAX_HEAD_BYTES, parse};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| match parse(data) {
    Ok(Some(head)) => {
        assert!(head.head_bytes <= data.len().min(MAX_HEAD_BYTES));
        assert!(head.body_bytes <= MAX_BODY_BYTES);
        let alone =
            parse(&data[..head.head_bytes]).expect("what follows is no part of it").expect("it is whole");
        assert_eq!(alone.request.uri(), head.request.uri());
        assert_eq!(alone.request.headers(), head.request.headers());
        for length in 0..head.head_bytes {
            assert!(matches!(parse(&data[..length]), Ok(None)), "the first {length} bytes are enough");
        }
    }
    Ok(None) => assert!(data.len() < MAX_HEAD_BYTES),
    Err(error) => assert!(error.status().is_client_error()),
});
