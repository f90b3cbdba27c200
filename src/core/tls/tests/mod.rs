//! Two connections against each other over bytes: cut anywhere, changed keys, ends, and the bounds of each.

pub mod challenge;
mod client_auth;
mod hello;

use std::sync::Arc;

use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519, SignatureAlgorithm};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use super::certificate::{Certificate, PairFault, provider};
use super::policy::{ALPN_HTTP, PolicySettings, Tickets};
use super::*;
use crate::core::context::Prng;

const NOW: u64 = 1_800_000_000;
const NAME: &str = "shop.example.com";
/// Records whose plaintext is larger than what one `open` takes, among others.
const MESSAGE: usize = 70_000;

/// A chain of one certificate, and its key.
pub fn pair(names: &[&str], kind: &'static SignatureAlgorithm) -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
    let key = KeyPair::generate_for(kind).expect("a key");
    let params = CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>());
    let certificate = params.expect("names").self_signed(&key).expect("a certificate");
    (certificate.der().clone(), PrivateKeyDer::try_from(key.serialize_der()).expect("PKCS 8"))
}

pub fn certificate(names: &[&str]) -> Certificate {
    let (certificate, key) = pair(names, &PKCS_ED25519);
    Certificate::from_der(vec![certificate], key).expect("a usable pair")
}

fn policy(certificate: &Certificate, tickets: &Tickets, alpn: &[&[u8]]) -> Policy {
    let tickets = tickets.clone();
    let certificates = std::slice::from_ref(certificate);
    let settings =
        PolicySettings { certificates, default: 0, min_version: TlsVersion::Tls12, alpn, tickets, client_auth: None };
    Policy::new(settings).expect("a usable policy")
}

fn client_config(certificate: &Certificate, version: TlsVersion, alpn: &[&[u8]]) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    certificate.key.cert.iter().for_each(|certificate| roots.add(certificate.clone()).expect("a root"));
    let versions: &[_] = match version {
        TlsVersion::Tls12 => &[&rustls::version::TLS12],
        TlsVersion::Tls13 => &[&rustls::version::TLS13],
    };
    let builder = ClientConfig::builder_with_provider(provider().into()).with_protocol_versions(versions);
    let mut config = builder.expect("versions").with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    Arc::new(config)
}

/// One end, and what it received.
pub struct Peer {
    pub tls: Tls,
    pool: BufferPool,
    pub received: Vec<u8>,
    pub end: Option<Result<Opened, TlsFault>>,
    /// What one `open` may write.
    space: usize,
    plain: Vec<u8>,
}

impl Peer {
    fn new(make: impl FnOnce(&mut BufferPool) -> Result<Tls, TlsFault>) -> Peer {
        let mut pool = BufferPool::new(2);
        Peer {
            tls: make(&mut pool).expect("a connection"),
            pool,
            received: Vec::new(),
            end: None,
            space: 32 * 1024,
            plain: vec![0; 32 * 1024],
        }
    }

    pub fn read(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() && self.end.is_none() {
            let space = self.tls.space(&mut self.pool);
            let n = bytes.len().min(space.len());
            space[..n].copy_from_slice(&bytes[..n]);
            self.tls.commit_read(n);
            bytes = &bytes[n..];
            self.open();
        }
    }

    fn open(&mut self) {
        loop {
            let plain = &mut self.plain[..self.space];
            let opened = self.tls.open(plain, HandshakeSteps::Taken, &mut self.pool);
            self.tls.check();
            assert_eq!(self.pool.lent(), self.tls.buffers());
            match opened {
                Ok(Opened::Plain(n)) => self.received.extend_from_slice(&plain[..n]),
                Ok(Opened::NeedsBytes | Opened::NeedsRoom) => {
                    assert!(!self.tls.has_more(), "all of it was opened");
                    break;
                }
                Ok(Opened::HandshakeStep | Opened::Established) => {}
                end => {
                    assert!(!self.tls.has_more(), "the end is said twice");
                    self.end = Some(end);
                    break;
                }
            }
        }
    }

