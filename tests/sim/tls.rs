//! TLS in a world: which listeners speak it, with what server and clients are configured, and which replicas do, with the
//! balancer or through it. Most worlds have none. The connections are in `stream`; no byte is sent here.
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
use ringway::core::tls::roots::Roots;
use ringway::core::tls::upstream::{UpstreamPolicy, UpstreamPolicySettings};
use rustls::pki_types::{PrivateKeyDer, ServerName, UnixTime};
use rustls::time_provider::TimeProvider;
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, SupportedProtocolVersion, version,
};

use super::kernel::EPOCH_S;
use super::random::Random;
use super::stream::Stream;

/// The server that clients ask for, and the balancer of its replicas.
pub const NAME: &str = "sim.example";
/// As long as the other. No replica may have it, and no route leads from it.
const OTHER_NAME: &str = "sin.example";
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
    Speaks(ClientSpeech),
    /// It takes the listener for one in plain text.
    PlainText,
}

#[derive(Clone)]
pub struct ClientSpeech {
    config: Arc<ClientConfig>,
    name: &'static str,
    speech: Speech,
}

/// How one end speaks TLS.
#[derive(Clone)]
pub struct Speech {
    /// Plaintext of a record, in bytes.
    pub record_max: usize,
    /// Of 1000 records, so many have new keys.
    pub key_updates: u32,
    /// It says close_notify before its FIN.
    pub sends_close_notify: bool,
    /// The other end does not take its certificate, or knows no route for its name.
    pub is_refused: bool,
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
        Some(ClientTls::Speaks(ClientSpeech::draw(&self.clients, random)))
    }

    /// The listener of bytes does not speak TLS after all.
    pub fn without_tcp(self) -> WorldTls {
        WorldTls { tcp: false, ..self }
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

impl ClientSpeech {
    fn draw([tls12, tls13]: &[Arc<ClientConfig>; 2], random: &mut Random) -> ClientSpeech {
        let is_old = random.one_in(3);
        ClientSpeech {
            config: if is_old { tls12.clone() } else { tls13.clone() },
            name: NAME,
            speech: Speech {
                record_max: random.pick(&[1 << 14, 1 << 14, 1400, 100]),
                key_updates: if is_old { 0 } else { random.rate(300) },
                sends_close_notify: !random.one_in(3),
                is_refused: false,
            },
        }
    }

    /// It asks for a server that there is.
    pub fn has_route(&self) -> bool {
        self.name == NAME
    }

    /// It moves `limit` bytes at most.
    pub fn stream(self, limit: u64) -> Stream {
        let name = ServerName::try_from(self.name).expect("a name");
        let connection = ClientConnection::new(self.config, name).expect("a connection");
        Stream::secure(connection.into(), self.speech, limit)
    }
}

/// What replicas speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spoken {
    Plain,
    /// The balancer connects by TLS.
    WithBalancer,
    /// Their clients speak it through a listener that passes it on as it is.
    PassedThrough,
}

/// TLS of the replicas of a world.
#[derive(Clone)]
pub struct ReplicaTls {
    pub http: Spoken,
    pub tcp: Spoken,
    pub policy: Arc<UpstreamPolicy>,
    server: Arc<ServerConfig>,
    /// Its certificate is for another name.
    wrong_server: Arc<ServerConfig>,
    /// Of those that pass through. They share their session tickets.
    clients: [Arc<ClientConfig>; 2],
    has_wrong: bool,
    /// Of 1000 connections, so many are cut somewhere.
    cuts: u32,
    key_updates: u32,
    /// A handshake takes longer than a connection alone.
    pub connect_timeout_ms: u64,
}

impl ReplicaTls {
    /// `None`: no replica speaks TLS.
    pub fn draw(random: &mut Random, is_calm: bool) -> Option<ReplicaTls> {
        if !random.one_in(3) {
            return None;
        }
        let (http, tcp) = random.pick(&[
            (Spoken::WithBalancer, Spoken::Plain),
            (Spoken::WithBalancer, Spoken::WithBalancer),
            (Spoken::Plain, Spoken::WithBalancer),
            (Spoken::Plain, Spoken::PassedThrough),
            (Spoken::WithBalancer, Spoken::PassedThrough),
        ]);
        let one = [random.pick(&VERSIONS)];
        // Clients that pass through speak either.
        let versions = if tcp == Spoken::PassedThrough { &VERSIONS[..] } else { &one };
        let [certificate, wrong] = [certificate(), other_certificate()];
        let clients = VERSIONS.map(|version| client_config(certificate, version, false));
        // The ClientHello comes in several records.
        let fragment = random.one_in(2).then(|| random.range(64, 200) as usize);
        let clients = clients.map(|config| {
            let mut config = ClientConfig::clone(&config);
            config.max_fragment_size = fragment;
            Arc::new(config)
        });
        let cuts = random.rate(500);
        Some(ReplicaTls {
            http,
            tcp,
            policy: upstream_policy(),
            server: server_config(certificate, versions),
            wrong_server: server_config(wrong, versions),
            clients,
            has_wrong: random.one_in(2),
            cuts: if is_calm { 0 } else { cuts },
            key_updates: random.rate(300),
            connect_timeout_ms: random.range(3_000, 8_000),
        })
    }

