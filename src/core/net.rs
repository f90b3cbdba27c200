//! Address ranges as a configuration writes them (`10.0.0.0/8`, `::1`, `192.0.2.7`), and the block that a client counts as.

use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

use ipnet::IpNet;

/// A range, or one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Net(IpNet);

impl Net {
    /// An IPv4-mapped IPv6 address counts as the IPv4 address.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.0.contains(&address.to_canonical())
    }
}

impl FromStr for Net {
    type Err = String;

    fn from_str(text: &str) -> Result<Net, String> {
        let address = || text.parse::<IpAddr>().ok().map(IpNet::from);
        let range = text.parse().ok().or_else(address).map(Net);
        range.ok_or_else(|| format!("{text:?} is no address or range; write 10.0.0.0/8, 192.0.2.7 or ::1"))
    }
}

/// The address under which a client is counted: of an IPv6 client its /64 (RFC 6177 section 2), of an IPv4 client its
/// address, IPv4-mapped or not.
pub fn client_block(address: IpAddr) -> IpAddr {
    const HOST_BITS: u128 = u64::MAX as u128;
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from(u128::from(address) & !HOST_BITS).into(),
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::{Net, client_block};

    #[test]
    fn a_range_contains_its_addresses_and_no_others() {
        let contains = |net: &str, ip: &str| net.parse::<Net>().unwrap().contains(ip.parse().unwrap());
        assert!(contains("10.0.0.0/8", "10.255.0.1") && !contains("10.0.0.0/8", "11.0.0.1"));
        assert!(contains("0.0.0.0/0", "203.0.113.9") && !contains("0.0.0.0/0", "::1"));
        assert!(contains("::/0", "::1") && contains("fd00::/8", "fd12::1") && !contains("fd00::/8", "fe80::1"));
        assert!(contains("127.0.0.1", "127.0.0.1") && !contains("127.0.0.1", "127.0.0.2"));
        assert!(contains("127.0.0.1", "::ffff:127.0.0.1"));
        for wrong in ["", "10.0.0.0/33", "::/129", "10/8", "localhost", "10.0.0.0/", "10.0.0.0/-1"] {
            assert!(wrong.parse::<Net>().is_err(), "{wrong}");
        }
    }
    #[test]
    fn a_client_is_an_ipv4_address_or_an_ipv6_64() {
        let counted_as = |ip: &str| client_block(ip.parse().unwrap()).to_string();
        assert_eq!(counted_as("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
        assert_eq!(counted_as("2001:db8:1:3:3:4:5:6"), "2001:db8:1:3::");
        assert_eq!(counted_as("192.0.2.7"), "192.0.2.7");
        assert_eq!(counted_as("::ffff:192.0.2.7"), "192.0.2.7");
    }
}
