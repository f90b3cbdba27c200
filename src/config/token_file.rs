//! The file that holds the admin API's token: what may stand in it, and who may read it. It is read at the start and at
//! each reload, not when settings are only checked.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::settings::AdminSettings;

/// A longer file is another one than was meant.
const SIZE_LIMIT: u64 = 4096;
/// Permissions of users that are neither the owner nor of the group: to read it, or to put another token in.
const OTHERS: u32 = 0o006;

/// The token that admin calls must show. `Err`: what is wrong with its file and what to do, in one line.
pub fn token(admin: &AdminSettings) -> Result<Option<String>, String> {
    match &admin.token_file {
        None => Ok(admin.token.clone()),
        Some(path) => read(path).map(Some).map_err(|why| format!("--admin-token-file {}: {why}", path.display())),
    }
}

fn read(path: &Path) -> Result<String, String> {
    let unreadable = |error: io::Error| format!("it cannot be read: {error}");
    // Before it is opened: a pipe would be waited for.
    let metadata = fs::metadata(path).map_err(unreadable)?;
    if !metadata.is_file() {
        return Err("it is not a regular file".into());
    }
    let mode = metadata.permissions().mode() & 0o7777;
    if mode & OTHERS != 0 {
        let shown = path.display();
        return Err(format!(
            "its mode is {mode:04o}, every user of the machine can read or change it: chmod 600 {shown}"
        ));
    }
    let mut bytes = Vec::new();
    File::open(path).and_then(|file| file.take(SIZE_LIMIT + 1).read_to_end(&mut bytes)).map_err(unreadable)?;
    parse(bytes)
}

/// One line, as a head field can carry it.
fn parse(bytes: Vec<u8>) -> Result<String, String> {
    if bytes.len() as u64 > SIZE_LIMIT {
        return Err(format!("it is longer than {SIZE_LIMIT} bytes: a token is one line"));
    }
    let text = String::from_utf8(bytes).map_err(|_| "it is not text: a token is one line of visible characters")?;
    let line = text.strip_suffix('\n').unwrap_or(&text);
    let token = line.strip_suffix('\r').unwrap_or(line);
    if token.is_empty() {
        return Err("it is empty: write a token to it, such as `openssl rand -hex 32` prints".into());
    }
    match token.bytes().position(|byte| !byte.is_ascii_graphic()) {
        Some(at) => {
            Err(format!("byte {at} of it is not a visible ASCII character: a token is one line without spaces"))
        }
        None => Ok(token.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_one_line_without_its_end() {
        let token = |text: &str| parse(text.into());
        assert_eq!(token("s3cret"), Ok("s3cret".into()));
        assert_eq!(token("s3cret\n"), Ok("s3cret".into()));
        assert_eq!(token("s3cret\r\n"), Ok("s3cret".into()));
        for (text, why) in [
            ("", "empty"),
            ("\n", "empty"),
            ("s3cret\n\n", "byte 6"),
            ("two words", "byte 3"),
            ("\u{feff}s3cret", "byte 0"),
            (&"x".repeat(5_000), "4096"),
        ] {
            assert!(token(text).is_err_and(|message| message.contains(why)), "{text:?}");
        }
        assert!(parse(vec![0xff]).is_err_and(|why| why.contains("not text")));
    }
}