    pub fn spoken(&self, mode: Mode) -> Spoken {
        if mode == Mode::Http { self.http } else { self.tcp }
    }

    /// Of the balancer towards a service of this mode.
    pub fn policy(&self, mode: Mode) -> Option<Arc<UpstreamPolicy>> {
        (self.spoken(mode) == Spoken::WithBalancer).then(|| self.policy.clone())
    }

    /// A reload reads the same certificates again.
    pub fn renewed(self) -> ReplicaTls {
        ReplicaTls { policy: upstream_policy(), ..self }
    }

    /// A client of the listener whose TLS passes through. `None`: there is none.
    pub fn draw_client(&self, random: &mut Random) -> Option<ClientTls> {
        if self.tcp != Spoken::PassedThrough {
            return None;
        }
        if random.one_in(16) {
            return Some(ClientTls::PlainText);
        }
        let drawn = ClientSpeech::draw(&self.clients, random);
        let name = if random.one_in(16) { OTHER_NAME } else { NAME };
        // No balancer ends it for them: without close_notify a tunnel does not end in order.
        let speech = Speech { sends_close_notify: true, is_refused: name != NAME, ..drawn.speech };
        Some(ClientTls::Speaks(ClientSpeech { name, speech, ..drawn }))
    }

    /// A replica may have the wrong certificate where another can take its place: the balancer then connects to that.
    pub fn may_be_wrong(&self, mode: Mode, is_calm: bool) -> bool {
        self.has_wrong && self.spoken(mode) == Spoken::WithBalancer && (!is_calm || mode == Mode::Tcp)
    }

    /// A connection to a replica. The second part: it is cut somewhere.
    pub fn draw_stream(&self, mode: Mode, is_wrong: bool, random: &mut Random) -> Stream {
        if self.spoken(mode) == Spoken::Plain {
            return Stream::Plain;
        }
        let config = if is_wrong { &self.wrong_server } else { &self.server };
        let connection = ServerConnection::new(config.clone()).expect("a connection");
        let speech = Speech {
            record_max: random.pick(&[1 << 14, 1 << 14, 1400, 100]),
            key_updates: self.key_updates,
            sends_close_notify: self.spoken(mode) == Spoken::PassedThrough || !random.one_in(3),
            is_refused: is_wrong,
        };
        let most = random.pick(&[1_500, 20_000]);
        let limit = if random.per_mille(self.cuts) { random.range(0, most) } else { u64::MAX };
        Stream::secure(connection.into(), speech, limit)
    }
}

impl fmt::Debug for ReplicaTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ReplicaTls { http, tcp, has_wrong, cuts, key_updates, connect_timeout_ms, .. } = self;
        write!(f, "TLS of replicas of http {http:?}, of tcp {tcp:?}, wrong {has_wrong}, cut {cuts}, ")?;
        write!(f, "keys updated {key_updates}, within {connect_timeout_ms} ms")
    }
}

/// It does not expire, and every client has known it for ever.
fn certificate() -> &'static Certificate {
    static CERTIFICATE: OnceLock<Certificate> = OnceLock::new();
    CERTIFICATE.get_or_init(|| self_signed(NAME))
}

/// For another name.
fn other_certificate() -> &'static Certificate {
    static CERTIFICATE: OnceLock<Certificate> = OnceLock::new();
    CERTIFICATE.get_or_init(|| self_signed(OTHER_NAME))
}

fn self_signed(name: &str) -> Certificate {
    let key = KeyPair::generate_for(&PKCS_ED25519).expect("a key");
    let mut params = CertificateParams::new([name.to_owned()]).expect("a name");
    // Drawn, its length would not be fixed.
    params.serial_number = Some(SerialNumber::from(1));
    let chain = vec![params.self_signed(&key).expect("a certificate").der().clone()];
    let key = PrivateKeyDer::try_from(key.serialize_der()).expect("PKCS 8");
    Certificate::from_der(chain, key).expect("a usable pair")
}

fn upstream_policy() -> Arc<UpstreamPolicy> {
    let certificates = [certificate(), other_certificate()];
    let roots = Roots::from_der(certificates.iter().flat_map(|it| it.key.cert.iter().map(|der| &**der)));
    let settings = UpstreamPolicySettings {
        name: Some(NAME.parse().expect("a name")),
        roots: Some(roots.expect("usable roots")),
        own: None,
        alpn: &[],
        checksum: 0,
    };
    UpstreamPolicy::new(settings).expect("a usable policy").into()
}

fn server_config(certificate: &Certificate, versions: &[&'static SupportedProtocolVersion]) -> Arc<ServerConfig> {
    let builder = ServerConfig::builder_with_details(provider().into(), Arc::new(StandingClock));
    let builder = builder.with_protocol_versions(versions).expect("versions");
    let resolver = rustls::sign::SingleCertAndKey::from(certificate.key.clone());
    builder.with_no_client_auth().with_cert_resolver(Arc::new(resolver)).into()
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
