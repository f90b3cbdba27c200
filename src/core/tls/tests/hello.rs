//! ClientHellos that rustls writes: read whatever the cut and the records are, and refused where they are changed.

use std::io::Cursor;

use rustls::ClientConnection;
use rustls::server::Acceptor;

use super::*;
use crate::core::tls::client_hello::{ClientHello, HELLO_MAX, read};

/// In one record.
fn hello(name: &'static str) -> Vec<u8> {
    let config = client_config(&certificate(&[NAME]), TlsVersion::Tls13, ALPN_HTTP);
    let mut client = ClientConnection::new(config, ServerName::try_from(name).expect("a name")).expect("a connection");
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).expect("it is written");
    bytes
}

fn named(name: &str) -> Result<Option<ClientHello>, &'static str> {
    Ok(Some(ClientHello { name: Some(name.to_owned()) }))
}

/// The same message in records of this length.
fn split(hello: &[u8], len: usize) -> Vec<u8> {
    let record = |part: &[u8]| [&[22, 3, 1][..], &(part.len() as u16).to_be_bytes(), part].concat();
    hello[5..].chunks(len).flat_map(record).collect()
}

#[test]
fn the_name_is_read_when_the_message_is_whole_and_what_follows_does_not_matter() {
    let whole = hello("Shop.Example.COM");
    for bytes in [whole.clone(), split(&whole, whole.len() / 15)] {
        for cut in 0..bytes.len() {
            assert_eq!(read(&bytes[..cut]), Ok(None), "{cut} of {}", bytes.len());
        }
        assert_eq!(read(&bytes), named(NAME));
        assert_eq!(read(&[&bytes[..], b"more"].concat()), named(NAME));
    }
    assert_eq!(read(&hello("192.0.2.1")), Ok(Some(ClientHello { name: None })), "an address is no name");
}

#[test]
fn what_is_no_client_hello_is_refused_as_soon_as_that_is_known() {
    let whole = hello(NAME);
    let too_long = [&[22, 3, 1, 0x40, 0, 1, 0, 0x40, 0][..], &[0; HELLO_MAX]].concat();
    // With the headers of its two records.
    let a_little_too_long = split(&[&[0; 5][..], &[1, 0, 0x3f, 0xfc], &[0; HELLO_MAX - 4]].concat(), HELLO_MAX / 2);
    let other_message = [&[22, 3, 1, 0, 4, 2, 0, 0, 0][..]].concat();
    let rows = [
        ("GET / HTTP/1.1\r\n".into(), "this is not TLS"),
        (vec![b'G'], "this is not TLS"),
        (vec![21], "this is not TLS"),
        (vec![22, 2, 1, 0, 1], "the ClientHello is malformed"),
        (vec![22, 3, 1, 0, 0], "the ClientHello is malformed"),
        (other_message, "the ClientHello is malformed"),
        (split(&whole, 1), "the ClientHello comes in more than 16 records"),
        (too_long[..9].to_vec(), "the ClientHello is longer than 16 KiB"),
        (too_long, "the ClientHello is longer than 16 KiB"),
        (a_little_too_long, "the ClientHello is longer than 16 KiB"),
    ];
    for (bytes, why) in rows {
        assert_eq!(read(&bytes), Err(why), "{bytes:?}");
    }
}

/// rustls reads more of a ClientHello than its name, and so refuses more.
#[test]
fn of_a_changed_hello_no_other_name_is_read_than_rustls_reads() {
    let whole = hello(NAME);
    let mut random = Prng::new(7);
    let (mut read_by_both, mut refused) = (0, 0);
    for _ in 0..20_000 {
        let mut bytes = whole.clone();
        for _ in 0..=random.next_u32() % 3 {
            let at = random.next_u32() as usize % bytes.len();
            bytes[at] = random.next_u32() as u8;
        }
        let mut acceptor = Acceptor::default();
        let accepted = acceptor.read_tls(&mut Cursor::new(&bytes)).ok().and_then(|_| acceptor.accept().ok().flatten());
        let Some(accepted) = accepted else {
            refused += usize::from(read(&bytes).is_err());
            continue;
        };
        let name = accepted.client_hello().server_name().map(str::to_owned);
        assert_eq!(read(&bytes), Ok(Some(ClientHello { name })), "{bytes:?}");
        read_by_both += 1;
    }
    assert!(read_by_both > 1_000 && refused > 100, "{read_by_both}, {refused}");
}
