//! Two ends of a TLS connection under a fuzzer: the bytes are what is said, how much of it arrives, and what is changed on
//! the way. No socket enters. The certificate is a fixture, whose key is no secret.

use std::sync::{Arc, OnceLock};

use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};

use crate::core::buffer::BufferPool;
use crate::core::tls::certificate::{Certificate, provider};
use crate::core::tls::policy::{ALPN_HTTP, Policy, PolicySettings, Tickets};
use crate::core::tls::{HandshakeSteps, Opened, Tls, TlsFault, TlsVersion};

const CERTIFICATE: &[u8] = include_bytes!("fuzz.example.cert");
const KEY: &[u8] = include_bytes!("fuzz.example.key");
const NAME: &str = "fuzz.example";
/// Within the certificate's validity.
const NOW: u64 = 1_800_000_000;
/// What one `open` may write.
const SPACE: usize = 512;
/// Of one input.
const EVENTS: usize = 1_000;

/// What one end said and heard.
struct End {
    tls: Tls,
    pool: BufferPool,
    said: usize,
    closed: bool,
    heard: usize,
    end: Option<Result<Opened, TlsFault>>,
    /// Nothing more that it sends arrives.
    cut: bool,
}

/// Each event is two bytes: what happens, and how much of it. Whatever is changed or cut: what one end opens is what the
/// other sealed, in order. If nothing was, both open all of it, and the ends of both streams.
pub fn tls_session(bytes: &[u8]) {
    let (policy, config) = configs();
    let name = ServerName::try_from(NAME).expect("a name");
    let client = End::new(|pool| Tls::client(config.clone(), name, pool));
    let server = End::new(|_| Tls::server(policy, NOW));
    let mut ends = [client, server];
    let mut is_changed = false;
    for event in bytes.chunks_exact(2).take(EVENTS) {
        let (from, n) = (usize::from(event[0] & 1), usize::from(event[1]));
        match event[0] >> 1 & 7 {
            0 => ends[from].say(n),
            1 => ends[from].say(n * 64),
            2 => ends[from].close(),
            3 => ends[from].cut = true,
            4 => is_changed |= deliver(&mut ends, from, 1 + n / 8, Some(1 << (n % 8))) > 0,
            5 => drop(deliver(&mut ends, from, n * 256, None)),
            _ => drop(deliver(&mut ends, from, n, None)),
        }
        check(&ends);
    }
    while deliver(&mut ends, 0, usize::MAX, None) + deliver(&mut ends, 1, usize::MAX, None) > 0 {}
    check(&ends);
    let [client, server] = &ends;
    if !is_changed && !client.cut && !server.cut {
        assert!(!client.tls.is_handshaking() && !server.tls.is_handshaking(), "{:?} {:?}", client.end, server.end);
        for (one, other) in [(client, server), (server, client)] {
            assert_eq!(one.heard, other.said, "all of it arrives");
            assert_eq!(one.end, other.closed.then_some(Ok(Opened::Closed)), "and the end that was said");
            assert_eq!(one.tls.buffers(), 0, "at rest nothing is held");
        }
    }
    ends.iter_mut().for_each(End::release);
}

fn check(ends: &[End; 2]) {
    for (one, other) in [(&ends[0], &ends[1]), (&ends[1], &ends[0])] {
        one.tls.check();
        assert!(one.heard <= other.said, "more was opened than sealed");
        assert_eq!(one.pool.lent(), one.tls.buffers(), "buffers lent and held");
    }
}

/// At most `n` bytes arrive, the last of them changed by `change`. Returns how many left.
fn deliver(ends: &mut [End; 2], from: usize, n: usize, change: Option<u8>) -> usize {
    let [client, server] = ends;
    let (from, to) = if from == 0 { (client, server) } else { (server, client) };
    let mut bytes = from.tls.pending().to_vec();
    bytes.truncate(n);
    from.tls.sent(bytes.len(), &mut from.pool);
    if from.end.is_none() {
        // What it could not open for want of room to answer: there is some now.
        from.open();
    }
    if let (Some(last), Some(change)) = (bytes.last_mut(), change) {
        *last ^= change;
    }
    if !from.cut {
        to.hear(&bytes);
    }
    bytes.len()
}

impl End {
    fn new(make: impl FnOnce(&mut BufferPool) -> Result<Tls, TlsFault>) -> End {
        let mut pool = BufferPool::new(2);
        let tls = make(&mut pool).expect("a connection begins");
        End { tls, pool, said: 0, closed: false, heard: 0, end: None, cut: false }
    }

    /// What is not sealed, for want of room or of a handshake, is not said.
    fn say(&mut self, n: usize) {
        if self.tls.is_handshaking() || self.closed {
            return;
        }
        let plain: Vec<u8> = (self.said..self.said + n).map(pattern).collect();
        self.said += self.tls.seal(&plain, &mut self.pool).unwrap_or_default();
    }

    fn close(&mut self) {
        self.tls.close_notify(&mut self.pool);
        self.closed |= self.tls.has_sent_close();
    }

    fn hear(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() && self.end.is_none() {
            let space = self.tls.space(&mut self.pool);
            let n = bytes.len().min(space.len());
            if n == 0 {
                // It cannot open what is here before it has sent what is pending: the rest is lost.
                self.end = Some(Ok(Opened::NeedsRoom));
                return;
            }
            space[..n].copy_from_slice(&bytes[..n]);
            self.tls.commit_read(n);
            bytes = &bytes[n..];
            self.open();
        }
    }

    fn open(&mut self) {
        let mut plain = [0; SPACE];
        loop {
            match self.tls.open(&mut plain, HandshakeSteps::Taken, &mut self.pool) {
                Ok(Opened::Plain(n)) => {
                    let expected = (self.heard..self.heard + n).map(pattern);
                    assert!(plain[..n].iter().copied().eq(expected), "what was sealed, in order");
                    self.heard += n;
                }
                Ok(Opened::NeedsBytes | Opened::NeedsRoom) => return,
                Ok(Opened::HandshakeStep | Opened::Established) => {}
                end => {
                    assert!(!self.tls.has_more(), "the end is said twice");
                    self.end = Some(end);
                    return;
                }
            }
        }
    }

    fn release(&mut self) {
        self.tls.release(&mut self.pool);
        assert_eq!(self.pool.lent(), 0);
    }
}

fn pattern(at: usize) -> u8 {
    (at % 251) as u8
}

/// Without resumption: a connection does not depend on those before it.
fn configs() -> &'static (Policy, Arc<ClientConfig>) {
    static CONFIGS: OnceLock<(Policy, Arc<ClientConfig>)> = OnceLock::new();
    CONFIGS.get_or_init(|| {
        let certificate = Certificate::from_pem(CERTIFICATE, KEY).expect("a pair");
        let mut roots = RootCertStore::empty();
        certificate.key.cert.iter().for_each(|certificate| roots.add(certificate.clone()).expect("a root"));
        let tickets = Tickets::new().expect("keys");
        let certificates = std::slice::from_ref(&certificate);
        let (default, min_version, alpn, client_auth) = (0, TlsVersion::Tls12, ALPN_HTTP, None);
        let policy = Policy::new(PolicySettings { certificates, default, min_version, alpn, tickets, client_auth });
        let builder = ClientConfig::builder_with_provider(provider().into());
        let builder = builder.with_safe_default_protocol_versions().expect("versions");
        let mut config = builder.with_root_certificates(roots).with_no_client_auth();
        config.resumption = Resumption::disabled();
        (policy.expect("a usable policy"), Arc::new(config))
    })
}
