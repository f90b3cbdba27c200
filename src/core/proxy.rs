//! The PROXY protocol, versions 1 and 2, parsed strictly and written: a balancer in front of us names the client, and we
//! name it to a replica (Tarreau, "The PROXY protocol", versions 1 & 2, haproxy.org). Whom to trust is decided elsewhere.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    V1,
    V2,
}

/// The two addresses of a client connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends {
    pub source: SocketAddr,
    pub destination: SocketAddr,
}

/// A complete header: its length in bytes, and the addresses in it. `None`: LOCAL or UNKNOWN, the sender is the client.
pub type Header = (usize, Option<Ends>);

const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// The longest line in bytes, its CRLF included (section 2.1).
const LINE_LIMIT: usize = 107;
/// Bytes of addresses and extensions. Section 2.2 allows 65,535; no known sender comes near this.
const BLOCK_LIMIT: usize = 1024;
/// Signature, version and command, family, length.
const FIXED: usize = 16;
/// The longest header that `write` gives, in bytes: a line of version 1.
pub const WRITTEN_MAX: usize = LINE_LIMIT;

/// Parses the header at the start of a connection; `Ok(None)` while it is incomplete.
pub fn read(bytes: &[u8]) -> Result<Option<Header>, &'static str> {
    if may_begin_with(bytes, SIGNATURE) {
        read_v2(bytes)
    } else if may_begin_with(bytes, b"PROXY ") {
        read_v1(bytes)
    } else {
        Err("no PROXY header")
    }
}

pub fn write(version: Version, ends: Ends) -> Vec<u8> {
    let (source, destination) = in_one_family(ends);
    match version {
        Version::V1 => {
            let family = if source.is_ipv4() { "TCP4" } else { "TCP6" };
            let (from, to) = (source.port(), destination.port());
            format!("PROXY {family} {} {} {from} {to}\r\n", source.ip(), destination.ip()).into_bytes()
        }
        Version::V2 => {
            let addresses: Vec<u8> = match (source.ip(), destination.ip()) {
                (IpAddr::V4(from), IpAddr::V4(to)) => [from.octets(), to.octets()].concat(),
                (from, to) => [v6(from).octets(), v6(to).octets()].concat(),
            };
            let family = if source.is_ipv4() { 0x11 } else { 0x21 };
            let len = (addresses.len() + 4) as u16;
            let mut header = [&SIGNATURE[..], &[0x21, family], &len.to_be_bytes(), &addresses].concat();
            header.extend_from_slice(&source.port().to_be_bytes());
            header.extend_from_slice(&destination.port().to_be_bytes());
            header
        }
    }
}

/// A header without addresses, for a connection of our own (LOCAL, UNKNOWN).
pub fn local(version: Version) -> &'static [u8] {
    match version {
        Version::V1 => b"PROXY UNKNOWN\r\n",
        Version::V2 => b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0",
    }
}

/// `bytes` begin with `prefix`, or `prefix` begins with `bytes`.
fn may_begin_with(bytes: &[u8], prefix: &[u8]) -> bool {
    bytes.iter().zip(prefix).all(|(byte, expected)| byte == expected)
}

fn read_v1(bytes: &[u8]) -> Result<Option<Header>, &'static str> {
    const WRONG: &str = "malformed PROXY line";
    let window = bytes.get(..LINE_LIMIT.min(bytes.len())).unwrap_or_default();
    let Some(lf) = memchr::memchr(b'\n', window) else {
        return if window.len() == LINE_LIMIT { Err("PROXY line too long") } else { Ok(None) };
    };
    let line = window.get(..lf).and_then(|line| line.strip_suffix(b"\r")).ok_or(WRONG)?;
    let line = std::str::from_utf8(line).map_err(|_| WRONG)?;
    let mut parts = line.split(' ').skip(1);
    let family = parts.next().ok_or(WRONG)?;
    if family == "UNKNOWN" {
        return Ok(Some((lf + 1, None)));
    }
    let mut part = || parts.next().ok_or(WRONG);
    let (from, to, from_port, to_port) = (part()?, part()?, part()?, part()?);
    let (from, to) = match family {
        "TCP4" => (parse::<Ipv4Addr>(from)?.into(), parse::<Ipv4Addr>(to)?.into()),
        "TCP6" => (parse::<Ipv6Addr>(from)?.into(), parse::<Ipv6Addr>(to)?.into()),
        _ => return Err("unknown family in a PROXY line"),
    };
    let ends =
        Ends { source: SocketAddr::new(from, port(from_port)?), destination: SocketAddr::new(to, port(to_port)?) };
    if parts.next().is_some() { Err(WRONG) } else { Ok(Some((lf + 1, Some(ends)))) }
}

