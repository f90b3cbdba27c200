//! One JSON object, appended member by member. Numbers are written by itoa, and text that needs an escape by serde_json;
//! what is plain is copied. A derived `Serialize` takes several times as long for a line (`benches/metrics.rs`), which the
//! budget of the access log does not have. What the members are never enters.

use std::io;
use std::net::IpAddr;

use serde::Serialize;
use serde_json::ser::{CompactFormatter, Formatter, Serializer};

/// Names of members are written as they are: literals of the program.
#[derive(Debug)]
pub struct JsonObject<'o> {
    out: &'o mut Vec<u8>,
}

impl JsonObject<'_> {
    pub fn begin(out: &mut Vec<u8>) -> JsonObject<'_> {
        out.push(b'{');
        JsonObject { out }
    }

    /// A text of this program, put together from parts. Nothing in it needs an escape.
    #[inline]
    pub fn own_text<const N: usize>(&mut self, name: &str, parts: [&[u8]; N]) {
        debug_assert!(parts.iter().all(|part| is_plain_text(part)));
        self.name(name);
        self.out.push(b'"');
        parts.iter().for_each(|part| self.out.extend_from_slice(part));
        self.out.push(b'"');
    }

    pub fn end(self) {
        self.out.push(b'}');
    }

    #[inline]
    pub fn text(&mut self, name: &str, text: Option<&[u8]>) {
        self.name(name);
        match text {
            None => self.null(),
            Some(text) => self.string(text),
        }
    }

    pub fn address(&mut self, name: &str, address: IpAddr) {
        self.name(name);
        self.out.push(b'"');
        match address {
            IpAddr::V4(address) => {
                for (place, octet) in address.octets().into_iter().enumerate() {
                    if place > 0 {
                        self.out.push(b'.');
                    }
                    self.digits(octet.into());
                }
            }
            // Writing to a Vec cannot fail.
            IpAddr::V6(address) => drop(io::Write::write_fmt(self.out, format_args!("{address}"))),
        }
        self.out.push(b'"');
    }

    #[inline]
    pub fn number(&mut self, name: &str, number: Option<u64>) {
        self.name(name);
        match number {
            None => self.null(),
            Some(number) => self.digits(number),
        }
    }

    /// Microseconds, as milliseconds with three decimals.
    #[inline]
    pub fn milliseconds(&mut self, name: &str, us: Option<u64>) {
        self.name(name);
        let Some(us) = us else { return self.null() };
        self.digits(us / 1_000);
        self.out.push(b'.');
        self.out.extend_from_slice(&three_digits(us % 1_000));
    }

    /// Texts of this program.
    pub fn list(&mut self, name: &str, texts: impl Iterator<Item = &'static str>) {
        self.name(name);
        self.out.push(b'[');
        for (place, text) in texts.enumerate() {
            if place > 0 {
                self.out.push(b',');
            }
            self.out.push(b'"');
            self.out.extend_from_slice(text.as_bytes());
            self.out.push(b'"');
        }
        self.out.push(b']');
    }

    #[inline(always)]
    fn name(&mut self, name: &str) {
        if self.out.last() != Some(&b'{') {
            self.out.push(b',');
        }
        self.out.push(b'"');
        self.out.extend_from_slice(name.as_bytes());
        self.out.extend_from_slice(b"\":");
    }

    fn null(&mut self) {
        self.out.extend_from_slice(b"null");
    }

    fn digits(&mut self, number: u64) {
        self.out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
    }

    fn string(&mut self, text: &[u8]) {
        if is_plain_text(text) {
            self.out.push(b'"');
            self.out.extend_from_slice(text);
            self.out.push(b'"');
            return;
        }
        let text = String::from_utf8_lossy(text);
        // Writing to a Vec cannot fail, and every text has a form in JSON.
        let _ = text.serialize(&mut Serializer::with_formatter(&mut *self.out, VisibleFormatter));
    }
}

/// Without an early end the compiler tests many bytes at once.
fn is_plain_text(text: &[u8]) -> bool {
    text.iter().fold(true, |plain, byte| plain & is_plain(*byte))
}

fn is_plain(byte: u8) -> bool {
    byte.wrapping_sub(b' ') <= b'~' - b' ' && byte != b'"' && byte != b'\\'
}

/// Of a number below 1,000, with leading zeros.
pub fn three_digits(number: u64) -> [u8; 3] {
    let digit = |unit| b'0' + (number / unit % 10) as u8;
    [digit(100), digit(10), digit(1)]
}

/// As `CompactFormatter`, with the control characters escaped that JSON allows as they are (DEL and C1).
struct VisibleFormatter;

impl Formatter for VisibleFormatter {
    fn write_string_fragment<W: ?Sized + io::Write>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()> {
        let mut plain = fragment;
        while let Some((at, control)) = plain.char_indices().find(|(_, c)| c.is_control()) {
            let (before, rest) = plain.split_at(at);
            CompactFormatter.write_string_fragment(writer, before)?;
            write!(writer, "\\u{:04x}", u32::from(control))?;
            plain = rest.get(control.len_utf8()..).unwrap_or_default();
        }
        CompactFormatter.write_string_fragment(writer, plain)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(fill: impl FnOnce(&mut JsonObject)) -> String {
        let mut out = Vec::new();
        let mut object = JsonObject::begin(&mut out);
        fill(&mut object);
        object.end();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn members_are_separated_and_what_is_not_known_is_null() {
        let written = object(|object| {
            object.number("a", Some(u64::MAX));
            object.number("b", None);
            object.milliseconds("c", Some(12_034_005));
            object.milliseconds("d", Some(7));
            object.text("e", Some(b""));
            object.list("f", ["x", "y"].into_iter());
            object.list("g", [].into_iter());
            object.address("h", "2001:db8::1".parse().unwrap());
            object.address("i", "192.0.2.107".parse().unwrap());
        });
        let expected = r#"{"a":18446744073709551615,"b":null,"c":12034.005,"d":0.007,"e":"","f":["x","y"],"g":[],"h":"2001:db8::1","i":"192.0.2.107"}"#;
        assert_eq!(written, expected);
        assert_eq!(object(|_| {}), "{}");
    }

    /// Each byte alone, and between plain ones.
    #[test]
    fn any_text_is_read_as_it_was_and_controls_no_terminal() {
        let bytes = (0..=u8::MAX).map(|byte| vec![byte]);
        let between = (0..=u8::MAX).map(|byte| vec![b'a', byte, b'b']);
        for text in bytes.chain(between).chain(["\u{9b}2Jü".into()]) {
            let written = object(|object| object.text("text", Some(&text)));
            assert!(!written.chars().any(char::is_control), "{written:?}");
            let parsed: serde_json::Value = serde_json::from_str(&written).unwrap();
            assert_eq!(parsed["text"], *String::from_utf8_lossy(&text));
        }
    }
}
