//! Clients with a certificate, without one, and with one that is not taken: what a listener's policy makes of them.

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, IsCa, Issuer, KeyIdMethod, KeyPair,
    RevokedCertParams, SerialNumber, date_time_ymd,
};

use super::super::client_auth::{CHAIN_MAX, ClientAuth, ClientAuthFault, ClientAuthMode, LEAF_MAX};
use super::*;

/// The year in which `NOW` is.
const YEAR: i32 = 2027;

struct Authority {
    issuer: Issuer<'static, KeyPair>,
    der: CertificateDer<'static>,
    pem: String,
}

/// A client's certificates, its own first, and its key.
type Credentials = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

impl Authority {
    fn new(name: &str) -> Authority {
        let (key, params) = (KeyPair::generate().expect("a key"), Authority::params(name, &[]));
        let certificate = params.self_signed(&key).expect("a certificate");
        Authority { der: certificate.der().clone(), pem: certificate.pem(), issuer: Issuer::new(params, key) }
    }

    fn params(name: &str, names: &[String]) -> CertificateParams {
        let mut params = CertificateParams::new(names).expect("names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        params
    }

    /// An authority below it, with names in its certificate.
    fn below(&self, name: &str, names: &[String]) -> Authority {
        let (key, params) = (KeyPair::generate().expect("a key"), Authority::params(name, names));
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        Authority { der: certificate.der().clone(), pem: certificate.pem(), issuer: Issuer::new(params, key) }
    }

    fn issue(&self, names: &[String], serial: u64, last_year: i32) -> Credentials {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(names).expect("names");
        params.serial_number = Some(SerialNumber::from(serial));
        params.not_after = date_time_ymd(last_year, 12, 31);
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        (vec![certificate.der().clone()], PrivateKeyDer::try_from(key.serialize_der()).expect("PKCS 8"))
    }

    /// The list of the certificates that it revoked, for a year.
    fn revokes(&self, serial: u64, year: i32) -> String {
        let revoked = RevokedCertParams {
            serial_number: SerialNumber::from(serial),
            revocation_time: date_time_ymd(2020, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(2020, 1, 1),
            next_update: date_time_ymd(year, 12, 31),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: vec![revoked],
            key_identifier_method: KeyIdMethod::Sha256,
        };
        list.signed_by(&self.issuer).expect("a list").pem().expect("PEM")
    }
}

fn auth(mode: ClientAuthMode, authority: &Authority, lists: Option<&str>) -> ClientAuth {
    ClientAuth::from_pem(mode, authority.pem.as_bytes(), lists.map(str::as_bytes)).expect("they can be used")
}

fn rig(auth: Option<&ClientAuth>, credentials: Option<&Credentials>, version: TlsVersion) -> Rig {
    let certificate = certificate(&[NAME]);
    let certificates = std::slice::from_ref(&certificate);
    let settings = PolicySettings {
        certificates,
        default: 0,
        min_version: TlsVersion::Tls12,
        alpn: ALPN_HTTP,
        tickets: Tickets::new().expect("keys"),
        client_auth: auth,
    };
    let policy = Policy::new(settings).expect("a usable policy");
    let mut config = ClientConfig::clone(&client_config(&certificate, version, ALPN_HTTP));
    if let Some((chain, key)) = credentials {
        let certified = rustls::sign::CertifiedKey::from_der(chain.clone(), key.clone_key(), &provider());
        let own = rustls::sign::SingleCertAndKey::from(certified.expect("a pair"));
        config.client_auth_cert_resolver = Arc::new(own);
    }
    Rig { certificate, policy, config: config.into() }
}

/// What the server knows of the client. `Err`: why it is refused.
fn outcome(rig: &Rig) -> Result<ClientCertificate, String> {
    let (mut client, mut server) = rig.begin();
    while client.send_to(&mut server, usize::MAX) + server.send_to(&mut client, usize::MAX) > 0 {}
    match &server.end {
        Some(Err(fault)) => Err(fault.to_string()),
        _ => Ok(server.tls.handshake().expect("it is over").client_certificate),
    }
}

#[test]
fn a_certificate_is_taken_of_the_authorities_that_are_named_and_of_no_other() {
    let (ours, other) = (Authority::new("ours"), Authority::new("other"));
    let (known, foreign) = (ours.issue(&[], 1, YEAR), other.issue(&[], 2, YEAR));
    let leaf = ClientCertificate::Verified(known.0[0].as_ref().into());
    let [optional, required] = [ClientAuthMode::Optional, ClientAuthMode::Required].map(|mode| auth(mode, &ours, None));
    for version in VERSIONS {
        let outcome = |auth: Option<&ClientAuth>, credentials| outcome(&rig(auth, credentials, version));
        assert_eq!(outcome(Some(&required), Some(&known)), Ok(leaf.clone()), "{version:?}");
        assert_eq!(outcome(Some(&optional), Some(&known)), Ok(leaf.clone()), "{version:?}");
        assert_eq!(outcome(Some(&optional), None), Ok(ClientCertificate::Absent), "{version:?}");
        assert_eq!(outcome(None, Some(&known)), Ok(ClientCertificate::NotRequested), "{version:?}");
        let refused = |auth, credentials| outcome(Some(auth), credentials).expect_err("refused");
        assert_eq!(refused(&required, None), "peer sent no certificates", "{version:?}");
        for auth in [&optional, &required] {
            let why = refused(auth, Some(&foreign));
            assert!(why.contains("UnknownIssuer"), "{version:?}: {why}");
        }
    }
}

#[test]
fn one_that_is_revoked_or_expired_by_the_clock_of_the_worker_is_refused() {
    let ours = Authority::new("ours");
    let [good, revoked] = [1, 2].map(|serial| ours.issue(&[], serial, YEAR));
    let expired = ours.issue(&[], 3, YEAR - 1);
    let (list, old) = (ours.revokes(2, YEAR), ours.revokes(2, YEAR - 1));
    let [auth, late] = [list, old].map(|list| auth(ClientAuthMode::Required, &ours, Some(&list)));
    assert_eq!(auth.warnings(NOW), Vec::<String>::new());
    let warning = &late.warnings(NOW)[..];
    assert!(matches!(warning, [line] if line.contains("CN=ours") && line.contains("is out of date")), "{warning:?}");
    for version in VERSIONS {
        let outcome = |auth, credentials| outcome(&rig(Some(auth), Some(credentials), version));
        assert!(matches!(outcome(&auth, &good), Ok(ClientCertificate::Verified(_))), "{version:?}");
        let cases =
            [(&auth, &revoked, "Revoked"), (&auth, &expired, "expired"), (&late, &good, "revocation list expired")];
        for (auth, credentials, expected) in cases {
            let why = outcome(auth, credentials).expect_err(expected);
            assert!(why.contains(expected), "{version:?}: {expected}: {why}");
        }
    }
}

fn names(len: usize) -> Vec<String> {
    (0..len / 42).map(|n| format!("{n:03}.clients-of-a-long-name.example.com.test")).collect()
}

#[test]
fn the_longest_chain_is_taken_and_resumed_and_a_longer_one_refused_with_its_length() {
    let ours = Authority::new("ours");
    let middle = ours.below("middle", &names(3_500));
    let last = middle.below("last", &names(3_500));
    let mut long = last.issue(&names(3_100), 1, YEAR);
    long.0.extend([last.der.clone(), middle.der.clone()]);
    let len = long.0.iter().map(|der| der.len()).sum::<usize>();
    assert!((CHAIN_MAX - 1500..CHAIN_MAX).contains(&len), "{len} bytes: not near the limit");
    let auth = auth(ClientAuthMode::Required, &ours, None);
    for version in VERSIONS {
        let rig = rig(Some(&auth), Some(&long), version);
        let resumption = || {
            let (mut client, mut server) = rig.established();
            server.say(b"tickets leave with this", &mut client, usize::MAX);
            let info = server.tls.handshake().expect("it is over");
            assert_eq!(info.client_certificate, ClientCertificate::Verified(long.0[0].as_ref().into()));
            info.resumption
        };
        assert_eq!([resumption(), resumption()], [Resumption::Full, Resumption::Resumed], "{version:?}");
        let mut longer = (long.0.clone(), long.1.clone_key());
        longer.0.push(middle.der.clone());
        let leaf = ours.issue(&names(LEAF_MAX), 2, YEAR);
        for (credentials, limit) in [(&longer, CHAIN_MAX), (&leaf, LEAF_MAX)] {
            let why = outcome(&self::rig(Some(&auth), Some(credentials), version)).expect_err("too long");
            assert!(why.contains(&format!("at most {limit} are taken")), "{version:?}: {why}");
        }
    }
}

#[test]
fn clients_are_told_of_no_authorities_where_there_are_too_many() {
    let authorities: Vec<Authority> = (0..500).map(|n| Authority::new(&format!("authority {n}"))).collect();
    let pem: String = authorities.iter().map(|authority| authority.pem.as_str()).collect();
    let auth = ClientAuth::from_pem(ClientAuthMode::Required, pem.as_bytes(), None).expect("they can be used");
    assert!(auth.verifier().root_hint_subjects().is_empty());
    for version in VERSIONS {
        let credentials = authorities[499].issue(&[], 1, YEAR);
        assert!(outcome(&rig(Some(&auth), Some(&credentials), version)).is_ok(), "{version:?}");
    }
}

#[test]
fn what_cannot_be_used_is_blamed_on_its_file() {
    let ours = Authority::new("ours");
    let torn = ours.revokes(1, YEAR).replacen('M', "", 1);
    let from = |ca: &str, lists: Option<&str>| {
        ClientAuth::from_pem(ClientAuthMode::Optional, ca.as_bytes(), lists.map(str::as_bytes)).map(drop)
    };
    let authorities = |why: &str| Err(ClientAuthFault::Authorities(why.into()));
    let lists = |why: &str| Err(ClientAuthFault::RevocationLists(why.into()));
    assert_eq!(from("", None), authorities("no certificate is in it"));
    assert_eq!(from(&ours.pem, Some(&ours.pem)), lists("no revocation list (X509 CRL) is in it"));
    assert!(matches!(from(&ours.pem, Some(&torn)), Err(ClientAuthFault::RevocationLists(_))));
    let same = |lists: Option<&str>| auth(ClientAuthMode::Optional, &ours, lists);
    assert!(same(None) == same(None) && same(None) != same(Some(&ours.revokes(1, YEAR))));
    assert!(same(None) != auth(ClientAuthMode::Required, &ours, None));
}