    fn say(&mut self, mut plain: &[u8], other: &mut Peer, cut: usize) {
        while !plain.is_empty() {
            let n = self.tls.seal(plain, &mut self.pool).expect("it may be sealed");
            plain = &plain[n..];
            self.send_to(other, cut);
        }
    }

    /// What it sends now, with `plain` behind what is due anyway.
    pub fn sealed(&mut self, plain: &[u8]) -> Vec<u8> {
        if !plain.is_empty() {
            assert_eq!(self.tls.seal(plain, &mut self.pool), Ok(plain.len()));
        }
        self.sends()
    }

    /// What it sends when it sends no more.
    pub fn closing(&mut self) -> Vec<u8> {
        self.tls.close_notify(&mut self.pool);
        self.sends()
    }

    fn sends(&mut self) -> Vec<u8> {
        let bytes = self.tls.pending().to_vec();
        self.tls.sent(bytes.len(), &mut self.pool);
        bytes
    }

    /// Returns how many bytes were sent, `cut` at a time.
    fn send_to(&mut self, other: &mut Peer, cut: usize) -> usize {
        let mut sent = 0;
        while !self.tls.pending().is_empty() {
            let n = self.tls.pending().len().min(cut);
            let bytes = self.tls.pending()[..n].to_vec();
            self.tls.sent(n, &mut self.pool);
            other.read(&bytes);
            sent += n;
        }
        sent
    }
}

pub struct Rig {
    certificate: Certificate,
    pub policy: Policy,
    config: Arc<ClientConfig>,
}

impl Rig {
    pub fn new(version: TlsVersion) -> Rig {
        let certificate = certificate(&[NAME]);
        let policy = policy(&certificate, &Tickets::new().expect("keys"), ALPN_HTTP);
        let config = client_config(&certificate, version, ALPN_HTTP);
        Rig { certificate, policy, config }
    }

    pub fn client(&self) -> Peer {
        let name = ServerName::try_from(NAME).expect("a name");
        Peer::new(|pool| Tls::client(self.config.clone(), name, pool))
    }

    fn begin(&self) -> (Peer, Peer) {
        (self.client(), Peer::new(|_| Tls::server(&self.policy, NOW)))
    }

    fn established(&self) -> (Peer, Peer) {
        let (mut client, mut server) = self.begin();
        shake_hands(&mut client, &mut server, usize::MAX);
        (client, server)
    }
}

fn shake_hands(client: &mut Peer, server: &mut Peer, cut: usize) {
    while client.send_to(server, cut) + server.send_to(client, cut) > 0 {}
    assert_eq!((&client.end, &server.end), (&None, &None));
    assert!(!client.tls.is_handshaking() && !server.tls.is_handshaking());
}

fn message() -> Vec<u8> {
    (0..MESSAGE).map(|n| (n % 251) as u8).collect()
}

const VERSIONS: [TlsVersion; 2] = [TlsVersion::Tls12, TlsVersion::Tls13];

#[test]
fn both_ends_agree_and_every_byte_arrives_however_the_stream_is_cut() {
    for (version, cut, space) in VERSIONS.iter().flat_map(|version| {
        [(1, 32 * 1024), (7, 100), (16_000, 1), (usize::MAX, 5_000)].map(|(cut, space)| (*version, cut, space))
    }) {
        let (mut client, mut server) = Rig::new(version).begin();
        (client.space, server.space) = (space, space);
        shake_hands(&mut client, &mut server, cut);
        let info = server.tls.handshake().expect("it is over");
        let alpn: Box<[u8]> = Box::from(&b"http/1.1"[..]);
        let expected = HandshakeInfo {
            version,
            resumption: Resumption::Full,
            alpn: Some(alpn),
            client_certificate: ClientCertificate::NotRequested,
        };
        assert_eq!(info, expected);
        client.say(&message(), &mut server, cut);
        server.say(&message(), &mut client, cut);
        assert!(server.received == message() && client.received == message(), "{version:?} cut at {cut}");
        assert_eq!((client.tls.buffers(), server.tls.buffers()), (0, 0), "at rest nothing is held");
    }
}

