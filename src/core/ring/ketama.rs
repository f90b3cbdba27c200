//! The points of nginx's `hash ... consistent`, equal to nginx point by point.
//!
//! A name is parsed as nginx parses the argument of `server`: `host:port` if digits follow the last colon,
//! `unix:/path` without its prefix, anything else (`server1`) is a host without a port. The points of a member
//! are a chain: point 0 is `crc32(host, 0, port, 0u32)`; each next one has the point before it, as four
//! little-endian bytes, in place of the last zero.

use crc32fast::Hasher;

use super::Member;
use super::points::{Points, pack};

/// As in nginx and the memcached clients.
pub const POINTS_PER_WEIGHT: u32 = 160;

/// A position that two members share belongs to the lesser name, in whatever order they were given.
pub fn points(members: &[Member]) -> Points {
    let mut by_name: Vec<u32> = (0..members.len() as u32).collect();
    by_name.sort_by_key(|member| &members[*member as usize].name);
    let mut ranked = Vec::with_capacity(members.iter().map(count).sum());
    for (rank, member) in by_name.iter().enumerate() {
        let member = &members[*member as usize];
        ranked.extend(chain(&member.name).take(count(member)).map(|at| pack(at, rank as u32)));
    }
    Points::sorted(ranked, &by_name)
}

fn count(member: &Member) -> usize {
    member.weight as usize * POINTS_PER_WEIGHT as usize
}

fn chain(name: &str) -> impl Iterator<Item = u32> {
    let base = base(name);
    let mut previous = 0u32;
    std::iter::repeat_with(move || {
        let mut hash = base.clone();
        hash.update(&previous.to_le_bytes());
        previous = hash.finalize();
        previous
    })
}

/// The hash of what every point of a name begins with: host, a zero, port.
fn base(name: &str) -> Hasher {
    let (host, port) = host_port(name);
    let mut hash = Hasher::new();
    hash.update(host.as_bytes());
    hash.update(&[0]);
    hash.update(port.as_bytes());
    hash
}

fn host_port(name: &str) -> (&str, &str) {
    if let Some(prefix) = name.get(..5)
        && prefix.eq_ignore_ascii_case("unix:")
    {
        return (&name[5..], "");
    }
    match name.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => (host, port),
        _ => (name, ""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_split_into_host_and_port_as_in_nginx() {
        assert_eq!(host_port("server1"), ("server1", ""));
        assert_eq!(host_port("127.0.0.1:9001"), ("127.0.0.1", "9001"));
        assert_eq!(host_port("[::1]:80"), ("[::1]", "80"));
        assert_eq!(host_port("[::1]"), ("[::1]", ""));
        assert_eq!(host_port("UNIX:/run/a:1"), ("/run/a:1", ""));
        assert_eq!(host_port("a:"), ("a", ""));
    }

    #[test]
    fn the_first_point_hashes_a_previous_point_of_zero() {
        let first = chain("server1").next();
        assert_eq!(first, Some(crc32fast::hash(b"server1\0\0\0\0\0")));
    }
}
