//! The bytes of bodies and tunnels: each byte follows from the body's number and its offset, so that a misplaced byte
//! is found without storing bodies. No framing enters here.

use super::random::mix;

/// The `X-Id` of a request that no client sends: a replica that gets it reads smuggled bytes as a request.
pub const SMUGGLED: u64 = 999_999_999;

/// Bytes `from..from + len` of body `seed`.
pub fn bytes(seed: u64, from: u64, len: usize) -> Vec<u8> {
    let mixed = mix(seed);
    (0..len as u64).map(|i| byte(mixed, seed, from + i)).collect()
}

/// Oracle: `bytes` are those of body `seed` from offset `from` on.
pub fn check(seed: u64, from: u64, bytes: &[u8]) -> Result<(), String> {
    let mixed = mix(seed);
    match bytes.iter().zip(from..).find(|(got, offset)| **got != byte(mixed, seed, *offset)) {
        None => Ok(()),
        Some((got, offset)) => {
            let text = String::from_utf8_lossy(&bytes[..bytes.len().min(120)]).into_owned();
            Err(format!("byte {offset} of body {seed} is {got:#x}; the bytes from {from} on begin with {text:?}"))
        }
    }
}

/// Every fifth body repeats [`messages`], the others are pseudo-random.
fn byte(mixed: u64, seed: u64, offset: u64) -> u8 {
    if seed.is_multiple_of(5) && offset >= 16 {
        let messages = messages();
        return messages[(offset % messages.len() as u64) as usize];
    }
    let [a, b, c, ..] = mixed.to_le_bytes();
    a.wrapping_add((b | 1).wrapping_mul(offset as u8)).wrapping_add((c | 1).wrapping_mul((offset >> 8) as u8))
        ^ (offset >> 16) as u8
}

/// The end of a chunked body, a request and a response: if framing is lost, they are parsed as messages.
fn messages() -> &'static [u8] {
    b"\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: sim\r\nX-Id: 999999999\r\n\r\n\
      HTTP/1.1 200 OK\r\nX-Id: 999999999\r\nX-Serve: 999999999\r\nContent-Length: 0\r\n\r\n"
}
