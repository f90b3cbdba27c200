//! When certificates and revocation lists expire, and the log lines that say so: ahead of time for certificates. Each is said
//! once. No file is read here.

use std::collections::BTreeMap;

use log::Level;

use super::tls::TlsPolicies;
use crate::core::tls::client_auth::LATE_LIST;

const DAY: u64 = 24 * 3600;
/// Days ahead at which a line is written.
const STAGES: [u64; 4] = [30, 7, 1, 0];

/// What expires, of a listener.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Expiring {
    /// By the name of its files.
    Certificate(String),
    /// By its issuer. Its time may be hours: nothing is said ahead.
    RevocationList(String),
}

/// A listener, what expires of it, and when.
type Expiry = (String, Expiring, u64);

/// How many stages each has passed.
#[derive(Debug, Default)]
pub struct ExpiryLog(BTreeMap<Expiry, usize>);

impl ExpiryLog {
    /// What is to be said now.
    pub fn lines(&mut self, listeners: &TlsPolicies, unix_seconds: u64) -> Vec<(Level, String)> {
        let expiries = listeners.each().flat_map(|(name, listener)| {
            let certificates = listener.set.certificates.iter();
            let certificates = certificates.map(|one| (Expiring::Certificate(one.pair.clone()), one.expires));
            let lists = listener.client_auth.iter().flat_map(|auth| auth.next_updates());
            let lists = lists.map(|(issuer, until)| (Expiring::RevocationList(issuer.into()), until));
            certificates.chain(lists).map(|(what, at)| (name.clone(), what, at))
        });
        self.lines_of(expiries, unix_seconds)
    }

    /// Those that are not among them any more are forgotten.
    fn lines_of(&mut self, expiries: impl Iterator<Item = Expiry>, unix_seconds: u64) -> Vec<(Level, String)> {
        let (mut now, mut lines) = (BTreeMap::new(), Vec::new());
        for expiry in expiries {
            let stage = stage(&expiry, unix_seconds);
            if stage > self.0.get(&expiry).copied().unwrap_or(0) {
                lines.push(line(&expiry, unix_seconds));
            }
            now.insert(expiry, stage);
        }
        self.0 = now;
        lines
    }
}

fn stage((_, what, at): &Expiry, unix_seconds: u64) -> usize {
    match what {
        Expiring::Certificate(_) => STAGES.iter().filter(|days| *at <= unix_seconds + **days * DAY).count(),
        Expiring::RevocationList(_) => usize::from(*at <= unix_seconds),
    }
}

fn line((listener, what, at): &Expiry, unix_seconds: u64) -> (Level, String) {
    let date = date(*at);
    let (level, said) = match (what, at.saturating_sub(unix_seconds)) {
        (Expiring::RevocationList(issuer), _) => {
            (Level::Error, format!("the revocation list of {issuer} is out of date since {date}: {LATE_LIST}"))
        }
        (Expiring::Certificate(pair), 0) => {
            (Level::Error, format!("certificate {pair} expired on {date}: clients refuse it"))
        }
        (Expiring::Certificate(pair), left @ 1..DAY) => {
            (Level::Warn, format!("certificate {pair} expires within {} hours, on {date}", left.div_ceil(3600)))
        }
        (Expiring::Certificate(pair), left) => {
            (Level::Warn, format!("certificate {pair} expires in {} days, on {date}", left / DAY))
        }
    };
    (level, format!("listener {listener}: {said}"))
}

/// Of seconds since 1970, in UTC.
pub fn date(seconds: u64) -> String {
    let date = i64::try_from(seconds).ok().and_then(|seconds| jiff::Timestamp::from_second(seconds).ok());
    date.map_or_else(|| "a date beyond the calendar".into(), |date| date.strftime("%Y-%m-%d").to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_stage_is_said_once_and_another_certificate_begins_anew() {
        let expires = 1_800_000_000;
        let mut log = ExpiryLog::default();
        let mut at = |expires: u64, now: u64| {
            let one = ("web".to_string(), Expiring::Certificate("shop".into()), expires);
            let lines = log.lines_of(std::iter::once(one), now).into_iter().map(|(_, line)| line);
            lines.collect::<Vec<_>>().join("; ")
        };
        assert_eq!(at(expires, expires - 31 * DAY), "");
        let days = |days: &str| format!("listener web: certificate shop expires in {days} days, on 2027-01-15");
        assert_eq!(at(expires, expires - 30 * DAY), days("30"));
        assert_eq!(at(expires, expires - 8 * DAY), "");
        assert_eq!(at(expires, expires - 5 * DAY), days("5"));
        assert_eq!(at(expires, expires - 7200), "listener web: certificate shop expires within 2 hours, on 2027-01-15");
        assert_eq!(at(expires, expires), "listener web: certificate shop expired on 2027-01-15: clients refuse it");
        assert_eq!(at(expires, expires + DAY), "");
        assert_eq!(at(expires + 90 * DAY, expires + DAY), "", "it was renewed");
        assert_eq!(
            at(expires + 90 * DAY, expires + 89 * DAY),
            "listener web: certificate shop expires in 1 days, on 2027-04-15"
        );
    }

    #[test]
    fn a_revocation_list_is_named_once_when_it_is_out_of_date() {
        let until = 1_800_000_000;
        let mut log = ExpiryLog::default();
        let mut at = |now: u64| {
            log.lines_of(std::iter::once(("web".into(), Expiring::RevocationList("CN=ours".into()), until)), now)
        };
        assert_eq!(at(until - 1), []);
        let line = "listener web: the revocation list of CN=ours is out of date since 2027-01-15: its clients are refused \
                    until there is a new one";
        assert_eq!(at(until), [(Level::Error, line.into())]);
        assert_eq!(at(until + DAY), []);
    }

    #[test]
    fn a_date_that_no_calendar_has_is_none() {
        assert_eq!((date(0), date(u64::MAX)), ("1970-01-01".into(), "a date beyond the calendar".into()));
    }
}
