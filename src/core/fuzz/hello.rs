//! The first message of a TLS connection that passes through: read alike however it is cut, and as rustls reads it. No
//! session enters.

use std::io::Cursor;

use rustls::server::Acceptor;

use crate::core::tls::client_hello::{HELLO_MAX, read};

/// So many cuts of one input are tried, spread over it, ...
const CUTS: usize = 512;
/// ... and all in so many bytes at its end.
const LAST: usize = 16;

/// What is read of the whole is what is read of it in pieces, once enough is here, and no other answer follows. Where
/// rustls accepts the message, the name is the one that it finds.
pub fn client_hello(bytes: &[u8]) {
    let whole = read(bytes);
    let step = 1 + bytes.len() / CUTS;
    let mut decided = Ok(None);
    let is_tried = |cut: &usize| cut.is_multiple_of(step) || cut + LAST >= bytes.len();
    for cut in (0..=bytes.len()).filter(is_tried) {
        let part = read(&bytes[..cut]);
        assert!(decided == Ok(None) || part == decided, "{decided:?}, and behind {cut} bytes {part:?}");
        decided = part;
    }
    assert_eq!(decided, whole, "the last cut is the whole");
    assert!(whole != Ok(None) || bytes.len() < HELLO_MAX, "it waits for more than it takes");
    if let Some(name) = name_of_rustls(bytes) {
        let is_ours = match &whole {
            Ok(Some(hello)) => hello.name == name,
            Ok(None) => false,
            // What we take is bounded more narrowly.
            Err(why) => why.contains("longer than") || why.contains("more than"),
        };
        assert!(is_ours, "rustls reads {name:?}: {whole:?}");
    }
}

/// The outer `None`: rustls does not accept it, or it is not whole.
fn name_of_rustls(bytes: &[u8]) -> Option<Option<String>> {
    let (mut acceptor, mut rest) = (Acceptor::default(), Cursor::new(bytes));
    loop {
        // It takes only so many bytes at a time.
        if acceptor.read_tls(&mut rest).ok()? == 0 {
            return None;
        }
        if let Some(accepted) = acceptor.accept().ok()? {
            return Some(accepted.client_hello().server_name().map(str::to_owned));
        }
    }
}
