//! Coverage-guided: the body is `ringway::core::fuzz::session`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| ringway::core::fuzz::session(bytes));
