//! What comes on a connection before its protocol: a PROXY header, a TLS handshake below the session, the ClientHello of a
//! connection that passes through. Requests and responses do not enter.

use bytes::Bytes;

use super::{Session, Stage, UpstreamState, Wait};
use crate::core::client_cert::ClientCertField;
use crate::core::context::Context;
use crate::core::exchange::ExchangeKind;
use crate::core::head::{HeadScan, Request};
use crate::core::ip::IpText;
use crate::core::key::{self, HOST};
use crate::core::proxy::{self, Ends};
use crate::core::request::Scheme;
use crate::core::routes::RouteKey;
use crate::core::snapshot::{Mode, ServiceId};
use crate::core::step::{Ending, Notice};
use crate::core::tls::{ClientCertificate, client_hello};

const PLAIN_HTTP: &str = "this port speaks TLS: the URL begins with https";
const NO_NAME: &str = "no route leads from the name in the ClientHello to a service";

/// A fatal alert as a record of its own (RFC 8446 sections 5.1 and 6.2): unrecognized_name, or decode_error.
const ALERT_NO_NAME: &[u8] = &[21, 3, 3, 0, 2, 2, 112];
const ALERT_MALFORMED: &[u8] = &[21, 3, 3, 0, 2, 2, 50];

/// What comes on a connection before the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Opening {
    Done,
    ProxyHeader,
    /// A TLS handshake below this session, behind a PROXY header if one is due.
    Handshake,
    /// The first message of a TLS connection that passes through.
    ClientHello,
}

impl Session {
    /// The handshake below is over: the session begins.
    pub fn on_handshake(&mut self, certificate: &ClientCertificate, cx: &mut Context) {
        self.opening = Opening::Done;
        if cx.snapshot.listener(self.listener).is_some_and(|listener| listener.mode == Mode::Http) {
            self.client_cert = ClientCertField::new(certificate).map(Box::new);
            self.upload.widen_headroom(self.client_cert_len());
        }
        self.head_begun_at = cx.records.now;
        self.arm(cx.now, cx.snapshot.listener_limits(self.listener).idle_timeout_ms);
        self.begin_mode(cx);
    }

    /// In the place of a handshake came `bytes`, a request in plain text: it is refused in plain text.
    pub fn refuse_plain_http(&mut self, bytes: &[u8], cx: &mut Context) {
        self.opening = Opening::Done;
        let space = self.upload.space(&mut cx.pool);
        let n = bytes.len().min(space.len());
        if let (Some(space), Some(bytes)) = (space.get_mut(..n), bytes.get(..n)) {
            space.copy_from_slice(bytes);
        }
        self.upload.commit_read(n);
        self.head_begun_at = cx.records.now;
        self.scheme = Scheme::Http;
        self.begin_refused_record(cx);
        self.answer(400, PLAIN_HTTP, cx);
        self.advance(cx);
    }

    /// What comes before the protocol is over: bytes of a tcp listener go to its service, those of TLS wait for their
    /// ClientHello, and a request is read.
    pub(super) fn begin_mode(&mut self, cx: &mut Context) {
        let Some(listener) = cx.snapshot.listener(self.listener) else { return };
        match (listener.mode, listener.service) {
            (Mode::Tcp, Some(service)) => self.begin_tunnel(service, None, cx),
            (Mode::TlsPassthrough, _) => {
                let limit_ms = listener.limits.handshake_timeout_ms;
                self.opening = Opening::ClientHello;
                self.head_begun = true;
                self.arm(cx.now, limit_ms);
            }
            (Mode::Tcp, None) | (Mode::Http, _) => {}
        }
    }

    /// All bytes go to this service as they are. `host` is what a TLS client asks for: a key may be taken from it.
    fn begin_tunnel(&mut self, service: ServiceId, host: Option<httparse::Header>, cx: &mut Context) {
        let fields = host.as_slice();
        let fresh = cx.prng.next_u32();
        let key = cx.snapshot.service(service);
        let key = key.map_or(fresh, |s| key::of(&s.key, b"", fields, self.client_ip.text(), fresh));
        cx.tally.count_request();
        self.exchange.begin(ExchangeKind::Tunnel, service, key);
        self.begin_tunnel_record(service, host.map(|field| field.value), cx);
        self.open_tunnel();
        self.link = UpstreamState::Wanted { again: None, waits: Wait::No };
        self.arm(cx.now, cx.snapshot.limits(service).connect_timeout_ms);
    }

    /// Reads the ClientHello if it is here whole: it stays what the replica gets.
    #[inline(never)]
    fn read_client_hello(&mut self, cx: &mut Context) -> Result<(), &'static str> {
        let Some(hello) = client_hello::read(self.upload.unscanned())? else { return Ok(()) };
        let host = hello.name.as_deref().map(|name| httparse::Header { name: HOST, value: name.as_bytes() });
        let request = Request { method: "", target: "/", minor: 1, fields: host.as_slice() };
        let route = RouteKey { listener: self.listener, request: &request };
        let service = cx.snapshot.passthrough_to(&route, || cx.prng.next_u32()).ok_or(NO_NAME)?;
        self.opening = Opening::Done;
        self.begin_tunnel(service, host, cx);
        Ok(())
    }

    /// The client is the one that a PROXY header named. `None`: the peer itself (a health check of the balancer before).
    pub fn introduce(&mut self, ends: Option<Ends>) {
        if let Some(ends) = ends {
            self.ends = ends;
            self.client_ip = IpText::new(ends.source.ip());
            self.notice = Some(Notice::ClientNamed { client: ends.source.ip() });
        }
    }

    /// Takes the PROXY header off the front if it is here whole.
    fn read_proxy_header(&mut self, cx: &mut Context) -> Result<(), &'static str> {
        let Some((len, ends)) = proxy::read(self.upload.unscanned())? else { return Ok(()) };
        self.upload.skip(len);
        self.opening = Opening::Done;
        self.head_begun = self.upload.has_unscanned();
        self.head_begun_at = cx.records.now;
        self.introduce(ends);
        self.begin_mode(cx);
        Ok(())
    }

    /// Goes on with it as far as the bytes at hand allow.
    pub(super) fn advance_opening(&mut self, cx: &mut Context) {
        if !self.upload.has_unscanned() {
            return;
        }
        let read = match self.opening {
            Opening::ProxyHeader => self.read_proxy_header(cx),
            Opening::ClientHello => self.read_client_hello(cx),
            Opening::Handshake | Opening::Done => Ok(()),
        };
        match read {
            Ok(()) => {}
            Err(_) if self.opening == Opening::ClientHello && !HeadScan::is_not_http(self.upload.unscanned()) => {
                self.opening = Opening::Done;
                self.begin_refused_record(cx);
                self.answer(400, PLAIN_HTTP, cx);
            }
            Err(why) if self.opening == Opening::ClientHello && client_hello::is_handshake(self.upload.unscanned()) => {
                self.opening = Opening::Done;
                self.refusal = Some(Notice::Refused { status: 400, why });
                let alert = if why == NO_NAME { ALERT_NO_NAME } else { ALERT_MALFORMED };
                self.answer_with(400, Bytes::from_static(alert));
                self.arm(cx.now, cx.snapshot.listener_limits(self.listener).stall_timeout_ms);
            }
            Err(why) => {
                self.refusal = Some(Notice::Reset { status: 400, why });
                self.stage = Stage::Closing(Ending::Reset);
            }
        }
    }
}
