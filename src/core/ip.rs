//! An IP address as text, formatted once per connection and kept without an allocation.

use std::net::IpAddr;

#[derive(Clone, Copy, Debug)]
pub struct IpText {
    len: u8,
    bytes: [u8; IpText::MAX],
}

impl IpText {
    /// The longest address in bytes: `0000:0000:0000:0000:0000:ffff:255.255.255.255`
    const MAX: usize = 45;

    pub fn new(ip: IpAddr) -> IpText {
        let mut text = IpText { len: 0, bytes: [0; IpText::MAX] };
        let mut rest = &mut text.bytes[..];
        if std::io::Write::write_fmt(&mut rest, format_args!("{}", ip.to_canonical())).is_ok() {
            text.len = (IpText::MAX - rest.len()) as u8;
        }
        text
    }

    pub fn text(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.len)).unwrap_or_default()
    }
}
