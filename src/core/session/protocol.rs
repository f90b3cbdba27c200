//! Heads: reads them, has them rewritten, and moves both lanes from one message to the next as far as the bytes at hand
//! allow. No I/O and no deadline is decided here beyond those that a head begins.

use super::opening::Opening;
use super::{Session, Stage, UpstreamState, Wait, record};
use crate::core::body::Body;
use crate::core::context::Context;
use crate::core::exchange::{
    ClientEnd, ExchangeKind, PIPELINED_HEAD_MAX, RequestFacts, RequestState, ResponseState, Retained, UpstreamEnd,
};
use crate::core::exchange_record::RecordedHead;
use crate::core::head::{self, HeadScan, Refusal};
use crate::core::lane::Phase;
use crate::core::limits::RequestIdPolicy;
use crate::core::request::{self, LocalReply, RequestSource};
use crate::core::response::{self, AddedFields, ResponseAnalysis};
use crate::core::rewrite::canonicalize_response;
use crate::core::routes::{Redirect, RouteKey};
use crate::core::snapshot::{Destination, ServiceId};
use crate::core::step::{Ending, Ready};
use crate::core::sticky::StickyPolicy;
use crate::core::{key, reply, sticky};

const NO_ROUTE: Refusal = head::refusal(404, "no route leads from here to a service");

impl Session {
    /// Moves both lanes on until only I/O can.
    pub(super) fn advance(&mut self, cx: &mut Context) {
        while self.stage == Stage::Serving {
            self.advance_upload(cx);
            self.advance_download(cx);
            if self.exchange.is_tunnel() {
                if self.upload.finished && self.download.finished {
                    self.end_record(cx);
                    self.stage = Stage::Closing(Ending::Clean);
                }
                break;
            }
            let over = self.exchange.is_active() && self.link == UpstreamState::None;
            if !over || self.download.phase != Phase::Done || !self.download.is_drained() {
                break;
            }
            self.end_exchange(cx);
        }
        if self.client.hangup {
            self.close_if_abandoned(Ready::HANGUP, cx);
        }
        if self.lifecycle(&cx.snapshot).is_stopping() {
            self.on_drain(cx);
        }
        self.upload.reclaim(&mut cx.pool);
        self.download.reclaim(&mut cx.pool);
    }

    fn advance_upload(&mut self, cx: &mut Context) {
        while matches!(self.opening, Opening::ProxyHeader | Opening::ClientHello) {
            let before = self.opening;
            self.advance_opening(cx);
            if self.opening == before {
                return;
            }
        }
        if self.upload.phase == Phase::Head
            && !self.exchange.is_active()
            && self.upload.has_unscanned()
            && let Err(refusal) = self.read_request(cx)
        {
            self.begin_refused_record(cx);
            self.answer(refusal.status, refusal.why, cx);
        }
        if self.upload.phase == Phase::Body
            && let Err(fault) = self.upload.advance_body()
        {
            self.request_body_failed(fault.0, cx);
        }
        // The response is here and its replica is gone: the rest of the request is read, so that the client gets the
        // response, and dropped.
        if self.link == UpstreamState::None && self.is_answered() {
            self.upload.drop_pending();
        }
    }

    fn advance_download(&mut self, cx: &mut Context) {
        while self.download.phase == Phase::Head && self.download.has_unscanned() && !self.download.has_pending() {
            match self.read_response(cx) {
                Ok(Next::Head) => {}
                Ok(Next::Bytes | Next::Body) => break,
                Err(why) => return self.bad_response(why, cx),
            }
        }
        if self.download.phase == Phase::Body && self.download.advance_body().is_err() {
            self.truncate();
        }
    }

