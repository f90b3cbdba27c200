//! What it costs to count and measure: one duration, one exchange of a service, one refusal. `cargo bench --bench metrics`.

use divan::{Bencher, black_box};
use ringway::core::exchange_record::ExchangeRecord;
use ringway::core::snapshot::{ReplicaId, ReplicaLoad};
use ringway::core::tick::Stamp;
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
