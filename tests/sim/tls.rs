//! TLS in a world: which listeners speak it, and with what server and clients are configured. Most worlds have none. The
//! clients' connections are in `client`; no byte is sent here.
//!
//! Keys and nonces are random, and a trace holds lengths only: Ed25519 certificates and signatures have fixed ones.

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rcgen::{CertificateParams, KeyPair, PKCS_ED25519, SerialNumber};
use ringway::core::snapshot::Mode;
use ringway::core::tls::TlsVersion;
use ringway::core::tls::certificate::{Certificate, provider};
use ringway::core::tls::policy::{ALPN_HTTP, Policy, PolicySettings, Tickets};
use rustls::pki_types::{PrivateKeyDer, UnixTime};
use rustls::time_provider::TimeProvider;
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion, version};

use super::kernel::EPOCH_S;
use super::random::Random;

/// The server that clients ask for.
pub const NAME: &str = "sim.example";
const VERSIONS: [&SupportedProtocolVersion; 2] = [&version::TLS12, &version::TLS13];

#[derive(Clone)]
pub struct WorldTls {
    policy: Arc<Policy>,
    /// One for each of `VERSIONS`. Its clients share their session tickets.
    clients: [Arc<ClientConfig>; 2],
    http: bool,
    tcp: bool,
    pub handshake_timeout_ms: u64,
}

/// What a client of a TLS listener does.
#[derive(Clone)]
pub enum ClientTls {
    Speaks(SpokenTls),
    /// It takes the listener for one in plain text.
    PlainText,
}

#[derive(Clone)]
pub struct SpokenTls {
    pub config: Arc<ClientConfig>,
    /// Plaintext of a record, in bytes.
    pub record_max: usize,
    /// Of 1000 records, so many have new keys.
    pub key_updates: u32,
    /// It says close_notify before its FIN.
    pub sends_close_notify: bool,
}

impl WorldTls {
    /// `None`: no listener speaks TLS.
    pub fn draw(random: &mut Random) -> Option<WorldTls> {
        if !random.one_in(3) {
            return None;
        }
        let (http, tcp) = random.pick(&[(true, false), (false, true), (true, true)]);
        let certificate = certificate();
        let certificates = std::slice::from_ref(certificate);
        let (default, min_version, alpn, client_auth) = (0, TlsVersion::Tls12, ALPN_HTTP, None);
        let tickets = Tickets::new().expect("keys of tickets");
        let settings = PolicySettings { certificates, default, min_version, alpn, tickets, client_auth };
        let policy = Policy::new(settings).expect("a usable policy").into();
        let clients = VERSIONS.map(|version| client_config(certificate, version, random.one_in(2)));
        Some(WorldTls { policy, clients, http, tcp, handshake_timeout_ms: random.range(3_000, 8_000) })
    }

    /// Of a listener of this mode, if it speaks TLS.
    pub fn policy(&self, mode: Mode) -> Option<Arc<Policy>> {
        self.covers(mode).then(|| self.policy.clone())
    }

    /// A client of a listener of this mode. `None`: the listener does not speak TLS.
    pub fn draw_client(&self, mode: Mode, random: &mut Random) -> Option<ClientTls> {
        if !self.covers(mode) {
            return None;
        }
        if random.one_in(16) {
            return Some(ClientTls::PlainText);
        }
        let [tls12, tls13] = &self.clients;
        let is_old = random.one_in(3);
        Some(ClientTls::Speaks(SpokenTls {
            config: if is_old { tls12.clone() } else { tls13.clone() },
            record_max: random.pick(&[1 << 14, 1 << 14, 1400, 100]),
            key_updates: if is_old { 0 } else { random.rate(300) },
            sends_close_notify: !random.one_in(3),
        }))
    }

    fn covers(&self, mode: Mode) -> bool {
        match mode {
            Mode::Http => self.http,
            Mode::Tcp | Mode::TlsPassthrough => self.tcp,
        }
    }
}

impl fmt::Debug for WorldTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TLS of http {}, of tcp {}, within {} ms", self.http, self.tcp, self.handshake_timeout_ms)
    }
}

/// It does not expire, and every client has known it for ever.
fn certificate() -> &'static Certificate {
    static CERTIFICATE: OnceLock<Certificate> = OnceLock::new();
    CERTIFICATE.get_or_init(|| {
        let key = KeyPair::generate_for(&PKCS_ED25519).expect("a key");
        let mut params = CertificateParams::new([NAME.to_owned()]).expect("a name");
        // Drawn, its length would not be fixed.
        params.serial_number = Some(SerialNumber::from(1));
        let chain = vec![params.self_signed(&key).expect("a certificate").der().clone()];
        let key = PrivateKeyDer::try_from(key.serialize_der()).expect("PKCS 8");
        Certificate::from_der(chain, key).expect("a usable pair")
    })
}

fn client_config(
    certificate: &Certificate,
    version: &'static SupportedProtocolVersion,
    has_alpn: bool,
) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    certificate.key.cert.iter().for_each(|certificate| roots.add(certificate.clone()).expect("a root"));
    let builder = ClientConfig::builder_with_details(provider().into(), Arc::new(StandingClock));
    let builder = builder.with_protocol_versions(&[version]).expect("a version");
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    if has_alpn {
        config.alpn_protocols = ALPN_HTTP.iter().map(|name| name.to_vec()).collect();
    }
    Arc::new(config)
}

/// The clock of the machine never enters.
#[derive(Debug)]
struct StandingClock;

impl TimeProvider for StandingClock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_secs(EPOCH_S)))
    }
}
