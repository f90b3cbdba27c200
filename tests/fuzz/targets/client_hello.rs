//! Coverage-guided: the body is `ringway::core::fuzz::client_hello`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| ringway::core::fuzz::client_hello(bytes));
