//! The cost of one pick by each policy, where two workers count the loads. The bound and round-robin look at every replica.
//! `cargo bench --bench balance`.

use std::fmt::{Display, Formatter, Result};
use std::sync::Arc;

use divan::Bencher;
use divan::counter::ItemsCount;
use ringway::core::balance::{BalanceFactor, BalancePolicy, Balancer, Ramp};
use ringway::core::context::Prng;
use ringway::core::exchange::Attempts;
use ringway::core::limits::Limits;
use ringway::core::ring::{Member, Ring, RingKind};
use ringway::core::snapshot::{
    Endpoint, KeyPolicy, Mode, Replica, ReplicaId, ReplicaLoad, Service, ServiceId, Snapshot, State,
};
use ringway::core::step::Pick;

fn main() {
    divan::main();
}

const REPLICAS: [usize; 3] = [3, 100, 1_000];
const WORKERS: usize = 2;
const PICKS: u32 = 1 << 12;

struct Args {
    policy: BalancePolicy,
    replicas: usize,
}

impl Display for Args {
    fn fmt(&self, f: &mut Formatter) -> Result {
        let bound = if self.policy.balance_factor().is_some() { ", bounded" } else { "" };
        write!(f, "{}{bound} {}", self.policy.name(), self.replicas)
    }
}

fn args() -> impl Iterator<Item = Args> {
    let bounded = BalanceFactor::new(1.25).map(BalancePolicy::BoundedHash);
    let others = [BalancePolicy::Hash, BalancePolicy::LeastRequest, BalancePolicy::RoundRobin, BalancePolicy::Random];
    others.into_iter().chain(bounded).flat_map(|policy| REPLICAS.map(|replicas| Args { policy, replicas }))
}

#[divan::bench(args = args())]
fn pick(bencher: Bencher, args: &Args) {
    let (snapshot, mut balancer, mut prng) = (snapshot(args), Balancer::new(0), Prng::new(7));
    let pick = |key| Pick {
        service: ServiceId(0),
        key,
        tried: Attempts::default(),
        again: None,
        preferred: None,
        pipelinable: false,
    };
    bencher.counter(ItemsCount::new(PICKS)).bench_local(|| {
        let mut one = |key: u32| {
            let key = key.wrapping_mul(2_654_435_761);
            balancer.pick(&snapshot, &pick(key), &[], &mut prng).map_or(0, |(member, _)| member)
        };
        (0..PICKS).map(&mut one).sum::<usize>()
    });
}

/// Every replica has requests of both workers in flight.
fn snapshot(args: &Args) -> Snapshot {
    let members: Vec<Member> = (0..args.replicas).map(|n| Member::new(format!("server{n}"), 1)).collect();
    let replica = |(n, member): (usize, &Member)| {
        let load = ReplicaLoad::new(WORKERS);
        (0..WORKERS).for_each(|worker| load.start(worker));
        Replica {
            id: ReplicaId(n as u64 + 1),
            name: member.name.as_str().into(),
            endpoint: Endpoint::Tcp(([127, 0, 0, 1], 1).into()),
            weight: 1,
            state: State::Up,
            ramp: Ramp::WHOLE,
            sticky: None,
            load: Arc::new(load),
        }
    };
    let service = Service {
        name: "bench".into(),
        mode: Mode::Http,
        policy: args.policy,
        key: KeyPolicy::Uri,
        limits: Arc::new(Limits::default()),
        send_proxy: None,
        tls: None,
        max_5xx_in_a_row: None,
        queue_heads: Arc::default(),
        is_removed: false,
        replicas: members.iter().enumerate().map(replica).collect(),
        ring: Arc::new(Ring::build(RingKind::Ketama, &members)),
    };
    Snapshot::of_service(1, service)
}
