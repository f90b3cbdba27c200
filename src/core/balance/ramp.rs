//! Slow start: a replica that is back takes a growing part of its weight. How fast it grows is decided elsewhere.

use crate::core::snapshot::ReplicaId;

/// The part of its weight that a replica takes, in thousandths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ramp(u16);

impl Ramp {
    pub const WHOLE: Ramp = Ramp(1000);

    /// At least one thousandth, at most the whole.
    pub fn new(per_mille: u16) -> Ramp {
        Ramp(per_mille.clamp(1, Ramp::WHOLE.0))
    }

    #[inline]
    pub fn is_whole(self) -> bool {
        self == Ramp::WHOLE
    }

    pub fn per_mille(self) -> u16 {
        self.0
    }

    pub fn of(self, weight: u32) -> u64 {
        u64::from(weight) * u64::from(self.0)
    }

    /// Whether a replica at this ramp takes a key. The keys that it takes grow with the ramp: none goes back.
    pub fn takes(self, key: u32, replica: ReplicaId) -> bool {
        let mixed = mixed(key ^ mixed(replica.0 as u32));
        (u64::from(mixed) * u64::from(Ramp::WHOLE.0)) >> 32 < u64::from(self.0)
    }
}

/// The finalizer of MurmurHash3 with 32 bits: each bit of the input changes each bit of the output half of the time.
fn mixed(mut bits: u32) -> u32 {
    bits = (bits ^ (bits >> 16)).wrapping_mul(0x85eb_ca6b);
    bits = (bits ^ (bits >> 13)).wrapping_mul(0xc2b2_ae35);
    bits ^ (bits >> 16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_keys_of_a_ramp_are_so_many_and_only_grow() {
        const KEYS: u32 = 100_000;
        let mut before = Vec::new();
        for per_mille in [1, 100, 370, 910, 1000] {
            let ramp = Ramp::new(per_mille);
            let taken: Vec<u32> = (0..KEYS).filter(|key| ramp.takes(*key, ReplicaId(7))).collect();
            let share = taken.len() as f64 / f64::from(KEYS);
            assert!((share - f64::from(per_mille) / 1000.0).abs() < 0.005, "{per_mille}: {share}");
            assert!(before.iter().all(|key| taken.binary_search(key).is_ok()), "{per_mille}: a key went back");
            before = taken;
        }
        assert_eq!(before.len(), KEYS as usize, "the whole is all of them");
    }

    #[test]
    fn replicas_at_one_ramp_take_different_keys() {
        let taken =
            |replica| (0..1000).filter(|key| Ramp::new(500).takes(*key, ReplicaId(replica))).collect::<Vec<_>>();
        let (a, b) = (taken(1), taken(2));
        let shared = a.iter().filter(|key| b.contains(key)).count();
        assert!((200..300).contains(&shared), "{shared} of 1000 keys are taken by both");
    }
}
