//! One order of a certificate (RFC 8555 section 7): from the account to chain and key. When it is placed, and where they are
//! kept, is decided elsewhere.

use std::collections::BTreeMap;
use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

use instant_acme::{
    Account, AccountCredentials, AuthorizationStatus, ChallengeType, Error, Identifier, KeyAuthorization, NewAccount,
    NewOrder, Order, OrderStatus, Problem, RetryPolicy,
};
use rcgen::{CertificateParams, CustomExtension, DistinguishedName, KeyPair};

use super::http::{AcmeHttp, RetryAfter};
use super::storage::Storage;
use super::{AcmePlan, WantedCertificate};
use crate::core::challenges::Challenges;
use crate::core::tls::certificate::Certificate;
use crate::core::tls::challenge::{ChallengeCertificate, ChallengePolicy};
use crate::settings::ChallengeKind;

/// How the state of an order is looked at, until it is known to have failed.
const POLLS: RetryPolicy =
    RetryPolicy::new().initial_delay(Duration::from_millis(250)).backoff(1.5).timeout(Duration::from_secs(90));

/// Why there is no certificate.
#[derive(Debug)]
pub enum OrderError {
    /// The server wants another nonce: the same may succeed at once.
    BadNonce,
    /// The server has no such account any more.
    UnknownAccount,
    Other(String),
}

/// What proves one name.
struct Proof {
    name: String,
    token: String,
    key_authorization: KeyAuthorization,
}

/// The account of the plan's contact; it is made where there is none.
pub async fn account(plan: &AcmePlan, storage: &Storage, retry_after: &RetryAfter) -> Result<Account, OrderError> {
    let email = plan.email.as_deref();
    let http = AcmeHttp::new(&plan.roots, retry_after.clone()).map_err(|fault| OrderError::Other(fault.to_string()))?;
    let builder = Account::builder_with_http(Box::new(http));
    let in_file = |why: String| OrderError::Other(format!("{}: {why}", storage.account_file(email).display()));
    if let Some(known) = storage.account(email).map_err(|error| in_file(error.to_string()))? {
        let credentials: AccountCredentials = serde_json::from_slice(&known)
            .map_err(|error| in_file(format!("this is no account: {error}; remove it for another one")))?;
        return Ok(builder.from_credentials(credentials).await?);
    }
    let contact = email.map(|email| format!("mailto:{email}"));
    let contact: Vec<&str> = contact.as_deref().into_iter().collect();
    let new = NewAccount { contact: &contact, terms_of_service_agreed: true, only_return_existing: false };
    let (account, credentials) = builder.create(&new, plan.directory.clone(), None).await?;
    let text = serde_json::to_vec(&credentials).map_err(|error| in_file(error.to_string()))?;
    storage.save_account(email, &text).map_err(|error| in_file(error.to_string()))?;
    log::info!(target: "ringway", "ACME: account {} at {}", account.id(), plan.directory);
    Ok(account)
}

/// Chain and key in PEM. `publish` returns when every worker answers the challenges.
pub async fn obtain(
    account: &Account,
    wanted: &WantedCertificate,
    publish: impl AsyncFnOnce(Challenges) -> Result<(), OrderError>,
) -> Result<String, OrderError> {
    let identifiers: Vec<Identifier> = wanted.names.iter().cloned().map(Identifier::Dns).collect();
    let mut order = account.new_order(&NewOrder::new(&identifiers)).await?;
    let proofs = proofs(&mut order, wanted.challenge).await?;
    if !proofs.is_empty() {
        publish(challenges(wanted.challenge, proofs)?).await?;
        begin_validation(&mut order, wanted.challenge).await?;
    }
    match order.poll_ready(&POLLS).await {
        Ok(OrderStatus::Ready) => {}
        Ok(_) => {
            return Err(failed_validation(&mut order)
                .await
                .unwrap_or_else(|| "the order is invalid".to_owned())
                .into());
        }
        Err(error) => return Err(failed_validation(&mut order).await.map_or_else(|| error.into(), OrderError::Other)),
    }
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(wanted.names.clone())?;
    params.distinguished_name = DistinguishedName::new();
    order.finalize_csr(params.serialize_request(&key)?.der()).await?;
    let chain = order.poll_certificate(&POLLS).await?;
    let pair = format!("{}\n{}", chain.trim_end(), key.serialize_pem());
    let certificate = Certificate::from_pem(pair.as_bytes(), pair.as_bytes())
        .map_err(|fault| format!("what the server issued cannot be used: {fault}"))?;
    match wanted.names.iter().find(|name| !certificate.names.contains(name)) {
        Some(missing) => Err(format!("what the server issued is not for {missing}").into()),
        None => Ok(pair),
    }
}

