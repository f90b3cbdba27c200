//! The fields of RFC 9440, by which replicas are told of a client's certificate. Whether a certificate is one to believe is
//! decided by the handshake, not here.
//!
//! What clients say in these fields is cut, so that a replica can believe them (RFC 9440 section 4). That goes for every
//! listener of http, since the same replicas may be reached by one that asks for certificates and by one that does not, which
//! would be the way around the first. They stay only where a listener asks for none and its clients are proxies that the
//! operator trusts (`forwarded.trust = "keep"`): such a proxy has taken the certificate itself.

use base64::prelude::{BASE64_STANDARD, Engine};

use super::head;
use super::tls::ClientCertificate;
use super::tls::client_auth::LEAF_MAX;

/// A line of the longest certificate, in bytes.
pub const LINE_MAX: usize = BEGIN.len() + LEAF_MAX.div_ceil(3) * 4 + END.len();

/// A byte sequence of RFC 8941 section 3.3.5.
const BEGIN: &str = "Client-Cert: :";
const END: &str = ":\r\n";

/// What replicas are told of a client that was asked for a certificate.
#[derive(Debug)]
pub struct ClientCertField {
    /// Added to each request; empty without a certificate.
    line: Box<[u8]>,
}

impl ClientCertField {
    /// `None`: the client was not asked.
    pub fn new(certificate: &ClientCertificate) -> Option<ClientCertField> {
        let line = match certificate {
            ClientCertificate::NotRequested => return None,
            ClientCertificate::Absent => Box::default(),
            ClientCertificate::Verified(der) => [BEGIN, &BASE64_STANDARD.encode(der), END].concat().into_bytes().into(),
        };
        Some(ClientCertField { line })
    }

    pub fn line(&self) -> &[u8] {
        &self.line
    }
}

/// `Client-Cert` and `Client-Cert-Chain`, with `_` for `-`, too.
pub fn is_name(name: &str) -> bool {
    ["client-cert", "client-cert-chain"].iter().any(|known| head::resembles(name, known))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_a_byte_sequence_in_base64() {
        let line = |certificate| {
            let field = ClientCertField::new(&certificate)?;
            Some(String::from_utf8_lossy(field.line()).into_owned())
        };
        let verified = ClientCertificate::Verified([0xfb, 0xff, 1, 2].into());
        assert_eq!(line(verified).as_deref(), Some("Client-Cert: :+/8BAg==:\r\n"));
        assert_eq!(line(ClientCertificate::Absent).as_deref(), Some(""));
        assert_eq!(line(ClientCertificate::NotRequested), None);
        let longest = ClientCertificate::Verified(vec![0; LEAF_MAX].into());
        assert_eq!(line(longest).map(|line| line.len()), Some(LINE_MAX));
    }
}
