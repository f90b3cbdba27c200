//! The protocol: moves both lanes on, from one head to the next, as far as bytes at hand allow.

use super::{LINGER_MS, Session, Stage, UpstreamState};
use crate::core::body::Body;
use crate::core::context::Context;
use crate::core::exchange::{INTERIM_LIMIT, SHAREABLE_MAX};
use crate::core::head::{self, HeadScan, Refusal};
use crate::core::ip::IpText;
use crate::core::lane::Phase;
use crate::core::proxy;
use crate::core::request::{self, Origin, Own};
use crate::core::step::Notice;
use crate::core::{key, reply, response};

impl Session {
    /// Moves both lanes on until only I/O can.
    pub(super) fn advance(&mut self, cx: &mut Context) {
        while self.stage == Stage::Serving {
            self.advance_upload(cx);
            self.advance_download(cx);
            if self.exchange.tunnel {
                if self.upload.finished && self.download.finished {
                    self.stage = Stage::Closing { reset: false };
                }
                break;
            }
            let over = self.exchange.active && self.link == UpstreamState::None;
            if !over || self.download.phase != Phase::Done || !self.download.is_drained() {
                break;
            }
            self.end_exchange(cx);
        }
        if cx.snapshot.stopping {
            self.on_drain();
        }
        self.upload.reclaim(&mut cx.pool);
        self.download.reclaim(&mut cx.pool);
    }

    /// The bytes of the client go to its service as they are.
    pub(super) fn begin_tunnel(&mut self, cx: &mut Context) {
        let service = self.exchange.service;
        let fresh = cx.prng.next_u32();
        let key =
            cx.snapshot.service(service).map_or(fresh, |s| key::of(&s.key, b"", &[], self.client_ip.text(), fresh));
        self.exchange.begin(service, key);
        self.exchange.tunnel = true;
        self.open_tunnel();
        self.link = UpstreamState::Wanted { again: None, waits: false };
        self.arm(cx.now, cx.snapshot.limits(service).connect_timeout_ms);
    }

