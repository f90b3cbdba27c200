//! What the protocol costs without a kernel: a head found and parsed, chunks scanned, a snapshot loaded, and one whole
//! request through a `Session`, its steps answered at once. `cargo bench --bench session`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use divan::counter::{BytesCount, ItemsCount};
use divan::{Bencher, black_box};
use ringway::core::body::Body;
use ringway::core::buffer::BufferPool;
use ringway::core::context::Context;
use ringway::core::head::{self, HeadScan};
use ringway::core::limits::Limits;
use ringway::core::request::Scheme;
use ringway::core::ring::{Member, Ring, RingKind};
use ringway::core::session::{Arrival, Session};
use ringway::core::snapshot::{KeyPolicy, ListenerId, Mode, ReplicaId, Service, Snapshot};
use ringway::core::step::{Connect, Connection, Io, Leg, Ready, Step};
use ringway::core::tick::Tick;
use ringway::shared::publish::SnapshotPublisher;

fn main() {
    divan::main();
}

const SMALL: &[u8] = b"GET /s128 HTTP/1.1\r\nHost: 127.0.0.1:8000\r\n\r\n";
const BROWSER: &[u8] = b"GET /home?user=7 HTTP/1.1\r\nHost: www.example.org\r\nConnection: keep-alive\r\n\
    User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/120.0 Safari/537.36\r\n\
    Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8\r\n\
    Accept-Encoding: gzip, deflate, br\r\nAccept-Language: en-GB,en;q=0.9\r\nCookie: session=0123456789abcdef\r\n\r\n";
const RESPONSE: &[u8] =
    b"HTTP/1.1 200 OK\r\nServer: origin\r\nContent-Type: text/plain\r\nContent-Length: 11\r\n\r\nhello world";
const DATE_LINE: &str = "Date: Sun, 22 Nov 2026 12:00:00 GMT\r\n";

#[divan::bench(args = [SMALL, BROWSER])]
fn head_found_and_parsed(bencher: Bencher, bytes: &[u8]) {
    let limits = Limits::default();
    bencher.counter(BytesCount::new(bytes.len())).bench_local(|| {
        let len = HeadScan::default().find(black_box(bytes), &limits).ok().flatten().unwrap_or(0);
        let mut room = head::field_storage();
        head::parse_request(&bytes[..len], &mut room, &limits).map_or(0, |request| request.fields.len())
    });
}

/// Chunks of 16 bytes: the framing is most of the work.
#[divan::bench]
fn chunks_scanned(bencher: Bencher) {
    let bytes: Vec<u8> = b"10\r\n0123456789abcdef\r\n".repeat(1000);
    bencher.counter(BytesCount::new(bytes.len())).bench_local(|| {
        let (mut body, mut rest) = (Body::chunked(), black_box(&bytes[..]));
        while !rest.is_empty() {
            let credit = body.credit().min(rest.len() as u64);
            body.pass(credit);
            rest = &rest[credit as usize..];
            rest = &rest[body.scan(rest).map_or(rest.len(), |scan| scan.read)..];
        }
        body.is_done()
    });
}

#[divan::bench]
fn snapshot_loaded(bencher: Bencher) {
    let mut publisher = SnapshotPublisher::new(snapshot());
    let woken = AtomicU64::new(0);
    let mut reader = publisher.reader(Arc::new(move || {
        woken.fetch_add(1, Ordering::Relaxed);
    }));
    bencher.counter(ItemsCount::new(1000_usize)).bench_local(|| (0..1000).map(|_| reader.load().epoch).sum::<u64>());
}

/// A keep-alive client and a pooled upstream connection, as in steady state.
#[divan::bench(args = [SMALL, BROWSER])]
fn request_through_a_session(bencher: Bencher, request: &[u8]) {
    let mut cx = Context::new(Tick(1), Arc::new(snapshot()), BufferPool::new(4), 7);
    cx.date_line = DATE_LINE.into();
    let address = ([127, 0, 0, 1], 8000).into();
    let arrival =
        Arrival { peer: address, local: address, proxied: false, listener: ListenerId(0), scheme: Scheme::Http };
    let mut session = Session::new(arrival, &mut cx);
    let readable = Ready { readable: true, ..Ready::default() };
    bencher.counter(ItemsCount::new(1_usize)).bench_local(|| {
        session.on_ready(Leg::Client, readable, &cx);
        let mut steps = 0;
        while let Some(step) = session.next_step() {
            steps += 1;
            match step {
                Step::Recv(leg) => {
                    let bytes = if leg == Leg::Client { request } else { RESPONSE };
                    session.lane_from(leg).space(&mut cx.pool)[..bytes.len()].copy_from_slice(bytes);
                    session.received(leg, Io::Moved(bytes.len() as u64), &mut cx);
                }
                Step::Send { leg, flush } => {
                    let sent = session.lane_to(leg).pending().len() as u64;
                    session.sent(leg, flush, Io::Moved(sent), &mut cx);
                }
                Step::Connect(_) => {
                    let outcome = Connect::Connected { replica: ReplicaId(1), connection: Connection::Reused };
                    session.connected(outcome, &mut cx);
                }
                Step::ReleaseUpstream => session.upstream_released(&mut cx),
                step => panic!("{step:?} in steady state"),
            }
            if matches!(step, Step::Send { leg: Leg::Upstream, .. }) {
                session.on_ready(Leg::Upstream, readable, &cx);
            }
        }
        assert!(steps == 6 && session.is_idle());
    });
}

fn snapshot() -> Snapshot {
    let service = Service {
        name: "bench".into(),
        mode: Mode::Http,
        policy: Default::default(),
        key: KeyPolicy::Uri,
        limits: Arc::new(Limits::default()),
        send_proxy: None,
        tls: None,
        max_5xx_in_a_row: None,
        queue_heads: Arc::default(),
        is_removed: false,
        replicas: Vec::new(),
        ring: Arc::new(Ring::build(RingKind::Ketama, &[Member::new("server1", 1)])),
    };
    Snapshot::of_service(1, service)
}
