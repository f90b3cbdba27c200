//! Coverage-guided: the body is `ringway::config::fuzz::config`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| ringway::config::fuzz::config(bytes));
