//! Coverage-guided: the body is `ringway::core::fuzz::tls_session`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| ringway::core::fuzz::tls_session(bytes));
