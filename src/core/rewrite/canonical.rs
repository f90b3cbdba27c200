//! Makes a response head canonical where RFC 9112 says how it is to be read and every proxy reads it so: lines that end in
//! LF alone, blanks before a colon, folded lines, a minor version above 1, several spaces before the status. What has
//! another form stays as it is and is refused by the parser. Nothing of a request is repaired.

use super::Edits;

/// Writes into `edits` what makes a complete head canonical: nothing, if it is.
pub fn canonicalize_response(head: &[u8], edits: &mut Edits) {
    let (mut at, mut is_field, mut is_folded) = (0, false, false);
    for line in head.split_inclusive(|byte| *byte == b'\n') {
        let text = line.strip_suffix(b"\r\n").or(line.strip_suffix(b"\n")).unwrap_or(line);
        if at == 0 {
            status_line(text, edits);
        } else if !is_folded {
            is_field = field_name(at, text, edits);
        }
        let (end, next) = (at + text.len(), at + line.len());
        let blanks = leading_blanks(head.get(next..).unwrap_or_default());
        is_folded = is_field && blanks > 0;
        if is_folded {
            // RFC 9112 section 5.2: the next line belongs to this field.
            edits.replace(end, next - end + blanks, &[b" "]);
        } else if next - end == 1 {
            // RFC 9112 section 2.2.
            edits.replace(end, 0, &[b"\r"]);
        }
        at = next;
    }
}

/// RFC 9110 section 2.5: a higher minor version is read as the highest that is known. RFC 9112 section 4: one space.
fn status_line(text: &[u8], edits: &mut Edits) {
    const VERSION: usize = b"HTTP/1.1".len();
    if let [b'H', b'T', b'T', b'P', b'/', b'1', b'.', b'2'..=b'9', b' ', ..] = text {
        edits.replace(VERSION - 1, 1, &[b"1"]);
    }
    let spaces = text.iter().skip(VERSION).take_while(|byte| **byte == b' ').count();
    if spaces > 1 {
        edits.cut(VERSION + 1, spaces - 1);
    }
}

/// RFC 9112 section 5.1: blanks between a name and its colon are removed. Whether there is a colon.
fn field_name(at: usize, text: &[u8], edits: &mut Edits) -> bool {
    let Some(colon) = memchr::memchr(b':', text) else { return false };
    let blanks = text.iter().take(colon).rev().take_while(|byte| is_blank(**byte)).count();
    if blanks > 0 {
        edits.cut(at + colon - blanks, blanks);
    }
    true
}

fn leading_blanks(bytes: &[u8]) -> usize {
    bytes.iter().take_while(|byte| is_blank(**byte)).count()
}

fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t')
}
