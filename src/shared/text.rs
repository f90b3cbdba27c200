//! Text of others (names, an engine's errors, a replica's own log lines) on its way to a terminal.

use std::fmt::Display;

/// Control characters as escapes: text that is repeated can neither break the line nor control the terminal.
pub fn visible(text: &str) -> String {
    let escaped = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
    text.chars().map(escaped).collect()
}

/// One line of the log. All modules of a crate share its target.
pub fn log_line(time: impl Display, level: impl Display, target: &str, message: &str) -> String {
    let target = target.split("::").next().unwrap_or_default();
    format!("[{time} {level} {target}] {}", visible(message))
}

/// Appends text for a line in which it stands in quotation marks: what is not visible ASCII, and what could end the
/// quotation, as `\xHH`.
pub fn escape_into(out: &mut Vec<u8>, text: &[u8]) {
    for byte in text {
        match byte {
            b'"' | b'\\' | ..b' ' | 0x7f.. => out.extend_from_slice(format!("\\x{byte:02X}").as_bytes()),
            _ => out.push(*byte),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_one_line_and_cannot_control_the_terminal() {
        let line = log_line("now", "INFO ", "ringway::a::b", "ü\u{1b}[2J\u{9b}2J\u{7f}\r\n[now] forged");
        assert_eq!(line, r"[now INFO  ringway] ü\u{1b}[2J\u{9b}2J\u{7f}\r\n[now] forged");
    }
}
