//! The live page: one document without other assets, and a stream of server-sent events that updates it. It changes
//! nothing. The document contains no data and is public; the stream requires the token.
//!
//! | file | holds |
//! |---|---|
//! | `mod.rs` | the document with its Content-Security-Policy; `Recent`, the last log lines; the task that feeds each stream once a second, and the limit of streams; the streaming body and its frames, lines already seen |
//! | `events` | the text of each event as JSON: `ring` (size, names, points), `now` (sums over the workers' counters: accepted, requests, bytes; deaths, heals, each replica with its share) and log lines; pure |

mod events;

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use axum::body::Body;
use axum::http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use hyper::body::{Bytes, Frame};
use tokio::sync::Semaphore;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::admin::AdminState;

const DOCUMENT: &str = include_str!("live.html");
/// No resource of another origin, no injection through a replica's name, and no frame around the form for the token.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; \
    img-src data:; form-action 'none'; base-uri 'none'; frame-ancestors 'none'";
/// Streams at once: each costs the admin thread some work in every period, and a connection.
pub const STREAMS_LIMIT: usize = 32;
const PERIOD: Duration = Duration::from_secs(1);
/// Events that wait for a slow reader before the stream waits too.
const BACKLOG: usize = 8;
/// Log lines kept for pages that are opened later.
const LINES_LIMIT: usize = 100;

/// The registry's last log lines, each with its time.
#[derive(Clone, Default)]
pub struct Recent(Arc<Mutex<Lines>>);

#[derive(Default)]
struct Lines {
    kept: VecDeque<(u64, String)>,
    count: u64,
}

impl Recent {
    pub fn push(&self, line: String) {
        let at = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.kept.len() == LINES_LIMIT {
            lines.kept.pop_front();
        }
        lines.kept.push_back((at, line));
        lines.count += 1;
    }

    /// The lines after the first `seen`, and the number of all so far.
    fn after(&self, seen: u64) -> (Vec<(u64, String)>, u64) {
        let lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let new = (lines.count - seen).min(lines.kept.len() as u64) as usize;
        (lines.kept.iter().skip(lines.kept.len() - new).cloned().collect(), lines.count)
    }
}

pub fn document() -> Response {
    let headers =
        [(CONTENT_TYPE, "text/html; charset=utf-8"), (CONTENT_SECURITY_POLICY, POLICY), (CACHE_CONTROL, "no-store")];
    (headers, DOCUMENT).into_response()
}

/// Ends when the client closes or the balancer ends. `None`: as many are open as may be.
pub fn stream(state: AdminState) -> Option<Response> {
    static FREE: Semaphore = Semaphore::const_new(STREAMS_LIMIT);
    let permit = FREE.try_acquire().ok()?;
    let (sender, events) = channel(BACKLOG);
    tokio::spawn(async move {
        feed(state, sender).await;
        drop(permit);
    });
    let headers = [(CONTENT_TYPE, "text/event-stream"), (CACHE_CONTROL, "no-store")];
    Some((headers, Body::new(EventBody(events))).into_response())
}

async fn feed(state: AdminState, events: Sender<Bytes>) {
    let (began, mut drawn, mut seen) = (Instant::now(), None, 0);
    let mut clock = interval(PERIOD);
    clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        clock.tick().await;
        let snapshot = state.snapshots.current();
        let mut text = String::new();
        let ring = snapshot.services.first().map(|service| service.ring.clone());
        // The ring itself, not an equal one: it is shared by snapshots that differ in health only.
        if let Some(ring) = ring
            && !drawn.as_ref().is_some_and(|drawn| Arc::ptr_eq(drawn, &ring))
        {
            text += &events::ring(&snapshot);
            drawn = Some(ring);
        }
        let (lines, count) = state.recent.after(seen);
        seen = count;
        lines.iter().for_each(|line| text += &events::line(line));
        let Ok(status) = state.status().await else { return };
        text += &events::now(&snapshot, &state, &status, began.elapsed());
        if events.send(text.into()).await.is_err() {
            return;
        }
    }
}

/// A response body that ends with its channel.
struct EventBody(Receiver<Bytes>);

impl hyper::body::Body for EventBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(context).map(|event| event.map(|bytes| Ok(Frame::data(bytes))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_gets_the_last_lines_and_then_only_new_ones() {
        let recent = Recent::default();
        (0..LINES_LIMIT + 5).for_each(|n| recent.push(n.to_string()));
        let (lines, seen) = recent.after(0);
        assert_eq!((lines.len(), &*lines[0].1), (LINES_LIMIT, "5"));
        assert_eq!(recent.after(seen).0.len(), 0);
        recent.push("new".into());
        assert_eq!(recent.after(seen).0[0].1, "new");
    }

    #[test]
    fn the_document_names_no_other_origin_and_sets_no_markup() {
        let urls = DOCUMENT.matches("http").count() - DOCUMENT.matches("http://www.w3.org/2000/svg").count();
        assert_eq!(urls, 0);
        assert!(!DOCUMENT.contains("innerHTML"), "names are text, never markup");
    }
}
