//! The oracle of failed requests: in a calm world, a correct client gets the response to every request, and its
//! connection persists. The exceptions are those that follow from virtual time, and each is named.

use super::super::net::Net;
use super::super::request::Request;
use super::{Behavior, Client};

/// A request whose last byte was sent so shortly before the stop may arrive after it.
const ARRIVAL_MAX_US: u64 = 300_000;
/// A response so shortly before the drain timeout may arrive after it.
const DRAIN_SLACK_US: u64 = 1_000_000;

impl Client {
    pub(super) fn check_may_fail(&self, net: &Net, id: u64, what: &str) {
        let request = &net.history.requests[id as usize];
        let excused = !net.faults.calm
            || self.behavior != Behavior::Correct
            || (net.aborts_on_close && self.half_closed)
            || self.is_stopped(net, request)
            || (what == "got 504" && is_late_request(net, request))
            || (net.history.max_connections > 0 && (what == "got 503" || is_unserved_tunnel(request, what)))
            || self.is_idle_closed(net, request)
            || is_removed(net, request);
        assert!(excused, "a calm world, and client {} (request {id}) {what}", self.me);
    }

    /// Its process of the balancer stops, and the request arrived too late, waits unread behind a response, or meets the drain
    /// timeout.
    fn is_stopped(&self, net: &Net, request: &Request) -> bool {
        let at_us = net.history.stops_since_us(self.process(net));
        at_us.is_some_and(|at_us| {
            let late = !request.sent_whole || request.sent_whole_at_us + ARRIVAL_MAX_US > at_us;
            let unread = self.pipeline_depth > 1 && request.arrivals == 0;
            late || unread || net.now_us + DRAIN_SLACK_US > at_us + net.history.drain_ms * 1000
        })
    }

    /// The last response took longer to arrive than the idle timeout: the next request meets a closed connection.
    fn is_idle_closed(&self, net: &Net, request: &Request) -> bool {
        let closed_at_us = net.history.idle_closed.get(&self.me);
        closed_at_us.is_some_and(|at_us| request.sent_at_us.is_none_or(|sent_us| *at_us <= sent_us))
    }
}

/// The response timeout begins when the kernel takes the request's last byte. A slow network may need so much of it
/// that the replica cannot answer in time.
fn is_late_request(net: &Net, request: &Request) -> bool {
    let due_us =
        request.received_whole_at_us.map(|at_us| at_us + request.plan.delay_us + 4 * net.faults.max_latency_us);
    due_us.is_none_or(|due_us| net.now_us < due_us)
}

/// A replica that `/rm` or a reload removes ends at the drain timeout, whatever it still does.
fn is_removed(net: &Net, request: &Request) -> bool {
    let timeout_us = net.history.drain_ms * 1000;
    net.history.has_removals && request.sent_at_us.is_some_and(|sent_us| net.now_us >= sent_us + timeout_us)
}

/// It waited in vain for room at a replica: bytes have no 503.
fn is_unserved_tunnel(request: &Request, what: &str) -> bool {
    what == "has a broken tunnel" && request.arrivals == 0
}
