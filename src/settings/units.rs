//! Numbers with a unit, as flags, the environment and the file write them: `500ms`, `16KiB`, `100B/s`. One table both reads
//! and prints them, so that what is printed is read as the same number. No setting is named here.

use std::ops::RangeInclusive;

use crate::core::limits::Unit;

/// Of durations, in milliseconds.
const DURATIONS: [(&str, u64); 4] = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000)];
/// Powers of 1024 only: KB would mean 1000 to some and 1024 to others.
const SIZES: [(&str, u64); 4] = [("B", 1), ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)];
const RATES: [(&str, u64); 4] = [("B/s", 1), ("KiB/s", 1 << 10), ("MiB/s", 1 << 20), ("GiB/s", 1 << 30)];

/// Reads a value of `range`. A whole number and one unit, without a space: each value has few spellings, and none is rounded.
/// 0 is the same in any unit and needs none.
pub fn parser(
    unit: Unit,
    range: RangeInclusive<u64>,
) -> impl Fn(&str) -> Result<u64, String> + Clone + Send + Sync + 'static {
    move |text| parse(unit, text).filter(|value| range.contains(value)).ok_or_else(|| expected(unit, &range))
}

fn parse(unit: Unit, text: &str) -> Option<u64> {
    if text == "0" {
        return Some(0);
    }
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, suffix) = text.split_at(digits);
    let (_, factor) = table(unit).iter().find(|(name, _)| *name == suffix)?;
    number.parse::<u64>().ok()?.checked_mul(*factor)
}

fn expected(unit: Unit, range: &RangeInclusive<u64>) -> String {
    let [first, last] = [range.start(), range.end()].map(|value| show(unit, *value));
    let names: Vec<&str> = table(unit).iter().map(|(name, _)| *name).collect();
    match unit {
        Unit::Count => format!("want a whole number from {first} to {last}"),
        _ => format!("want a whole number with a unit ({}), from {first} to {last}", names.join(", ")),
    }
}

/// In the largest unit in which it is a whole number.
pub fn show(unit: Unit, value: u64) -> String {
    let largest = table(unit).iter().rev().find(|(_, factor)| value > 0 && value.is_multiple_of(*factor));
    largest.map_or_else(|| value.to_string(), |(name, factor)| format!("{}{name}", value / factor))
}

/// What the help calls such a value.
pub const fn value_name(unit: Unit) -> &'static str {
    match unit {
        Unit::Duration => "DURATION",
        Unit::Size => "SIZE",
        Unit::Rate => "RATE",
        Unit::Count => "N",
    }
}

const fn table(unit: Unit) -> &'static [(&'static str, u64)] {
    match unit {
        Unit::Duration => &DURATIONS,
        Unit::Size => &SIZES,
        Unit::Rate => &RATES,
        Unit::Count => &[("", 1)],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::limits::Limits;

    const UNITS: [Unit; 4] = [Unit::Duration, Unit::Size, Unit::Rate, Unit::Count];

    #[test]
    fn a_number_has_its_unit() {
        let ms = |text| parse(Unit::Duration, text);
        assert_eq!(
            (ms("500ms"), ms("10s"), ms("1m"), ms("2h")),
            (Some(500), Some(10_000), Some(60_000), Some(7_200_000))
        );
        let bytes = |text| parse(Unit::Size, text);
        assert_eq!((bytes("512B"), bytes("16KiB"), bytes("1MiB")), (Some(512), Some(16_384), Some(1 << 20)));
        assert_eq!((parse(Unit::Rate, "100B/s"), parse(Unit::Rate, "2KiB/s")), (Some(100), Some(2_048)));
        assert_eq!((parse(Unit::Count, "7"), parse(Unit::Duration, "007s")), (Some(7), Some(7_000)));
        assert!(UNITS.iter().all(|unit| parse(*unit, "0") == Some(0)), "nothing is nothing in any unit");
    }

    #[test]
    fn any_other_spelling_is_refused() {
        let durations = [
            "", "10", "00", "ms", "1.5s", "-1s", "+1s", " 1s", "1 s", "1s ", "1S", "1Ms", "1sec", "1h30m", "1d", "1_0s",
        ];
        assert!(durations.iter().all(|text| parse(Unit::Duration, text).is_none()));
        let sizes = ["1024", "1KB", "1kib", "1K", "1k", "1b", "1TiB", "1B/s", "0x10B", "１B"];
        assert!(sizes.iter().all(|text| parse(Unit::Size, text).is_none()));
        assert!(["100", "100B", "100/s", "100B/S", "100B/ms"].iter().all(|text| parse(Unit::Rate, text).is_none()));
        assert!(["7s", "7.0", ""].iter().all(|text| parse(Unit::Count, text).is_none()));
    }

    #[test]
    fn a_number_too_large_for_its_type_is_refused() {
        assert_eq!(parse(Unit::Duration, "18446744073709551615ms"), Some(u64::MAX));
        assert_eq!(parse(Unit::Duration, "18446744073709551616ms"), None);
        assert_eq!(parse(Unit::Duration, "18446744073709551615s"), None);
        assert_eq!(parse(Unit::Size, "17179869184GiB"), None, "2^64 bytes");
    }

    #[test]
    fn a_value_out_of_range_or_without_a_unit_is_told_what_is_allowed() {
        let read = parser(Unit::Duration, 10..=3_600_000);
        assert_eq!((read("10ms"), read("1h")), (Ok(10), Ok(3_600_000)));
        let expected = "want a whole number with a unit (ms, s, m, h), from 10ms to 1h";
        assert!(["9ms", "2h", "0", "500"].iter().all(|text| read(text) == Err(expected.into())));
        assert_eq!(parser(Unit::Count, 1..=100)("0"), Err("want a whole number from 1 to 100".into()));
    }

    #[test]
    fn what_is_printed_is_read_as_the_same_number() {
        let shown =
            [(Unit::Duration, 90_000), (Unit::Duration, 3_600_000), (Unit::Size, 16_384), (Unit::Rate, 1_000_000)];
        assert_eq!(shown.map(|(unit, value)| show(unit, value)), ["90s", "1h", "16KiB", "1000000B/s"]);
        let limits = Limits::ALL.iter().flat_map(|limit| {
            let default = (limit.read)(&Limits::DEFAULT);
            [*limit.range.start(), *limit.range.end(), default].map(|value| (limit.unit, value))
        });
        let powers =
            UNITS.into_iter().flat_map(|unit| (0..64).flat_map(move |at| [(unit, 1 << at), (unit, (1 << at) - 1)]));
        for (unit, value) in limits.chain(powers).chain(UNITS.map(|unit| (unit, u64::MAX))) {
            let text = show(unit, value);
            assert_eq!(parse(unit, &text), Some(value), "{text}");
        }
    }
}
