//! What it costs to count and measure: one duration, one exchange of a service, one refusal, one line of the access
//! log. `cargo bench --bench metrics`.

use std::time::SystemTime;

use divan::{Bencher, black_box};
use ringway::core::exchange_record::ExchangeRecord;
use ringway::core::request_text::TextPart;
use ringway::core::snapshot::{ReplicaId, ReplicaLoad};
use ringway::core::tick::Stamp;
use ringway::settings::AccessLogFormat;
use ringway::shared::access_log::format::{LineWriter, WallClock};
use ringway::shared::histogram::{Durations, Histogram};
use ringway::shared::reasons::ReasonTable;
use ringway::shared::service_metrics::ServiceMetrics;

fn main() {
    divan::main();
}

#[divan::bench(args = [5, 180, 45_000, 90_000_000])]
fn duration_recorded(bencher: Bencher, us: u64) {
    let histogram = Histogram::default();
    bencher.bench_local(|| histogram.record(black_box(us)));
}

#[divan::bench]
fn exchange_recorded(bencher: Bencher) {
    let metrics = ServiceMetrics::default();
    let mut exchange = ExchangeRecord { status: Some(200), ..ExchangeRecord::default() };
    exchange.attempt(ReplicaId(1), Stamp(3));
    exchange.times.first_byte = Some(Stamp(350));
    exchange.times.ended = Stamp(412);
    bencher.bench_local(|| metrics.record(black_box(&exchange)));
}

/// The reason that came last of twenty.
#[divan::bench]
fn reason_counted(bencher: Bencher) {
    let table = ReasonTable::default();
    (400..420).for_each(|status| table.count(status, "this is a reason like any other"));
    bencher.bench_local(|| table.count(black_box(419), "this is a reason like any other"));
}

#[divan::bench]
fn response_counted(bencher: Bencher) {
    let load = ReplicaLoad::new(2);
    bencher.bench_local(|| load.respond(black_box(1), black_box([0, 1, 0, 0, 0])));
}

#[divan::bench]
fn workers_summed(bencher: Bencher) {
    let workers: Vec<Histogram> = (0..8).map(|_| Histogram::default()).collect();
    bencher.bench_local(|| Durations::of(black_box(&workers)).count());
}

#[divan::bench(args = [AccessLogFormat::Json, AccessLogFormat::Combined])]
fn log_line(bencher: Bencher, format: &AccessLogFormat) {
    let mut exchange =
        ExchangeRecord { status: Some(200), bytes_in: 140, bytes_out: 1_190, ..ExchangeRecord::default() };
    exchange.attempt(ReplicaId(1), Stamp(3));
    exchange.times.first_byte = Some(Stamp(350));
    exchange.times.ended = Stamp(412);
    let texts: [(TextPart, &[u8]); 7] = [
        (TextPart::Method, b"GET"),
        (TextPart::Target, b"/catalogue/item?id=4711&sort=price"),
        (TextPart::Host, b"shop.example.com"),
        (TextPart::UserAgent, b"Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"),
        (TextPart::RequestId, b"0193f5f7b2c87c3f9f6d5a1e4b7c8d9e"),
        (TextPart::Service, b"shop"),
        (TextPart::Replica, b"server1"),
    ];
    texts.iter().for_each(|(part, text)| exchange.text.keep(*part, text));
    let mut writer = LineWriter::new(*format);
    let (mut out, clock) = (Vec::new(), WallClock::new(SystemTime::now(), Stamp(0)));
    bencher.bench_local(|| {
        out.clear();
        writer.write_line(&mut out, black_box(&exchange), clock);
    });
}
