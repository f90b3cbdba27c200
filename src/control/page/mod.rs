//! The live page: one document without other assets, and a stream of server-sent events that updates it. It changes
//! nothing. The document contains no data and is public; the stream requires the token.
//!
//! | file | holds |
//! |---|---|
//! | `mod.rs` | the document with its Content-Security-Policy; `Recent`: the last log lines, and the last overview; the task that feeds each stream once a second, and the limit of streams; the streaming body and its frames, lines already seen |
//! | `overview` | what all pages show, made once for them: the snapshot, the registry's status, the event of the totals; latencies since the one before |
//! | `events` | the text of each event as JSON: `totals` (sums over the workers' counters, one line for each service), and of the service that a page shows `ring` (size, names, points) and `replicas` (each with its share); log lines; pure |

mod events;
mod overview;

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
use tokio::task::spawn_blocking;
use tokio::time::{MissedTickBehavior, interval};

use self::overview::{Overview, OverviewCache};
use super::admin::AdminState;
use crate::core::ring::Ring;
use crate::core::snapshot::{Service, ServiceId};

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

/// What pages share: the registry's last log lines, each with its time, and the last overview.
#[derive(Clone, Default)]
pub struct Recent {
    lines: Arc<Mutex<Lines>>,
    overview: Arc<OverviewCache>,
}

#[derive(Default)]
struct Lines {
    kept: VecDeque<(u64, String)>,
    count: u64,
}

impl Recent {
    pub fn push(&self, line: String) {
        let at = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.kept.len() == LINES_LIMIT {
            lines.kept.pop_front();
        }
        lines.kept.push_back((at, line));
        lines.count += 1;
    }

    /// The lines after the first `seen`, and the number of all so far.
    fn after(&self, seen: u64) -> (Vec<(u64, String)>, u64) {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let new = (lines.count - seen).min(lines.kept.len() as u64) as usize;
        (lines.kept.iter().skip(lines.kept.len() - new).cloned().collect(), lines.count)
    }
}

pub fn document() -> Response {
    let headers =
        [(CONTENT_TYPE, "text/html; charset=utf-8"), (CONTENT_SECURITY_POLICY, POLICY), (CACHE_CONTROL, "no-store")];
    (headers, DOCUMENT).into_response()
}

/// What a page shows in detail; `None`: the first service. Ends when the client closes, the service is removed or the
/// balancer ends. `None` is returned where as many are open as may be.
pub fn stream(state: AdminState, service: Option<ServiceId>) -> Option<Response> {
    static FREE: Semaphore = Semaphore::const_new(STREAMS_LIMIT);
    let permit = FREE.try_acquire().ok()?;
    let (sender, events) = channel(BACKLOG);
    tokio::spawn(async move {
        feed(state, service, sender).await;
        drop(permit);
    });
    let headers = [(CONTENT_TYPE, "text/event-stream"), (CACHE_CONTROL, "no-store")];
    Some((headers, Body::new(EventBody(events))).into_response())
}

async fn feed(state: AdminState, service: Option<ServiceId>, events: Sender<Bytes>) {
    let (mut drawn, mut seen) = (None, 0);
    let mut clock = interval(PERIOD);
    clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        clock.tick().await;
        let Some(overview) = state.recent.overview.current(&state).await else { return };
        let (lines, count) = state.recent.after(seen);
        seen = count;
        let mut text: String = lines.iter().map(events::line).collect();
        text += &overview.event;
        let shown = shown(&overview, service);
        if let Some((id, shown)) = shown {
            text += &detail(&state, &overview, id, shown, &mut drawn).await;
        }
        let is_removed = service.is_some() && shown.is_none();
        if events.send(text.into()).await.is_err() || is_removed {
            return;
        }
    }
}

/// The service to show, or the first one. One that was removed is none.
fn shown(overview: &Overview, wanted: Option<ServiceId>) -> Option<(ServiceId, &Service)> {
    let mut ids = overview.status.services.iter().filter(|service| !service.is_removed).map(|service| service.id);
    let id = ids.find(|id| wanted.is_none_or(|wanted| wanted == *id))?;
    Some((id, overview.snapshot.service(id)?))
}

/// The ring where it is not the one that the page has drawn, and the replicas.
async fn detail(
    state: &AdminState,
    overview: &Overview,
    id: ServiceId,
    service: &Service,
    drawn: &mut Option<Arc<Ring>>,
) -> String {
    let mut text = String::new();
    // The ring itself, not an equal one: it is shared by snapshots that differ in health only.
    if !drawn.as_ref().is_some_and(|drawn| Arc::ptr_eq(drawn, &service.ring)) {
        text += &events::ring(service);
        *drawn = Some(service.ring.clone());
    }
    // Computed once for each ring; for a large one it takes a while.
    let rings = state.rings.clone();
    let facts = spawn_blocking(move || rings.facts_of(id)).await.ok().flatten();
    text + &events::replicas(service, &overview.status, facts.as_ref().map_or(&[], |facts| &facts.shares))
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