    /// Takes a PROXY header off the front, if one is due.
    fn read_proxy(&mut self, cx: &mut Context) -> Result<(), &'static str> {
        let Some((len, ends)) = proxy::read(self.upload.unscanned())? else { return Ok(()) };
        self.upload.skip(len);
        self.proxy_first = false;
        self.head_begun = self.upload.has_unscanned();
        if let Some(ends) = ends {
            self.ends = ends;
            self.client_ip = IpText::new(ends.source.ip());
            self.notice = Some(Notice::Named { client: ends.source.ip() });
        }
        if self.exchange.tunnel {
            self.begin_tunnel(cx);
        }
        Ok(())
    }

    fn advance_upload(&mut self, cx: &mut Context) {
        if self.proxy_first {
            if self.upload.has_unscanned()
                && let Err(why) = self.read_proxy(cx)
            {
                self.refused = Some(Notice::Refused { status: 0, why });
                self.stage = Stage::Closing { reset: true };
            }
            if self.proxy_first {
                return;
            }
        }
        if self.upload.phase == Phase::Head
            && !self.exchange.active
            && self.upload.has_unscanned()
            && let Err(refusal) = self.read_request(cx)
        {
            self.answer(refusal.status, refusal.why, cx);
        }
        if self.upload.phase == Phase::Body
            && let Err(fault) = self.upload.advance_body()
        {
            self.request_body_failed(fault.0, cx);
        }
        // The answer is here and its replica has gone: the rest of the request is read, so that the client comes to
        // hear it, and dropped.
        if self.link == UpstreamState::None && self.is_answered() {
            self.upload.drop_pending();
        }
    }

    fn advance_download(&mut self, cx: &mut Context) {
        while self.download.phase == Phase::Head && self.download.has_unscanned() && !self.download.has_pending() {
            match self.read_response(cx) {
                Ok(true) => {}
                Ok(false) => break,
                Err(why) => return self.bad_response(why, cx),
            }
        }
        if self.download.phase == Phase::Body && self.download.advance_body().is_err() {
            self.truncate();
        }
    }

    /// Reads a request head if it is here whole, and asks for a replica. Kept out of `advance`, which mostly has no head
    /// to read, for the room that a head's fields take on the stack.
    #[inline(never)]
    fn read_request(&mut self, cx: &mut Context) -> Result<(), Refusal> {
        let limits = cx.snapshot.first_limits();
        let mut scan: HeadScan = self.upload.head;
        let blank = scan.skip_blank(self.upload.unscanned())?;
        self.upload.skip(blank);
        let bytes = self.upload.unscanned();
        if HeadScan::is_hopeless(bytes) {
            return Err(head::refusal(400, "this is not HTTP/1"));
        }
        let whole = if HeadScan::is_blank_start(bytes) { None } else { scan.find(bytes, limits)? };
        self.upload.head = scan;
        let Some(len) = whole else { return self.head_awaited(blank, cx) };
        let head = self.upload.unscanned().get(..len).unwrap_or_default();
        let mut room = head::room();
        let request = head::parse_request(head, &mut room, limits)?;
        let target = head::origin_form(request.target).as_bytes();
        let index = cx.snapshot.routes.service(target);
        let service = cx.snapshot.service(index).ok_or(head::refusal(503, "no service is configured"))?;
        let client_ip = self.client_ip.text();
        let origin = Origin { client_ip, service: &service.name };
        cx.edits.clear();
        let plan = request::plan(head, &request, limits, origin, &mut cx.edits)?;
        let protocols = if plan.upgrade { head::value(request.fields, "upgrade").to_vec() } else { Vec::new() };
        let key = key::of(&service.key, target, request.fields, client_ip, cx.prng.next_u32());
        let edits = &cx.edits;
        self.upload.release_head(len, |store, from, to| edits.apply(store, from, to));
        self.upload.body = plan.body;
        self.upload.phase = Phase::Body;
        self.head_begun = false;
        self.exchange.begin(index, key);
        self.exchange.minor = plan.minor;
        self.exchange.keep_alive = plan.keep_alive;
        self.exchange.lingers = plan.keep_alive;
        self.exchange.is_head = plan.is_head;
        self.exchange.idempotent = plan.idempotent;
        self.exchange.upgrade = plan.upgrade;
        self.exchange.protocols = protocols;
        self.exchange.expects_continue = plan.expects;
        self.exchange.shareable =
            plan.safe && !plan.upgrade && len <= SHAREABLE_MAX && matches!(self.upload.body, Body::Empty);
        self.exchange.mark = Some(self.upload.mark());
        match plan.own {
            Some(Own::Options) => self.answer_with(reply::options(&cx.date_line)),
            Some(Own::Trace(request)) => self.answer_with(reply::trace(&request, &cx.date_line)),
            None => self.link = UpstreamState::Wanted { again: None, waits: false },
        }
        self.arm(cx.now, service.limits.connect_timeout_ms);
        Ok(())
    }

    /// The head is not here whole.
    fn head_awaited(&mut self, blank: usize, cx: &Context) -> Result<(), Refusal> {
        if self.upload.head.is_unversioned(self.upload.unscanned()) {
            return Err(head::UNVERSIONED);
        }
        if blank > 0 && !self.upload.has_unscanned() {
            // Empty lines after a request are no beginning of another one.
            self.head_begun = false;
            self.arm(cx.now, cx.snapshot.first_limits().idle_timeout_ms);
        }
        Ok(())
    }

    /// Reads a response head if it is here whole; true if there may be another one behind it.
    #[inline(never)]
    fn read_response(&mut self, cx: &mut Context) -> Result<bool, &'static str> {
        let limits = self.limits(&cx.snapshot);
        let mut scan = self.download.head;
        let whole = scan.find(self.download.unscanned(), limits).map_err(|refusal| refusal.why)?;
        self.download.head = scan;
        let Some(len) = whole else { return Ok(false) };
        let head = self.download.unscanned().get(..len).unwrap_or_default();
        let mut room = head::room();
        let parsed = head::parse_response(head, &mut room, limits)?;
        let mut asked = self.exchange.request_summary();
        asked.keep_alive &= !cx.snapshot.stopping && self.upload.phase == Phase::Done && !self.upload.ended;
        if parsed.status == 101 && !head::is_among(head::value(parsed.fields, "upgrade"), &self.exchange.protocols) {
            return Err("101 that was not asked for");
        }
        cx.edits.clear();
        let plan = response::plan(head, &parsed, asked, &cx.date_line, &mut cx.edits)?;
        self.download.head.reset();
        if plan.is_interim() {
            self.exchange.expects_continue &= plan.status != 100;
            self.exchange.interims += 1;
            if self.exchange.interims > INTERIM_LIMIT {
                return Err("too many interim responses");
            }
            self.exchange.request_sent_at = self.exchange.request_sent_at.map(|_| cx.now);
            self.arm(cx.now, limits.response_timeout_ms);
            if self.exchange.minor == 0 {
                self.download.skip(len);
                return Ok(true);
            }
        }
        let edits = &cx.edits;
        self.download.release_head(len, |store, from, to| edits.apply(store, from, to));
        if plan.is_interim() {
            return Ok(true);
        }
        cx.pool.forget(std::mem::take(&mut self.exchange.replay));
        self.exchange.keep_alive = plan.keep_alive;
        self.exchange.response_before_request_end = self.upload.phase != Phase::Done || !self.upload.is_drained();
        self.exchange.reusable =
            plan.reusable && cx.snapshot.service(self.exchange.service).is_some_and(|s| s.send_proxy.is_none());
        if self.exchange.response_before_request_end && self.exchange.expects_continue {
            self.refuse_body();
        }
        self.download.body = plan.body;
        self.download.phase = Phase::Body;
        if plan.status == 101 {
            self.exchange.tunnel = true;
            self.open_tunnel();
        }
        self.arm(cx.now, limits.stall_timeout_ms);
        Ok(false)
    }

    /// A final answer in the place of 100 ends the request: what a client sends all the same is for nobody (RFC 9110
    /// section 10.1.1), and a replica that did not read it might take it for a request.
    fn refuse_body(&mut self) {
        self.upload.drop_all();
        self.upload.phase = Phase::Done;
        self.exchange.reusable = false;
    }

    fn open_tunnel(&mut self) {
        for lane in [&mut self.upload, &mut self.download] {
            lane.body = Body::Tunnel;
            lane.phase = Phase::Body;
        }
    }

    fn end_exchange(&mut self, cx: &mut Context) {
        let whole = self.upload.phase == Phase::Done;
        let exchange = &mut self.exchange;
        exchange.active = false;
        if exchange.truncated {
            let reset = self.download.body.is_close_delimited();
            self.stage = Stage::Closing { reset };
        } else if exchange.keep_alive
            && whole
            && !self.upload.ended
            && (!cx.snapshot.stopping || self.upload.has_unscanned())
        {
            // A request that was read already is answered, even by a balancer that stops: its answer is the last.
            self.upload.restart(Phase::Head);
            self.download.restart(Phase::Done);
            self.arm(cx.now, cx.snapshot.first_limits().idle_timeout_ms);
            if self.upload.has_unscanned() {
                self.head_begun = true;
                self.arm(cx.now, cx.snapshot.first_limits().head_timeout_ms);
            }
        } else if (exchange.lingers || !whole || self.client.readable) && !self.upload.ended {
            self.stage = Stage::Lingering;
            self.upload.restart(Phase::Body);
            self.upload.drop_all();
            self.arm(cx.now, LINGER_MS);
        } else {
            self.stage = Stage::Closing { reset: false };
        }
    }
}
