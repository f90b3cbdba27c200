//! What is answered to an ACME server (RFC 8555) while it checks that our names lead to us. It is immutable and shared by all
//! workers; accounts, orders and certificates for clients never enter.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::head::{self, Request};
use super::tls::challenge::ChallengePolicy;

/// Where the content of a token is asked for (RFC 8555 section 8.3).
const PATH: &str = "/.well-known/acme-challenge/";

/// Those of the orders under way.
#[derive(Clone, Debug, Default)]
pub struct Challenges {
    /// Of http-01, by token.
    contents: BTreeMap<String, String>,
    /// Of tls-alpn-01.
    tls: Option<Arc<ChallengePolicy>>,
}

impl Challenges {
    pub fn http(contents: BTreeMap<String, String>) -> Challenges {
        Challenges { contents, tls: None }
    }

    pub fn tls(policy: Arc<ChallengePolicy>) -> Challenges {
        Challenges { contents: BTreeMap::new(), tls: Some(policy) }
    }

    /// What this request is answered, if it asks for a token of ours.
    pub fn content(&self, request: &Request) -> Option<&str> {
        let token = head::origin_form(request.target).strip_prefix(PATH)?;
        self.contents.get(token).filter(|_| request.method == "GET").map(String::as_str)
    }

    /// For connections that begin now.
    pub fn policy(&self) -> Option<&Arc<ChallengePolicy>> {
        self.tls.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::limits::Limits;
    use crate::core::routes::{Redirect, RouteKey};
    use crate::core::snapshot::{Destination, Listener, ListenerId, Mode, ServiceId, Snapshot};

    #[test]
    fn a_pending_token_is_answered_and_no_other_path_and_method() {
        let challenges = Challenges::http(BTreeMap::from([("abc".into(), "abc.key".into())]));
        let ask = |method, target| challenges.content(&Request { method, target, minor: 1, fields: &[] });
        assert_eq!(ask("GET", "/.well-known/acme-challenge/abc"), Some("abc.key"));
        assert_eq!(ask("GET", "http://shop.example.com/.well-known/acme-challenge/abc"), Some("abc.key"));
        for (method, target) in [
            ("HEAD", "/.well-known/acme-challenge/abc"),
            ("GET", "/.well-known/acme-challenge/abcd"),
            ("GET", "/.well-known/acme-challenge/"),
            ("GET", "/.well-known/acme-challenge/abc/"),
            ("GET", "/abc"),
        ] {
            assert_eq!(ask(method, target), None, "{method} {target}");
        }
    }

    /// It comes before a redirection, which is for all other paths.
    #[test]
    fn a_listener_that_redirects_answers_too() {
        let listener = Listener::to(ServiceId(0), "plain".into(), Mode::Http, Arc::new(Limits::DEFAULT));
        let redirect = Some(Redirect { status: 308, location: "https://{host}{uri}".into() });
        let challenges = Challenges::http(BTreeMap::from([("abc".into(), "abc.key".into())]));
        let snapshot = Snapshot {
            listeners: vec![Arc::new(Listener { redirect, ..listener })],
            challenges: Some(challenges.into()),
            ..Snapshot::empty(1)
        };
        let ask = |target, told: fn(Option<Destination<'_>>) -> bool| {
            let request = Request { method: "GET", target, minor: 1, fields: &[] };
            told(snapshot.destination(&RouteKey { listener: ListenerId(0), request: &request }, || 0))
        };
        assert!(ask("/.well-known/acme-challenge/abc", |to| matches!(to, Some(Destination::Challenge("abc.key")))));
        assert!(ask("/.well-known/acme-challenge/other", |to| matches!(to, Some(Destination::Redirect(_)))));
    }
}