#[test]
fn a_handshake_cut_in_two_at_any_byte_is_the_same() {
    for version in VERSIONS {
        let rig = Rig::new(version);
        let (mut client, mut server) = rig.begin();
        let hello = client.tls.pending().to_vec();
        for cut in 1..hello.len() {
            let (_, mut other) = rig.begin();
            other.read(&hello[..cut]);
            assert_eq!((other.tls.pending(), other.end.as_ref()), (&[][..], None), "cut at {cut}");
            other.read(&hello[cut..]);
            assert!(!other.tls.pending().is_empty() && other.end.is_none(), "cut at {cut}");
        }
        shake_hands(&mut client, &mut server, usize::MAX);
    }
}

#[test]
fn a_client_hello_in_records_of_one_byte_is_understood() {
    let (mut client, mut server) = Rig::new(TlsVersion::Tls13).begin();
    let hello = client.tls.pending().to_vec();
    client.tls.sent(hello.len(), &mut client.pool);
    for byte in &hello[5..] {
        server.read(&[22, 3, 1, 0, 1, *byte]);
    }
    shake_hands(&mut client, &mut server, usize::MAX);
}

#[test]
fn handshake_records_wait_where_they_are_deferred() {
    let (mut client, mut server) = Rig::new(TlsVersion::Tls13).begin();
    let hello = client.tls.pending().to_vec();
    let open = |server: &mut Peer, steps| server.tls.open(&mut [0; 16], steps, &mut server.pool);
    assert_eq!(open(&mut server, HandshakeSteps::Deferred), Ok(Opened::NeedsBytes));
    server.tls.space(&mut server.pool)[..hello.len()].copy_from_slice(&hello);
    server.tls.commit_read(hello.len());
    assert_eq!(open(&mut server, HandshakeSteps::Deferred), Ok(Opened::HandshakeStep));
    assert!(server.tls.pending().is_empty());
    assert!(!server.tls.has_more(), "a handshake is no plaintext");
    assert_eq!(open(&mut server, HandshakeSteps::Taken), Ok(Opened::NeedsBytes));
    assert!(!server.tls.pending().is_empty());
    client.tls.sent(hello.len(), &mut client.pool);
    shake_hands(&mut client, &mut server, usize::MAX);
    client.tls.seal(b"data", &mut client.pool).expect("it is sealed");
    let sealed = client.tls.pending().to_vec();
    server.tls.space(&mut server.pool)[..sealed.len()].copy_from_slice(&sealed);
    server.tls.commit_read(sealed.len());
    assert_eq!(open(&mut server, HandshakeSteps::Deferred), Ok(Opened::Plain(4)), "data never waits");
}

#[test]
fn two_records_of_one_read_are_both_there() {
    let (mut client, mut server) = Rig::new(TlsVersion::Tls13).established();
    client.tls.seal(b"first", &mut client.pool).expect("it is sealed");
    client.tls.seal(b"second", &mut client.pool).expect("it is sealed");
    let sealed = client.tls.pending().to_vec();
    server.tls.space(&mut server.pool)[..sealed.len()].copy_from_slice(&sealed);
    server.tls.commit_read(sealed.len());
    let mut plain = [0; 5];
    let opened = server.tls.open(&mut plain, HandshakeSteps::Taken, &mut server.pool);
    assert_eq!((opened, &plain), (Ok(Opened::Plain(5)), b"first"));
    assert!(server.tls.has_more(), "the second record is here whole");
    server.open();
    assert_eq!(server.received, b"second");
    assert!(!server.tls.has_more());
}

#[test]
fn close_notify_is_said_once_and_comes_behind_what_was_sealed() {
    for version in VERSIONS {
        let (mut client, mut server) = Rig::new(version).established();
        client.tls.seal(b"last", &mut client.pool).expect("it is sealed");
        client.tls.close_notify(&mut client.pool);
        let len = client.tls.pending().len();
        client.tls.close_notify(&mut client.pool);
        assert_eq!(client.tls.pending().len(), len);
        client.send_to(&mut server, 3);
        assert_eq!((server.received.as_slice(), &server.end), (&b"last"[..], &Some(Ok(Opened::Closed))));
        assert!(client.tls.seal(b"x", &mut client.pool).is_err(), "nothing follows close_notify");
        server.say(b"still answered", &mut client, 1);
        assert_eq!(client.received, b"still answered");
    }
}

