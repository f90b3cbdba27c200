//! The routing key of a request: which of its bytes the ring is asked with, as CRC-32 (what nginx hashes keys with).

use super::head::Fields;
use super::snapshot::KeyPolicy;

/// The key's place to start on the ring. A key that the request lacks falls back to `fresh`, a number of its own.
pub fn of(policy: &KeyPolicy, target: &[u8], fields: Fields, client_ip: &[u8], fresh: u32) -> u32 {
    let found = match policy {
        KeyPolicy::Request => None,
        KeyPolicy::Uri => Some(target),
        KeyPolicy::Path => Some(path(target)),
        KeyPolicy::Header(name) => field(fields, name),
        KeyPolicy::Cookie(name) => cookie(fields, name),
        KeyPolicy::Query(name) => query(target, name),
        KeyPolicy::ClientIp => Some(client_ip),
    };
    found.map_or(fresh, crc32fast::hash)
}

pub fn path(target: &[u8]) -> &[u8] {
    target.split(|b| *b == b'?').next().unwrap_or_default()
}

fn field<'b>(fields: Fields<'b>, name: &str) -> Option<&'b [u8]> {
    fields.iter().find(|f| f.name.eq_ignore_ascii_case(name)).map(|f| f.value)
}

/// The first cookie of that name (RFC 6265 section 4.2.1), over all `Cookie` lines.
fn cookie<'b>(fields: Fields<'b>, name: &str) -> Option<&'b [u8]> {
    fields
        .iter()
        .filter(|f| f.name.eq_ignore_ascii_case("cookie"))
        .flat_map(|f| f.value.split(|b| *b == b';'))
        .find_map(|pair| named(pair.trim_ascii(), name))
}

/// The first query parameter of that name, as it stands (not decoded).
fn query<'b>(target: &'b [u8], name: &str) -> Option<&'b [u8]> {
    let mark = memchr::memchr(b'?', target)?;
    target.get(mark + 1..)?.split(|b| *b == b'&').find_map(|pair| named(pair, name))
}

/// The value of `name=value`.
fn named<'b>(pair: &'b [u8], name: &str) -> Option<&'b [u8]> {
    pair.strip_prefix(name.as_bytes())?.strip_prefix(b"=")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(policy: KeyPolicy, target: &str, fields: &[(&str, &str)]) -> Option<String> {
        let fields: Vec<httparse::Header> =
            fields.iter().map(|(name, value)| httparse::Header { name, value: value.as_bytes() }).collect();
        let fresh = 77;
        let got = of(&policy, target.as_bytes(), &fields, b"10.0.0.1", fresh);
        let known = ["/a?u=1", "/a", "1", "v", "10.0.0.1", ""];
        (got != fresh).then(|| known.iter().find(|k| crc32fast::hash(k.as_bytes()) == got).unwrap_or(&"?").to_string())
    }

    #[test]
    fn each_policy_reads_its_part_and_falls_back_when_it_is_absent() {
        let fields = [("X-User", "v"), ("cookie", "a=2; sid=1"), ("Cookie", "sid=9")];
        assert_eq!(key(KeyPolicy::Request, "/a", &fields), None);
        assert_eq!(key(KeyPolicy::Uri, "/a?u=1", &fields).as_deref(), Some("/a?u=1"));
        assert_eq!(key(KeyPolicy::Path, "/a?u=1", &fields).as_deref(), Some("/a"));
        assert_eq!(key(KeyPolicy::Header("x-user".into()), "/a", &fields).as_deref(), Some("v"));
        assert_eq!(key(KeyPolicy::Header("nope".into()), "/a", &fields), None);
        assert_eq!(key(KeyPolicy::Cookie("sid".into()), "/a", &fields).as_deref(), Some("1"));
        assert_eq!(key(KeyPolicy::Cookie("si".into()), "/a", &fields), None);
        assert_eq!(key(KeyPolicy::Query("u".into()), "/a?x=2&u=1", &fields).as_deref(), Some("1"));
        assert_eq!(key(KeyPolicy::Query("u".into()), "/a", &fields), None);
        assert_eq!(key(KeyPolicy::ClientIp, "/a", &fields).as_deref(), Some("10.0.0.1"));
    }
}
