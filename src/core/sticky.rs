//! Sticky sessions: a cookie of ours that leads a client back to the replica where its session began. Its value is a MAC over
//! the names of service and replica: it tells nothing of either, and only this balancer can make one. Which replica a request
//! goes to is decided elsewhere.

use std::fmt;
use std::sync::Arc;

use ::ring::hmac;
use ::ring::rand::{SecureRandom, SystemRandom};
use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine};

use super::head::Fields;
use super::key;
use super::request::Scheme;
use super::snapshot::{Replica, ReplicaId, Service};

/// Of the MAC, which is cut to 128 bits (RFC 2104 section 5).
const VALUE_BYTES: usize = 16;
pub const KEY_BYTES: usize = 32;

/// The same for all services, over reloads and upgrades.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct StickyKey(pub [u8; KEY_BYTES]);

/// Of one service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StickyPolicy {
    pub cookie: String,
    pub key: StickyKey,
}

impl StickyPolicy {
    /// What the cookie says of this replica.
    pub fn value(&self, service: &str, replica: &str) -> Arc<str> {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &self.key.0);
        let mut context = hmac::Context::with_key(&key);
        // No name has a zero byte.
        [service, "\0", replica].iter().for_each(|part| context.update(part.as_bytes()));
        let tag = context.sign();
        BASE64_URL_SAFE_NO_PAD.encode(tag.as_ref().get(..VALUE_BYTES).unwrap_or_default()).into()
    }
}

/// The member of `service` that the request's cookie names.
#[cold]
#[inline(never)]
pub fn named(service: &Service, policy: &StickyPolicy, fields: Fields) -> Option<ReplicaId> {
    let value = key::cookie(fields, &policy.cookie)?;
    let names = |replica: &&Replica| replica.sticky.as_deref().is_some_and(|own| own.as_bytes() == value);
    service.replicas.iter().find(names).map(|replica| replica.id)
}

/// Tells the client of the replica that answers (RFC 6265 section 4.1).
#[cold]
#[inline(never)]
pub fn set_cookie(service: &Service, policy: &StickyPolicy, replica: ReplicaId, scheme: Scheme) -> String {
    let answering = service.replicas.iter().find(|one| one.id == replica);
    let Some(value) = answering.and_then(|replica| replica.sticky.as_deref()) else { return String::new() };
    let secure = if scheme == Scheme::Https { "; Secure" } else { "" };
    format!("Set-Cookie: {}={value}; Path=/; HttpOnly; SameSite=Lax{secure}\r\n", policy.cookie)
}

impl StickyKey {
    pub fn random() -> Result<StickyKey, String> {
        let mut key = StickyKey::default();
        let filled = SystemRandom::new().fill(&mut key.0);
        filled.map(|()| key).map_err(|_| "the kernel gives no random numbers for the key of sticky cookies".into())
    }

    pub fn to_text(self) -> String {
        BASE64_URL_SAFE_NO_PAD.encode(self.0)
    }

    /// `None`: it is none.
    pub fn from_text(text: &str) -> Option<StickyKey> {
        Some(StickyKey(BASE64_URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok()?))
    }
}

impl fmt::Debug for StickyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StickyKey")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_handed_on_as_text() {
        let key = StickyKey::random().expect("random numbers");
        assert!(key == StickyKey::from_text(&key.to_text()).expect("the same") && key != StickyKey::default());
        assert_eq!([StickyKey::from_text(""), StickyKey::from_text("AAAA"), StickyKey::from_text("%")], [None; 3]);
    }

    fn policy(byte: u8) -> StickyPolicy {
        StickyPolicy { cookie: "sid".into(), key: StickyKey([byte; KEY_BYTES]) }
    }

    /// HMAC-SHA256 by another program: `printf 'shop\0server1' | openssl dgst -sha256 -mac HMAC -macopt hexkey:0101...`.
    #[test]
    fn a_value_is_a_mac_over_both_names() {
        assert_eq!(&*policy(1).value("shop", "server1"), "K1_bPG-O5CuGMyAibLiHpg");
        let values = [("shop", "server1"), ("shop", "server2"), ("blog", "server1"), ("shops", "erver1")];
        let mut values: Vec<Arc<str>> = values.iter().map(|(service, name)| policy(1).value(service, name)).collect();
        values.push(policy(2).value("shop", "server1"));
        values.sort();
        values.dedup();
        assert_eq!(values.len(), 5);
    }
}