#[test]
fn data_and_close_notify_of_one_read_are_told_one_after_the_other() {
    let (mut client, mut server) = Rig::new(TlsVersion::Tls13).established();
    client.tls.seal(b"last", &mut client.pool).expect("it is sealed");
    client.tls.close_notify(&mut client.pool);
    client.send_to(&mut server, usize::MAX);
    assert_eq!((server.received.as_slice(), &server.end), (&b"last"[..], &Some(Ok(Opened::Closed))));
}

#[test]
fn new_keys_are_followed_and_asked_for_at_most_so_often() {
    let (mut client, mut server) = Rig::new(TlsVersion::Tls13).established();
    for round in 0..5 {
        update_keys(&mut client);
        client.say(b"a", &mut server, 2);
        server.say(b"b", &mut client, 2);
        assert_eq!((server.received.len(), client.received.len()), (round + 1, round + 1));
    }
    for _ in 1..EMPTY_RECORDS {
        update_keys(&mut client);
        client.send_to(&mut server, usize::MAX);
    }
    assert_eq!(server.end, None);
    update_keys(&mut client);
    client.send_to(&mut server, usize::MAX);
    assert_eq!(server.end, Some(Err(TlsFault::NoProgress)));
}

fn update_keys(peer: &mut Peer) {
    let Tls { engine, output, rest, .. } = &mut peer.tls;
    let mut sink = Opener { output, rest, plain: &mut [], written: 0, pool: &mut peer.pool };
    engine.update_keys(&mut sink).expect("it is sealed");
    engine.process(&mut [], &mut sink).1.expect("it is pending");
}

#[test]
fn a_session_is_resumed_by_any_policy_of_the_same_tickets_and_by_no_other() {
    for version in VERSIONS {
        let Rig { certificate, config, .. } = Rig::new(version);
        let tickets = Tickets::new().expect("keys");
        let resumed = |tickets: &Tickets| {
            let policy = policy(&certificate, tickets, ALPN_HTTP);
            let rig = Rig { certificate: certificate.clone(), policy, config: config.clone() };
            let (mut client, mut server) = rig.established();
            server.say(b"tickets leave with this", &mut client, usize::MAX);
            client.tls.handshake().map(|info| info.resumption)
        };
        assert_eq!(resumed(&tickets), Some(Resumption::Full));
        assert_eq!(resumed(&tickets), Some(Resumption::Resumed), "{version:?}: the policy of a reload");
        assert_eq!(resumed(&Tickets::new().expect("keys")), Some(Resumption::Full));
    }
}

#[test]
fn a_client_that_knows_none_of_our_protocols_is_told_and_one_that_names_none_is_served() {
    let rig = Rig::new(TlsVersion::Tls13);
    let offering = |alpn: &[&[u8]]| Rig {
        certificate: rig.certificate.clone(),
        policy: policy(&rig.certificate, &Tickets::new().expect("keys"), ALPN_HTTP),
        config: client_config(&rig.certificate, TlsVersion::Tls13, alpn),
    };
    let (_, server) = offering(&[]).established();
    assert_eq!(server.tls.handshake().and_then(|info| info.alpn), None);
    let (mut client, mut server) = offering(&[b"h3"]).begin();
    client.send_to(&mut server, usize::MAX);
    assert!(matches!(server.end, Some(Err(TlsFault::Protocol(_)))), "{:?}", server.end);
    server.send_to(&mut client, usize::MAX);
    let told = format!("{:?}", client.end);
    assert!(told.contains("NoApplicationProtocol"), "{told}");
}

#[test]
fn bytes_that_are_no_tls_are_answered_with_an_alert() {
    for garbage in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[22, 3, 1, 0x7f, 0xff, 1], b"\0\0\0\0\0\0"] {
        let (_, mut server) = Rig::new(TlsVersion::Tls13).begin();
        server.read(garbage);
        assert!(matches!(server.end, Some(Err(TlsFault::Protocol(_)))), "{garbage:?}: {:?}", server.end);
        assert_eq!(server.tls.pending().first(), Some(&21), "an alert");
    }
}

