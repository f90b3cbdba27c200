//! Weights of a source as weights on a ring: in proportion, as small as they can be, since a ring has points in proportion to
//! them.

/// The largest of a source's weights becomes this at most.
const WEIGHT_LIMIT: u64 = 100;

pub fn on_ring(weights: &[u64]) -> Vec<u32> {
    let divisor = weights.iter().copied().fold(0, gcd).max(1);
    let highest = weights.iter().max().map_or(0, |highest| highest / divisor);
    let scaled = |weight: u64| match highest {
        0 => 1,
        1..=WEIGHT_LIMIT => (weight / divisor).max(1),
        _ => (u128::from(weight / divisor) * u128::from(WEIGHT_LIMIT)).div_ceil(u128::from(highest)).max(1) as u64,
    };
    weights.iter().map(|weight| u32::try_from(scaled(*weight)).unwrap_or(1)).collect()
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_keep_their_proportion() {
        assert_eq!(on_ring(&[0, 0]), [1, 1], "no selection is wanted");
        assert_eq!(on_ring(&[10, 10]), [1, 1]);
        assert_eq!(on_ring(&[60, 30, 10]), [6, 3, 1]);
        assert_eq!(on_ring(&[5, 0]), [1, 1], "a very small chance is the smallest there is");
        assert_eq!(on_ring(&[65_535, 32_768, 1]), [100, 51, 1]);
        assert_eq!(on_ring(&[u64::MAX, 1]), [100, 1]);
        assert!(on_ring(&[]).is_empty());
    }
}