fn read_v2(bytes: &[u8]) -> Result<Option<Header>, &'static str> {
    let Some([command, family, high, low]) = bytes.get(SIGNATURE.len()..FIXED) else { return Ok(None) };
    let len = usize::from(u16::from_be_bytes([*high, *low]));
    if len > BLOCK_LIMIT {
        return Err("PROXY header too long");
    }
    if !matches!(command, 0x20 | 0x21) {
        return Err("unknown version or command of a PROXY header");
    }
    let Some(block) = bytes.get(FIXED..FIXED + len) else { return Ok(None) };
    let ends = match (command, family) {
        (0x20, _) | (_, 0x00) => None,
        (_, 0x11) => Some(addresses::<4>(block)?),
        (_, 0x21) => Some(addresses::<16>(block)?),
        _ => return Err("a PROXY header of another transport than TCP"),
    };
    Ok(Some((FIXED + len, ends)))
}

/// Two addresses of `N` bytes and two ports; the extensions behind them are skipped.
fn addresses<const N: usize>(block: &[u8]) -> Result<Ends, &'static str>
where
    IpAddr: From<[u8; N]>,
{
    const SHORT: &str = "PROXY header too short for its addresses";
    let (from, rest) = block.split_first_chunk::<N>().ok_or(SHORT)?;
    let (to, rest) = rest.split_first_chunk::<N>().ok_or(SHORT)?;
    let (ports, _) = rest.split_first_chunk::<4>().ok_or(SHORT)?;
    let [a, b, c, d] = *ports;
    Ok(Ends {
        source: SocketAddr::new(IpAddr::from(*from), u16::from_be_bytes([a, b])),
        destination: SocketAddr::new(IpAddr::from(*to), u16::from_be_bytes([c, d])),
    })
}

fn parse<T: FromStr>(text: &str) -> Result<T, &'static str> {
    text.parse().map_err(|_| "malformed address in a PROXY line")
}

/// Decimal, in range, without leading zeros.
fn port(text: &str) -> Result<u16, &'static str> {
    let canonical = text == "0" || (!text.starts_with('0') && text.bytes().all(|b| b.is_ascii_digit()));
    text.parse().ok().filter(|_| canonical).ok_or("malformed port in a PROXY line")
}

/// Both addresses in one family: a mixed pair is written as IPv6.
fn in_one_family(ends: Ends) -> (SocketAddr, SocketAddr) {
    let plain = |end: SocketAddr| SocketAddr::new(end.ip().to_canonical(), end.port());
    let (source, destination) = (plain(ends.source), plain(ends.destination));
    if source.is_ipv4() == destination.is_ipv4() {
        return (source, destination);
    }
    let six = |end: SocketAddr| SocketAddr::new(v6(end.ip()).into(), end.port());
    (six(source), six(destination))
}