#[test]
fn a_handshake_message_larger_than_a_buffer_is_refused() {
    let (_, mut server) = Rig::new(TlsVersion::Tls13).begin();
    // The begin of a ClientHello of 60,000 bytes, in records of 16,000.
    let mut message = vec![1, 0, 0xea, 0x60];
    message.resize(60_000, 0);
    for part in message.chunks(16_000) {
        let len = (part.len() as u16).to_be_bytes();
        server.read(&[&[22, 3, 1, len[0], len[1]], part].concat());
    }
    assert!(matches!(server.end, Some(Err(_))), "{:?}", server.end);
}

#[test]
fn a_changed_byte_is_noticed() {
    let (mut client, mut server) = Rig::new(TlsVersion::Tls13).established();
    client.tls.seal(b"genuine", &mut client.pool).expect("it is sealed");
    let mut sealed = client.tls.pending().to_vec();
    if let Some(last) = sealed.last_mut() {
        *last ^= 1;
    }
    server.read(&sealed);
    assert!(matches!(server.end, Some(Err(TlsFault::Protocol(_)))), "{:?}", server.end);
    assert!(server.received.is_empty());
}

/// Whatever a peer sends, in whatever pieces, before and after a handshake: it ends or it waits.
#[test]
fn bytes_changed_anywhere_in_a_stream_never_break_more_than_the_connection() {
    let rigs = VERSIONS.map(Rig::new);
    for seed in 0..300 {
        let mut prng = Prng::new(seed * 7919 + 1);
        let mut random = |below: usize| prng.next_u32() as usize % below.max(1);
        let rig = &rigs[random(2)];
        let (mut client, mut server) = if random(2) == 0 { rig.begin() } else { rig.established() };
        for _ in 0..4 {
            if !client.tls.is_handshaking() && client.end.is_none() {
                let n = random(40);
                client.tls.seal(&[b'x'; 40][..n], &mut client.pool).expect("it is sealed");
            }
            let mut bytes = client.sends();
            for _ in 0..random(3) {
                let at = random(bytes.len());
                match (random(4), bytes.get_mut(at)) {
                    (0, _) => bytes.truncate(at),
                    (1, Some(byte)) => *byte ^= 1 << random(8),
                    (2, Some(byte)) => *byte = random(256) as u8,
                    _ => bytes.splice(at..at, [22, 3, 3, 0, 1, 0]).for_each(drop),
                }
            }
            let cut = 1 + random(300);
            bytes.chunks(cut).for_each(|piece| server.read(piece));
            server.tls.close_notify(&mut server.pool);
            server.send_to(&mut client, cut);
        }
    }
}

#[test]
fn a_pair_must_belong_together_and_says_its_names_and_dates() {
    let names = ["a.example.com", "*.B.example.com"];
    let made = certificate(&names);
    assert_eq!(made.names, ["a.example.com", "*.b.example.com"]);
    assert!(made.valid_from < NOW && made.expires > NOW);
    let (one, _) = pair(&names, &PKCS_ECDSA_P256_SHA256);
    let (_, other) = pair(&names, &PKCS_ECDSA_P256_SHA256);
    let refused = Certificate::from_der(vec![one], other).map(|_| ());
    assert_eq!(refused, Err(PairFault::Key("it is not the key of the certificate".into())));
    let chain: Vec<_> = std::iter::repeat_n(pair(&names, &PKCS_ED25519).0, 200).collect();
    let refused = Certificate::from_der(chain, pair(&names, &PKCS_ED25519).1).map(|_| ());
    assert!(matches!(&refused, Err(PairFault::Certificate(why)) if why.contains("can be sent")), "{refused:?}");
    for (chain, key) in [("", ""), ("nothing", "-----BEGIN PRIVATE KEY-----\n?\n-----END PRIVATE KEY-----\n")] {
        assert!(Certificate::from_pem(chain.as_bytes(), key.as_bytes()).is_err());
    }
}