    /// Reads a request head if it is here whole, and asks for a replica. Not inlined into `advance`, which mostly has no
    /// head to read, because of the stack space of a head's fields.
    #[inline(never)]
    fn read_request(&mut self, cx: &mut Context) -> Result<(), Refusal> {
        let limits = cx.snapshot.listener_limits(self.listener);
        let mut scan: HeadScan = self.upload.head;
        let skipped = scan.skip_empty_lines(self.upload.unscanned())?;
        self.upload.skip(skipped);
        let bytes = self.upload.unscanned();
        if HeadScan::is_not_http(bytes) {
            return Err(head::refusal(400, "this is not HTTP/1"));
        }
        let whole = if HeadScan::may_be_empty_line(bytes) { None } else { scan.find(bytes, limits)? };
        self.upload.head = scan;
        let Some(len) = whole else {
            self.upload.make_room(limits.head_limit, &mut cx.pool);
            return self.await_head(skipped, cx);
        };
        let head = self.upload.unscanned().get(..len).unwrap_or_default();
        let mut fields = head::field_storage();
        let request = head::parse_request(head, &mut fields, limits)?;
        let target = head::origin_form(request.target).as_bytes();
        let route = RouteKey { listener: self.listener, request: &request };
        let destination = cx.snapshot.destination(&route, || cx.prng.next_u32()).ok_or(NO_ROUTE)?;
        let id = match destination {
            Destination::Service(id) => id,
            Destination::Redirect(_) | Destination::Challenge(_) => ServiceId::NONE,
        };
        let service = cx.snapshot.service(id);
        let client_ip = self.client_ip.text();
        let name = service.map_or("", |service| &service.name);
        let made_id = (limits.request_id == RequestIdPolicy::Make).then(|| record::made_id(&mut cx.prng));
        let request_id = made_id.as_ref().map(|id| id.as_slice());
        let client_cert = self.client_cert.as_ref().map(|field| field.line());
        let origin = RequestSource { client_ip, service: name, request_id, scheme: self.scheme, client_cert };
        cx.edits.clear();
        let analysis = request::analyze(head, &request, limits, origin, &mut cx.edits)?;
        let fresh = cx.prng.next_u32();
        let key = service.map_or(fresh, |s| key::of(&s.key, target, request.fields, client_ip, fresh));
        let policy = service.and_then(|service| Some((service, service.limits.sticky.as_deref()?)));
        let preferred = policy.and_then(|(service, policy)| sticky::named(service, policy, request.fields));
        let own = match destination {
            Destination::Service(_) => None,
            Destination::Redirect(redirect) => {
                let Redirect { status, .. } = *redirect;
                Some((status, reply::redirect(status, &redirect.location_of(&route), &self.own_fields(cx))))
            }
            Destination::Challenge(content) => Some((200, reply::challenge(content, &self.own_fields(cx)))),
        };
        let pipelinable = analysis.safe && !analysis.upgrade && len <= PIPELINED_HEAD_MAX && analysis.body.is_done();
        let facts = RequestFacts {
            minor: analysis.minor,
            is_head: analysis.is_head,
            idempotent: analysis.idempotent,
            pipelinable,
            upgrade: analysis.upgrade.then(|| head::value(request.fields, "upgrade").into()),
            expects_continue: analysis.expects_continue,
        };
        let kept_id = analysis.request_id.and_then(|i| request.fields.get(i)).map(|field| field.value);
        let record = cx.records.begin(
            &request,
            RecordedHead {
                client: self.client_address(),
                begun: self.head_begun_at,
                read: self.upload.unscanned().len(),
                epoch: cx.snapshot.epoch,
                service: id,
                service_name: Some(name),
                request_id: kept_id.or(request_id),
            },
        );
        let edits = &cx.edits;
        self.upload.release_head(len, |store, from, to| edits.apply(store, from, to));
        self.upload.body = analysis.body;
        self.upload.phase = Phase::Body;
        self.head_begun = false;
        cx.tally.count_request();
        self.exchange.begin(ExchangeKind::Http, id, key);
        self.exchange.head = facts;
        self.exchange.sticky = preferred;
        self.record = record;
        self.exchange.client_end = if analysis.keep_alive { ClientEnd::KeepAlive } else { ClientEnd::Close };
        self.exchange.retained = Retained::InBuffer(self.upload.mark());
        match (analysis.local_reply, own) {
            (Some(LocalReply::Options), _) => self.answer_with(200, reply::options(&self.own_fields(cx))),
            (Some(LocalReply::Trace(request)), _) => {
                self.answer_with(200, reply::trace(&request, &self.own_fields(cx)))
            }
            (None, Some((status, reply))) => self.answer_with(status, reply),
            (None, None) => self.link = UpstreamState::Wanted { again: None, waits: Wait::No },
        }
        self.arm(cx.now, cx.snapshot.limits(id).connect_timeout_ms);
        Ok(())
    }

