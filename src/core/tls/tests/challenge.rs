//! Connections by which an ACME server checks a name, and others that look like them.

use rcgen::CustomExtension;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::UnixTime;
use rustls::{DigitallySignedStruct, Error, SignatureScheme};

use super::super::challenge::ChallengeCertificate;
use super::super::client_hello::is_check_of_name;
use super::*;

const ONLY_ACME: &[&[u8]] = &[ALPN_ACME];
const ACME_AND_HTTP: &[&[u8]] = &[ALPN_ACME, b"http/1.1"];

/// That proves `NAME`.
pub fn challenges() -> Arc<ChallengePolicy> {
    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::new([NAME.to_owned()]).expect("a name");
    params.custom_extensions = vec![CustomExtension::new_acme_identifier(&[7; 32])];
    let certificate = params.self_signed(&key).expect("a certificate").der().to_vec();
    let one = ChallengeCertificate { name: NAME.into(), certificate, key: key.serialize_der() };
    Arc::new(ChallengePolicy::new(vec![one]).expect("a usable policy"))
}

/// An ACME server, which looks at the certificate itself.
#[derive(Debug)]
struct Looker;

impl ServerCertVerifier for Looker {
    fn verify_server_cert(
        &self,
        _certificate: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

pub fn client(name: &'static str, alpn: &[&[u8]]) -> Peer {
    let builder = ClientConfig::builder_with_provider(provider().into()).with_safe_default_protocol_versions();
    let builder = builder.expect("versions").dangerous().with_custom_certificate_verifier(Arc::new(Looker));
    let mut config = builder.with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    Peer::new(|pool| Tls::client(config.into(), ServerName::try_from(name).expect("a name"), pool))
}

/// What the server's end comes to.
fn outcome(client: &mut Peer, policy: &Policy, challenges: Option<Arc<ChallengePolicy>>) -> Result<bool, TlsFault> {
    let mut server = Peer::new(|_| Tls::server(policy, NOW).map(|tls| tls.with_challenges(challenges)));
    while client.send_to(&mut server, usize::MAX) + server.send_to(client, usize::MAX) > 0 {}
    match server.end {
        Some(Err(fault)) => Err(fault),
        _ => Ok(server.tls.handshake().expect("it is over").is_check_of_name()),
    }
}

#[test]
fn a_client_whose_only_protocol_is_acme_gets_the_challenge_of_its_name_and_no_other_certificate() {
    let rig = Rig::new(TlsVersion::Tls13);
    let without_alpn = policy(&certificate(&[NAME]), &Tickets::new().expect("keys"), &[]);
    for policy in [&rig.policy, &without_alpn] {
        let outcome = |name, alpn, pending: bool| outcome(&mut client(name, alpn), policy, pending.then(challenges));
        assert_eq!(outcome(NAME, ONLY_ACME, true), Ok(true));
        assert_eq!(outcome("SHOP.example.com", ONLY_ACME, true), Ok(true));
        assert!(outcome("other.example.com", ONLY_ACME, true).is_err(), "no challenge of it is pending");
        assert!(outcome(NAME, ONLY_ACME, false).is_err(), "none is pending");
        assert!(outcome(NAME, ACME_AND_HTTP, true).is_err(), "RFC 8737 section 3: the only protocol");
        for pending in [true, false] {
            assert_eq!(outcome(NAME, ALPN_HTTP, pending), Ok(false), "a client like any");
        }
    }
}

#[test]
fn a_listener_that_wants_certificates_of_clients_wants_none_of_an_acme_server() {
    use super::super::client_auth::{ClientAuth, ClientAuthMode};
    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::new(Vec::new()).expect("no names");
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority = params.self_signed(&key).expect("a certificate").pem();
    let auth = ClientAuth::from_pem(ClientAuthMode::Required, authority.as_bytes(), None).expect("an authority");
    let policy = Policy::new(PolicySettings {
        certificates: &[certificate(&[NAME])],
        default: 0,
        min_version: TlsVersion::Tls13,
        alpn: ALPN_HTTP,
        tickets: Tickets::new().expect("keys"),
        client_auth: Some(&auth),
    });
    let policy = policy.expect("a usable policy");
    assert!(outcome(&mut client(NAME, ALPN_HTTP), &policy, Some(challenges())).is_err());
    assert_eq!(outcome(&mut client(NAME, ONLY_ACME), &policy, Some(challenges())), Ok(true));
}

#[test]
fn the_only_protocol_of_a_whole_client_hello_decides() {
    let hello = |alpn| client(NAME, alpn).sealed(b"");
    let whole = hello(ONLY_ACME);
    assert!(is_check_of_name(&whole));
    assert!((0..whole.len()).all(|cut| !is_check_of_name(&whole[..cut])));
    assert!([ACME_AND_HTTP, ALPN_HTTP, &[]].iter().all(|alpn| !is_check_of_name(&hello(alpn))));
}
