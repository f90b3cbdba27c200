//! The slow start of one replica: from a tenth of its weight to the whole, in ten equal steps. When one begins is decided
//! elsewhere.

use crate::core::balance::Ramp;
use crate::core::tick::Tick;

const STEPS: u64 = 10;
const FIRST_PER_MILLE: u64 = 100;

#[derive(Clone, Copy, Debug)]
pub struct SlowStart {
    begun: Tick,
    takes_ms: u64,
    /// Below `STEPS`.
    step: u64,
}

impl SlowStart {
    pub fn new(takes_ms: u64, now: Tick) -> SlowStart {
        SlowStart { begun: now, takes_ms, step: 0 }
    }

    pub fn ramp(&self) -> Ramp {
        let per_mille = FIRST_PER_MILLE + (1000 - FIRST_PER_MILLE) * self.step / STEPS;
        Ramp::new(per_mille as u16)
    }

    /// When the next step is due, or the end.
    pub fn due(&self) -> Tick {
        self.begun.after_ms((self.takes_ms * (self.step + 1)).div_ceil(STEPS))
    }

    /// As it is now; `None`: it is over.
    pub fn at(self, now: Tick) -> Option<SlowStart> {
        let step = (now.ms_since(self.begun) * STEPS).checked_div(self.takes_ms)?;
        (step < STEPS).then_some(SlowStart { step, ..self })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_grows_from_a_tenth_to_the_whole_in_ten_steps() {
        let mut start = SlowStart::new(1_000, Tick::ZERO);
        let mut seen = vec![start.ramp().per_mille()];
        loop {
            let due = start.due();
            assert!(start.at(Tick(due.0 - 1)).is_some_and(|same| same.ramp() == start.ramp()), "{start:?}");
            let Some(next) = start.at(due) else { break };
            start = next;
            seen.push(start.ramp().per_mille());
        }
        assert_eq!(seen, [100, 190, 280, 370, 460, 550, 640, 730, 820, 910]);
        assert_eq!(start.due(), Tick::ZERO.after_ms(1_000));
        assert!(SlowStart::new(0, Tick::ZERO).at(Tick::ZERO).is_none());
    }

    /// Rounded down, a step of 1.5 ms was due before it was over, again and again: the simulation did not end.
    #[test]
    fn each_step_is_over_when_the_next_is_due() {
        for takes_ms in 1..200 {
            let mut start = SlowStart::new(takes_ms, Tick(7));
            while let Some(next) = start.at(start.due()) {
                assert!(next.step > start.step, "{start:?}");
                start = next;
            }
        }
    }
}
