//! The routing key of a request: the CRC-32 of the bytes that the policy names, as in nginx. The ring is not known here.

use super::head::Fields;
use super::snapshot::KeyPolicy;

/// A ClientHello is to keys and routes a request with this field.
pub const HOST: &str = "host";

/// The key that the walk on the ring begins at. `fresh`, a random number, stands in for a key that the request lacks.
pub fn of(policy: &KeyPolicy, target: &[u8], fields: Fields, client_ip: &[u8], fresh: u32) -> u32 {
    let bytes = match policy {
        KeyPolicy::Request => None,
        KeyPolicy::Sni => field(fields, HOST),
        KeyPolicy::Uri => Some(target),
        KeyPolicy::Path => Some(path(target)),
        KeyPolicy::Header(name) => field(fields, name),
        KeyPolicy::Cookie(name) => cookie(fields, name),
        KeyPolicy::Query(name) => query(target, name),
        KeyPolicy::ClientIp => Some(client_ip),
    };
    bytes.map_or(fresh, crc32fast::hash)
}

pub fn path(target: &[u8]) -> &[u8] {
    target.split(|b| *b == b'?').next().unwrap_or_default()
}

fn field<'b>(fields: Fields<'b>, name: &str) -> Option<&'b [u8]> {
    fields.iter().find(|f| f.name.eq_ignore_ascii_case(name)).map(|f| f.value)
}

/// The first cookie of that name in all `Cookie` fields (RFC 6265 section 4.2.1).
pub fn cookie<'b>(fields: Fields<'b>, name: &str) -> Option<&'b [u8]> {
    fields
        .iter()
        .filter(|f| f.name.eq_ignore_ascii_case("cookie"))
        .flat_map(|f| f.value.split(|b| *b == b';'))
        .find_map(|pair| value_of(pair.trim_ascii(), name))
}

/// The first query parameter of that name, not decoded.
fn query<'b>(target: &'b [u8], name: &str) -> Option<&'b [u8]> {
    let mark = memchr::memchr(b'?', target)?;
    target.get(mark + 1..)?.split(|b| *b == b'&').find_map(|pair| value_of(pair, name))
}

/// The value, if `pair` is `name=value`.
fn value_of<'b>(pair: &'b [u8], name: &str) -> Option<&'b [u8]> {
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
        assert_eq!(key(KeyPolicy::Query("u".into()), "/a?u=1&u=2", &fields).as_deref(), Some("1"));
        assert_eq!(key(KeyPolicy::Query("u".into()), "/a", &fields), None);
        assert_eq!(key(KeyPolicy::ClientIp, "/a", &fields).as_deref(), Some("10.0.0.1"));
    }
}