    /// The head is not here whole.
    fn await_head(&mut self, skipped: usize, cx: &Context) -> Result<(), Refusal> {
        if self.upload.head.is_unversioned(self.upload.unscanned()) {
            return Err(head::UNVERSIONED);
        }
        if skipped > 0 && !self.upload.has_unscanned() {
            // Empty lines behind a request do not begin another one (RFC 9112 section 2.2).
            self.head_begun = false;
            self.arm(cx.now, cx.snapshot.listener_limits(self.listener).idle_timeout_ms);
        }
        Ok(())
    }

    /// Reads a response head if it is here whole.
    #[inline(never)]
    fn read_response(&mut self, cx: &mut Context) -> Result<Next, &'static str> {
        let limits = self.limits(&cx.snapshot);
        let mut scan = self.download.head;
        let whole = scan.find_response(self.download.unscanned(), limits).map_err(|refusal| refusal.why)?;
        self.download.head = scan;
        let Some(len) = whole else {
            self.download.make_room(limits.head_limit, &mut cx.pool);
            return Ok(Next::Bytes);
        };
        if scan.has_bare_lf() {
            return self.read_canonical_response(len, "line ended by LF alone", cx);
        }
        let head = self.download.unscanned().get(..len).unwrap_or_default();
        let mut fields = head::field_storage();
        let parsed = match head::parse_response(head, &mut fields, limits) {
            Ok(parsed) => parsed,
            Err(why) => return self.read_canonical_response(len, why, cx),
        };
        let mut summary = self.exchange.asked();
        summary.keep_alive &=
            self.lifecycle(&cx.snapshot).keeps_alive() && self.upload.phase == Phase::Done && !self.upload.ended;
        summary.hsts_seconds = self.hsts_seconds(cx);
        if parsed.status == 101 {
            let offered = self.exchange.head.upgrade.as_deref().unwrap_or_default();
            if !head::is_among(head::value(parsed.fields, "upgrade"), offered) {
                return Err("101 that was not asked for");
            }
            if !self.is_request_read() {
                // A client switches behind its whole request (RFC 9110 section 7.8): the 101 stays here until then.
                self.download.head.reset();
                return Ok(Next::Bytes);
            }
        }
        cx.edits.clear();
        let cookie_line = limits.sticky.as_ref().map_or_else(String::new, |policy| self.cookie_line(policy, cx));
        let added = AddedFields { date_line: &cx.date_line, cookie_line: &cookie_line };
        let analysis = response::analyze(head, &parsed, summary, added, &mut cx.edits)?;
        self.download.head.reset();
        cx.tally.count_response(analysis.status);
        if analysis.is_interim() {
            self.note_interim(analysis.status, len, cx)?;
            if self.exchange.head.minor == 0 {
                // HTTP/1.0 has no interim responses (RFC 9110 section 15.2).
                self.download.skip(len);
                return Ok(Next::Head);
            }
        }
        if cx.edits.inserted() > self.download.headroom() {
            return Err("head too large once it is forwarded");
        }
        let edits = &cx.edits;
        self.download.release_head(len, |store, from, to| edits.apply(store, from, to));
        self.record_response_head(analysis.status);
        if analysis.is_interim() {
            return Ok(Next::Head);
        }
        self.begin_response(analysis, cx);
        Ok(Next::Body)
    }

    /// Names the replica that answers, unless the request's cookie did.
    #[cold]
    fn cookie_line(&self, policy: &StickyPolicy, cx: &Context) -> String {
        let answering = self.replica().filter(|replica| Some(*replica) != self.exchange.sticky);
        let service = cx.snapshot.service(self.exchange.service);
        let line = service.zip(answering).map(|(service, id)| sticky::set_cookie(service, policy, id, self.scheme));
        line.unwrap_or_default()
    }

    /// The head of the final response is on its way to the client.
    #[inline]
    fn begin_response(&mut self, analysis: ResponseAnalysis, cx: &mut Context) {
        if let Retained::Copy(copy) = std::mem::take(&mut self.exchange.retained) {
            cx.pool.forget(copy);
        }
        if !analysis.keep_alive {
            self.exchange.close_after_response();
        }
        let introduced = cx.snapshot.service(self.exchange.service).is_none_or(|s| s.send_proxy.is_some());
        let reusable = analysis.reusable && !introduced;
        self.exchange.upstream_end = if reusable { UpstreamEnd::Reuse } else { UpstreamEnd::Close };
        if self.is_request_read() {
            self.exchange.response = ResponseState::InOrder;
        } else {
            self.exchange.response = ResponseState::Early;
            if self.exchange.head.expects_continue {
                self.refuse_body();
            }
        }
        self.download.body = analysis.body;
        self.download.phase = Phase::Body;
        if analysis.status == 101 {
            self.exchange.kind = ExchangeKind::Tunnel;
            self.open_tunnel();
        }
        self.exchange.is_event_stream = analysis.is_event_stream;
        self.arm(cx.now, self.limits(&cx.snapshot).stall_timeout_ms);
    }

    /// Makes a head that was refused canonical and reads it again. One that is canonical stays refused.
    #[cold]
    fn read_canonical_response(
        &mut self,
        len: usize,
        why: &'static str,
        cx: &mut Context,
    ) -> Result<Next, &'static str> {
        let head = self.download.unscanned().get(..len).unwrap_or_default();
        cx.edits.clear();
        canonicalize_response(head, &mut cx.edits);
        let edits = &cx.edits;
        if edits.is_empty() || edits.inserted() > self.download.headroom() {
            return Err(why);
        }
        self.download.rewrite_head(len, |store, from, to| edits.apply(store, from, to));
        self.download.head.reset();
        self.read_response(cx)
    }

    /// An interim response of `len` bytes came: the wait for the final one begins anew.
    fn note_interim(&mut self, status: u16, len: usize, cx: &Context) -> Result<(), &'static str> {
        self.exchange.head.expects_continue &= status != 100;
        if !self.exchange.interims.spend(len, cx.now) {
            return Err("too many interim responses");
        }
        if let RequestState::Sent { at } = &mut self.exchange.request {
            *at = cx.now;
        }
        self.arm(cx.now, self.limits(&cx.snapshot).response_timeout_ms);
        Ok(())
    }

    /// A final response in the place of 100 ends the request: content that the client sends all the same is dropped (RFC
    /// 9110 section 10.1.1), because a replica that did not read it might take it for a request.
    fn refuse_body(&mut self) {
        self.upload.drop_all();
        self.upload.phase = Phase::Done;
        self.exchange.upstream_end = UpstreamEnd::Close;
    }

    pub(super) fn open_tunnel(&mut self) {
        for lane in [&mut self.upload, &mut self.download] {
            lane.body = Body::Tunnel;
            lane.phase = Phase::Body;
        }
    }

    fn end_exchange(&mut self, cx: &mut Context) {
        self.end_record(cx);
        let whole = self.upload.phase == Phase::Done;
        let stopping = self.lifecycle(&cx.snapshot).is_stopping();
        self.exchange.kind = ExchangeKind::Idle;
        if self.exchange.response == ResponseState::Truncated {
            let cut = self.download.body.is_close_delimited();
            self.stage = Stage::Closing(if cut { Ending::Reset } else { Ending::Clean });
        } else if self.exchange.client_end == ClientEnd::KeepAlive
            && whole
            && !self.upload.ended
            && (!stopping || self.upload.has_unscanned())
        {
            // A request that was read already is served, even in a drain: its response is the last.
            self.await_request(cx);
        } else if (self.exchange.client_end != ClientEnd::Close || !whole || self.client.readable) && !self.upload.ended
        {
            self.linger_until(self.linger_end(cx), cx);
            self.upload.restart(Phase::Body);
            self.upload.drop_all();
        } else {
            self.stage = Stage::Closing(Ending::Clean);
        }
    }

    /// The connection is kept: the next request may be here in part or whole.
    fn await_request(&mut self, cx: &Context) {
        self.upload.restart(Phase::Head);
        self.download.restart(Phase::Done);
        let limits = cx.snapshot.listener_limits(self.listener);
        if self.upload.has_unscanned() {
            self.head_begun = true;
            self.head_begun_at = cx.records.now;
            self.arm(cx.now, limits.head_timeout_ms);
        } else {
            self.arm(cx.now, limits.idle_timeout_ms);
        }
    }
}

/// What follows a response head that was looked for.
enum Next {
    /// More bytes must come: of the head or, before a tunnel, of the request.
    Bytes,
    /// Another head: this one was interim.
    Head,
    Body,
}