/// Of the names that are not proved yet.
async fn proofs(order: &mut Order, kind: ChallengeKind) -> Result<Vec<Proof>, OrderError> {
    let (mut proofs, mut authorizations) = (Vec::new(), order.authorizations());
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization?;
        let name = authorization.identifier().to_string();
        match authorization.status {
            AuthorizationStatus::Valid => continue,
            AuthorizationStatus::Pending => {}
            status => return Err(format!("{name}: its authorization is {status:?}").into()),
        }
        let Some(challenge) = authorization.challenge(challenge_type(kind)) else {
            return Err(format!("{name}: the server offers no challenge {}", kind.name()).into());
        };
        proofs.push(Proof { name, token: challenge.token.clone(), key_authorization: challenge.key_authorization() });
    }
    Ok(proofs)
}

/// The server may look now.
async fn begin_validation(order: &mut Order, kind: ChallengeKind) -> Result<(), OrderError> {
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization?;
        if authorization.status == AuthorizationStatus::Pending
            && let Some(mut challenge) = authorization.challenge(challenge_type(kind))
        {
            challenge.set_ready().await?;
        }
    }
    Ok(())
}

/// What the server says of the first name that it could not validate.
async fn failed_validation(order: &mut Order) -> Option<String> {
    let mut authorizations = order.authorizations();
    while let Some(Ok(mut authorization)) = authorizations.next().await {
        if let Ok(state) = authorization.refresh().await
            && let Some(problem) = state.challenges.iter().find_map(|challenge| challenge.error.as_ref())
        {
            return Some(format!("{}: {}", state.identifier(), text_of(problem)));
        }
    }
    None
}

fn challenges(kind: ChallengeKind, proofs: Vec<Proof>) -> Result<Challenges, OrderError> {
    match kind {
        ChallengeKind::Http01 => {
            let content = |proof: Proof| (proof.token, proof.key_authorization.as_str().to_owned());
            Ok(Challenges::http(proofs.into_iter().map(content).collect::<BTreeMap<_, _>>()))
        }
        ChallengeKind::TlsAlpn01 => {
            let certificates = proofs.into_iter().map(challenge_certificate).collect::<Result<_, _>>()?;
            let policy = ChallengePolicy::new(certificates).map_err(|fault| fault.to_string())?;
            Ok(Challenges::tls(policy.into()))
        }
    }
}

/// RFC 8737 section 3.
fn challenge_certificate(proof: Proof) -> Result<ChallengeCertificate, rcgen::Error> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new([proof.name.clone()])?;
    let digest = proof.key_authorization.digest();
    params.custom_extensions = vec![CustomExtension::new_acme_identifier(digest.as_ref())];
    let certificate = params.self_signed(&key)?;
    Ok(ChallengeCertificate { name: proof.name, certificate: certificate.der().to_vec(), key: key.serialize_der() })
}

fn challenge_type(kind: ChallengeKind) -> ChallengeType {
    match kind {
        ChallengeKind::Http01 => ChallengeType::Http01,
        ChallengeKind::TlsAlpn01 => ChallengeType::TlsAlpn01,
    }
}

/// Of a problem document (RFC 8555 section 6.7).
fn text_of(problem: &Problem) -> String {
    let detail = problem.detail.as_deref().unwrap_or("the server says no more");
    let kind = problem.r#type.as_deref().map(short).unwrap_or_default();
    let of_names = problem.subproblems.iter().map(|of_name| format!("; {of_name}"));
    format!("{detail} ({kind}){}", of_names.collect::<String>())
}

fn short(kind: &str) -> &str {
    kind.strip_prefix("urn:ietf:params:acme:error:").unwrap_or(kind)
}

impl From<Error> for OrderError {
    fn from(error: Error) -> OrderError {
        let Error::Api(problem) = &error else { return OrderError::Other(with_causes(&error)) };
        match problem.r#type.as_deref().map(short) {
            Some("badNonce") => OrderError::BadNonce,
            Some("accountDoesNotExist") => OrderError::UnknownAccount,
            _ => OrderError::Other(text_of(problem)),
        }
    }
}

impl From<rcgen::Error> for OrderError {
    fn from(error: rcgen::Error) -> OrderError {
        OrderError::Other(error.to_string())
    }
}

impl From<String> for OrderError {
    fn from(why: String) -> OrderError {
        OrderError::Other(why)
    }
}

impl fmt::Display for OrderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OrderError::BadNonce => f.write_str("the server refuses each nonce"),
            OrderError::UnknownAccount => f.write_str("the server does not know the account"),
            OrderError::Other(why) => f.write_str(why),
        }
    }
}

/// hyper says what failed in the causes of its errors.
fn with_causes(error: &dyn StdError) -> String {
    let (mut text, mut cause) = (error.to_string(), error.source());
    while let Some(error) = cause {
        let why = error.to_string();
        if !text.ends_with(&why) {
            text.push_str(&format!(": {why}"));
        }
        cause = error.source();
    }
    text
}
