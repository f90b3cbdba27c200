//! Coverage-guided: the body is `ringway::control::fuzz::admin`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| ringway::control::fuzz::admin(bytes));
