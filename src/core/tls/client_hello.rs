//! The name that a TLS client asks for, read from its ClientHello (RFC 8446 section 4.1.2, RFC 6066 section 3), whatever the
//! records are that it comes in. Nothing is decrypted or changed, and no connection enters.

use super::challenge::ALPN_ACME;

/// The most bytes that a ClientHello may have, with the headers of its records.
pub const HELLO_MAX: usize = 16 * 1024;
/// The most records that it may come in.
const RECORDS_MAX: usize = 16;
const RECORD_HEADER: usize = 5;
const MESSAGE_HEADER: usize = 4;
const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const SERVER_NAME: usize = 0;
const HOST_NAME: usize = 0;
const ALPN: usize = 16;
/// What a host name may have, in bytes (RFC 1035 section 2.3.4).
const NAME_MAX: usize = 255;

const NOT_TLS: &str = "this is not TLS";
const TOO_LONG: &str = "the ClientHello is longer than 16 KiB";
const TOO_MANY: &str = "the ClientHello comes in more than 16 records";
const MALFORMED: &str = "the ClientHello is malformed";

/// What a client asks for.
#[derive(Debug, PartialEq, Eq)]
pub struct ClientHello {
    /// In lower case. Absent where it names no host.
    pub name: Option<String>,
}

/// The peer began a handshake, well or not.
pub fn is_handshake(bytes: &[u8]) -> bool {
    bytes.first() == Some(&HANDSHAKE)
}

/// `None`: it is not here whole. What stands behind it is not looked at.
pub fn read(bytes: &[u8]) -> Result<Option<ClientHello>, &'static str> {
    if !bytes.is_empty() && !is_handshake(bytes) {
        return Err(NOT_TLS);
    }
    // However many bytes came at once: those behind are not looked at.
    let bytes = bytes.get(..HELLO_MAX).unwrap_or(bytes);
    let Some(message) = message(bytes)? else { return Ok(None) };
    let name = server_name(&message).ok_or(MALFORMED)?;
    Ok(Some(ClientHello { name }))
}

/// Its only protocol is that of an ACME server which checks a name (RFC 8737 section 3).
pub fn is_check_of_name(bytes: &[u8]) -> bool {
    let is_only = |message: &[u8]| {
        let mut protocols = vector(&mut extension(message, ALPN)??, 2)?;
        let first = vector(&mut protocols, 1)?;
        Some(first == ALPN_ACME && protocols.is_empty())
    };
    matches!(message(bytes), Ok(Some(message)) if is_only(&message) == Some(true))
}

/// The body of the first handshake message, put together from its records.
fn message(bytes: &[u8]) -> Result<Option<Vec<u8>>, &'static str> {
    let (mut message, mut rest) = (Vec::new(), bytes);
    for records in 0.. {
        let Some(([kind, major, _, high, low], behind)) = rest.split_first_chunk::<RECORD_HEADER>() else { break };
        let len = usize::from(u16::from_be_bytes([*high, *low]));
        match (*kind, *major, len) {
            _ if records == RECORDS_MAX => return Err(TOO_MANY),
            (HANDSHAKE, 3, 1..) => message.extend_from_slice(behind.get(..len).unwrap_or(behind)),
            _ => return Err(MALFORMED),
        }
        if let Some([kind, length @ ..]) = message.first_chunk::<MESSAGE_HEADER>() {
            let end = MESSAGE_HEADER + number(length);
            match message.get(MESSAGE_HEADER..end) {
                _ if *kind != CLIENT_HELLO => return Err(MALFORMED),
                _ if end > HELLO_MAX => return Err(TOO_LONG),
                Some(body) => return Ok(Some(body.to_vec())),
                None => {}
            }
        }
        rest = behind.get(len..).unwrap_or_default();
    }
    if bytes.len() < HELLO_MAX { Ok(None) } else { Err(TOO_LONG) }
}

/// The outer `None`: it is malformed.
fn server_name(hello: &[u8]) -> Option<Option<String>> {
    let Some(mut data) = extension(hello, SERVER_NAME)? else { return Some(None) };
    let mut names = vector(&mut data, 2)?;
    while !names.is_empty() {
        let kind = number(take(&mut names, 1)?);
        let name = vector(&mut names, 2)?;
        if kind == HOST_NAME {
            return host_name(name).map(Some);
        }
    }
    Some(None)
}

/// The outer `None`: it is malformed.
fn extension(hello: &[u8], wanted: usize) -> Option<Option<&[u8]>> {
    let mut rest = hello;
    take(&mut rest, size_of::<u16>() + 32)?; // version and random
    let [_session_id, _cipher_suites, _compression] =
        [vector(&mut rest, 1)?, vector(&mut rest, 2)?, vector(&mut rest, 1)?];
    if rest.is_empty() {
        return Some(None);
    }
    let mut extensions = vector(&mut rest, 2)?;
    while !extensions.is_empty() {
        let kind = number(take(&mut extensions, 2)?);
        let data = vector(&mut extensions, 2)?;
        if kind == wanted {
            return Some(Some(data));
        }
    }
    Some(None)
}

fn host_name(name: &[u8]) -> Option<String> {
    let name = name.strip_suffix(b".").unwrap_or(name);
    let is_valid = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._".contains(byte);
    let is_name = (1..=NAME_MAX).contains(&name.len()) && name.iter().all(is_valid);
    String::from_utf8(name.to_ascii_lowercase()).ok().filter(|_| is_name)
}

fn take<'a>(bytes: &mut &'a [u8], len: usize) -> Option<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(len)?;
    *bytes = rest;
    Some(taken)
}

/// Bytes behind their length, which has `width` bytes.
fn vector<'a>(bytes: &mut &'a [u8], width: usize) -> Option<&'a [u8]> {
    let len = number(take(bytes, width)?);
    take(bytes, len)
}

/// Big-endian.
fn number(bytes: &[u8]) -> usize {
    bytes.iter().fold(0, |number, byte| number << 8 | usize::from(*byte))
}
