//! Coverage-guided: the body is `ringway::core::fuzz::response_head`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| ringway::core::fuzz::response_head(bytes));
