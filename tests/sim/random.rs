//! Pseudo-random numbers from a seed (splitmix64), in one independent stream per concern: a draw added to one concern
//! does not shift the draws of the others. No clock, address or hash order enters here, so a seed determines its world.

#[derive(Clone, Debug)]
pub struct Streams(Vec<Random>);

/// What a draw is for.
#[derive(Clone, Copy, Debug)]
enum Concern {
    World,
    Faults,
    Clients,
    Replicas,
    Control,
    Network,
    Kernel,
    Schedule,
    Health,
    Reloads,
    Upgrades,
    Tls,
    ReplicaTls,
    Balance,
}

const CONCERNS: u64 = 14;

impl Streams {
    pub fn new(seed: u64) -> Streams {
        Streams((0..CONCERNS).map(|concern| Random::new(mix(seed).wrapping_add(concern))).collect())
    }

    /// One stream for all concerns that there were before the streams were split, and one for those that came later.
    pub fn shared(seed: u64) -> Streams {
        let later = [Concern::Health, Concern::Reloads, Concern::Upgrades, Concern::Tls];
        let later = later.into_iter().chain([Concern::ReplicaTls, Concern::Balance]);
        let later = later.map(|concern| Random::new(mix(seed).wrapping_add(concern as u64)));
        Streams([Random::new(seed)].into_iter().chain(later).collect())
    }

    /// Number of workers and clients, connection cap, time of the stop.
    pub fn world(&mut self) -> &mut Random {
        self.of(Concern::World)
    }

    /// Rates of faults.
    pub fn faults(&mut self) -> &mut Random {
        self.of(Concern::Faults)
    }

    /// Requests with their response plans, and the behaviour of clients.
    pub fn clients(&mut self) -> &mut Random {
        self.of(Concern::Clients)
    }

    /// Responses as they are written, and the behaviour of replicas.
    pub fn replicas(&mut self) -> &mut Random {
        self.of(Concern::Replicas)
    }

    /// Probes, starts, stops and calls to the admin API.
    pub fn control(&mut self) -> &mut Random {
        self.of(Concern::Control)
    }

    /// Latency, segment sizes, connections that break.
    pub fn network(&mut self) -> &mut Random {
        self.of(Concern::Network)
    }

    /// Results of the workers' system calls.
    pub fn kernel(&mut self) -> &mut Random {
        self.of(Concern::Kernel)
    }

    /// Times of the workers' turns.
    pub fn schedule(&mut self) -> &mut Random {
        self.of(Concern::Schedule)
    }

    /// Whether replicas work on one request at a time, and how they are judged.
    pub fn health(&mut self) -> &mut Random {
        self.of(Concern::Health)
    }

    /// Configurations that take the place of the first.
    pub fn reloads(&mut self) -> &mut Random {
        self.of(Concern::Reloads)
    }

    /// Processes that replace each other.
    pub fn upgrades(&mut self) -> &mut Random {
        self.of(Concern::Upgrades)
    }

    /// Which listeners speak TLS, and how their clients do.
    pub fn tls(&mut self) -> &mut Random {
        self.of(Concern::Tls)
    }

    /// Which replicas speak TLS, and how.
    pub fn replica_tls(&mut self) -> &mut Random {
        self.of(Concern::ReplicaTls)
    }

    /// By which policy services balance.
    pub fn balance(&mut self) -> &mut Random {
        self.of(Concern::Balance)
    }

    fn of(&mut self, concern: Concern) -> &mut Random {
        let is_shared = self.0.len() < CONCERNS as usize;
        let index = match concern {
            Concern::Health if is_shared => 1,
            Concern::Reloads if is_shared => 2,
            Concern::Upgrades if is_shared => 3,
            Concern::Tls if is_shared => 4,
            Concern::ReplicaTls if is_shared => 5,
            Concern::Balance if is_shared => 6,
            _ if is_shared => 0,
            concern => concern as usize,
        };
        &mut self.0[index]
    }
}

#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0x5851_F42D_4C95_7F2D)
    }

    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        mix(self.0)
    }

    /// 0 to `n` - 1.
    pub fn below(&mut self, n: u64) -> u64 {
        if n == 0 { 0 } else { self.draw() % n }
    }

    /// `low` to `high`, both included.
    pub fn range(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high - low + 1)
    }

    pub fn per_mille(&mut self, rate: u32) -> bool {
        rate > 0 && self.below(1000) < u64::from(rate)
    }

    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    pub fn pick<T: Copy>(&mut self, list: &[T]) -> T {
        list[self.below(list.len() as u64) as usize]
    }

    /// 0 to `most`, with a uniform number of bits: small numbers are frequent.
    pub fn size(&mut self, most: u64) -> u64 {
        let bits = 64 - most.leading_zeros() as u64;
        let bits = self.range(0, bits);
        self.below(1 << bits.min(62)).min(most)
    }

    /// A fault's rate, 0 in half of the worlds (swarm testing).
    pub fn rate(&mut self, most: u32) -> u32 {
        if self.one_in(2) { 0 } else { self.range(1, u64::from(most)) as u32 }
    }
}

pub fn mix(word: u64) -> u64 {
    let word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    word ^ (word >> 31)
}