fn v6(ip: IpAddr) -> Ipv6Addr {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends(source: &str, destination: &str) -> Ends {
        Ends { source: source.parse().unwrap(), destination: destination.parse().unwrap() }
    }

    #[test]
    fn a_written_header_is_parsed_when_complete_and_never_before() {
        let pairs = [ends("192.0.2.1:5", "198.51.100.2:443"), ends("[2001:db8::1]:1", "[2001:db8::2]:65535")];
        for version in [Version::V1, Version::V2] {
            for pair in pairs {
                let mut bytes = write(version, pair);
                let len = bytes.len();
                bytes.extend_from_slice(b"GET");
                assert_eq!(read(&bytes), Ok(Some((len, Some(pair)))));
                for cut in 0..len {
                    assert_eq!(read(&bytes[..cut]), Ok(None), "{version:?} cut at {cut}");
                }
            }
        }
    }

    #[test]
    fn a_mixed_pair_is_written_as_ipv6() {
        let mixed = ends("192.0.2.1:5", "[2001:db8::2]:80");
        let (_, got) = read(&write(Version::V2, mixed)).unwrap().unwrap();
        assert_eq!(got, Some(ends("[::ffff:192.0.2.1]:5", "[2001:db8::2]:80")));
    }

    #[test]
    fn local_and_unknown_headers_have_no_addresses() {
        assert_eq!(read(b"PROXY UNKNOWN\r\n"), Ok(Some((15, None))));
        assert_eq!(read(b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n"), Ok(Some((35, None))));
        assert_eq!(read(local(Version::V1)), Ok(Some((15, None))));
        assert_eq!(read(local(Version::V2)), Ok(Some((16, None))));
        let extended =
            [&SIGNATURE[..], &[0x21, 0x11, 0, 15], &[1, 2, 3, 4, 5, 6, 7, 8, 0, 9, 0, 10], &[4, 0, 0]].concat();
        assert_eq!(read(&extended), Ok(Some((31, Some(ends("1.2.3.4:9", "5.6.7.8:10"))))));
    }

    #[test]
    fn malformed_and_ambiguous_headers_are_refused() {
        let long = format!("PROXY UNKNOWN {}\r\n", "x".repeat(200));
        let lines = [
            "GET / HTTP/1.1\r\n",
            "PROXY TCP4 1.2.3.4 5.6.7.8 1 2\n",
            "PROXY TCP4 1.2.3.4 5.6.7.8 1 2 3\r\n",
            "PROXY TCP4 1.2.3.4  5.6.7.8 1 2\r\n",
            "PROXY TCP4 1.2.3.4 5.6.7.8 01 2\r\n",
            "PROXY TCP4 1.2.3.4 5.6.7.8 1 65536\r\n",
            "PROXY TCP4 1.2.3.4 5.6.7.8 +1 2\r\n",
            "PROXY TCP4 1.2.3 5.6.7.8 1 2\r\n",
            "PROXY TCP4 ::1 ::1 1 2\r\n",
            "PROXY TCP6 1.2.3.4 5.6.7.8 1 2\r\n",
            "PROXY UDP4 1.2.3.4 5.6.7.8 1 2\r\n",
            "PROXY TCP4 1.2.3.4 5.6.7.8 1\r\n",
            &long,
        ];
        for line in lines {
            assert!(read(line.as_bytes()).is_err(), "{line:?}");
        }
        for fixed in
            [[0x11, 0x11, 0, 12], [0x22, 0x11, 0, 12], [0x21, 0x12, 0, 12], [0x21, 0x11, 0, 4], [0x21, 0x11, 8, 0]]
        {
            let header = [&SIGNATURE[..], &fixed, &[0; 12]].concat();
            assert!(read(&header).is_err(), "{fixed:?}");
        }
    }
    #[test]
    fn the_longest_header_of_each_version_is_read_and_no_longer_one() {
        let line = |len: usize| format!("PROXY UNKNOWN {}\r\n", "x".repeat(len - 16));
        assert_eq!(read(line(107).as_bytes()), Ok(Some((107, None))));
        assert_eq!(read(line(108).as_bytes()), Err("PROXY line too long"));
        assert_eq!(read(&line(108).as_bytes()[..106]), Ok(None), "its end may follow");
        let block = |len: u16| [&SIGNATURE[..], &[0x20, 0], &len.to_be_bytes(), &vec![0; usize::from(len)]].concat();
        assert_eq!(read(&block(1024)), Ok(Some((16 + 1024, None))));
        assert_eq!(read(&block(1025)), Err("PROXY header too long"));
    }

    #[test]
    fn the_address_part_is_ignored_where_a_sender_speaks_for_itself() {
        let local = [&SIGNATURE[..], &[0x20, 0x11, 0, 12], &[1, 2, 3, 4, 5, 6, 7, 8, 0, 9, 0, 10]].concat();
        assert_eq!(read(&local), Ok(Some((28, None))), "LOCAL");
        let unspecified = [&SIGNATURE[..], &[0x21, 0, 0, 3], &[1, 2, 3]].concat();
        assert_eq!(read(&unspecified), Ok(Some((19, None))), "AF_UNSPEC");
    }

    #[test]
    fn port_zero_is_a_port() {
        assert_eq!(
            read(b"PROXY TCP4 1.2.3.4 5.6.7.8 0 65535\r\n"),
            Ok(Some((36, Some(ends("1.2.3.4:0", "5.6.7.8:65535")))))
        );
    }
}
