//! When certificates expire, and the log lines that say so ahead of time: each once. No file is read here.

use std::collections::BTreeMap;

use log::Level;

use super::tls::TlsPolicies;

const DAY: u64 = 24 * 3600;
/// Days ahead at which a line is written.
const STAGES: [u64; 4] = [30, 7, 1, 0];

/// How many stages each certificate has passed, by listener, pair and the time when it expires.
#[derive(Debug, Default)]
pub struct ExpiryLog(BTreeMap<(String, String, u64), usize>);

impl ExpiryLog {
    /// What is to be said now.
    pub fn lines(&mut self, listeners: &TlsPolicies, unix_seconds: u64) -> Vec<(Level, String)> {
        let certificates = listeners.each().flat_map(|(name, listener)| {
            listener.set.certificates.iter().map(move |one| (name.clone(), one.pair.clone(), one.expires))
        });
        self.lines_of(certificates, unix_seconds)
    }

    /// Certificates that are not among them any more are forgotten.
    fn lines_of(
        &mut self,
        certificates: impl Iterator<Item = (String, String, u64)>,
        unix_seconds: u64,
    ) -> Vec<(Level, String)> {
        let (mut now, mut lines) = (BTreeMap::new(), Vec::new());
        for key in certificates {
            let stage = stage(key.2, unix_seconds);
            if stage > self.0.get(&key).copied().unwrap_or(0) {
                lines.push(line(&key, unix_seconds));
            }
            now.insert(key, stage);
        }
        self.0 = now;
        lines
    }
}

fn stage(expires: u64, unix_seconds: u64) -> usize {
    STAGES.iter().filter(|days| expires <= unix_seconds + **days * DAY).count()
}

fn line((listener, pair, expires): &(String, String, u64), unix_seconds: u64) -> (Level, String) {
    let date = date(*expires);
    match expires.saturating_sub(unix_seconds) {
        0 => (Level::Error, format!("listener {listener}: certificate {pair} expired on {date}: clients refuse it")),
        left @ 1..DAY => {
            let hours = left.div_ceil(3600);
            (Level::Warn, format!("listener {listener}: certificate {pair} expires within {hours} hours, on {date}"))
        }
        left => {
            (Level::Warn, format!("listener {listener}: certificate {pair} expires in {} days, on {date}", left / DAY))
        }
    }
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
            let one = ("web".to_string(), "shop".to_string(), expires);
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
    fn a_date_that_no_calendar_has_is_none() {
        assert_eq!((date(0), date(u64::MAX)), ("1970-01-01".into(), "a date beyond the calendar".into()));
    }
}
