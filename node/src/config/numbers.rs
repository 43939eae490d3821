//! Numbers on the command line: whole ones of a range, and sizes. An error says what is accepted.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::str::FromStr;

/// Bytes of a MiB.
pub(crate) const MIB: u64 = 1 << 20;

/// Returns a parser of whole numbers of a range. What follows a point is cut off, as by memcached's atoi(3): arithmetic
/// in templates gives `2.0`.
pub(crate) fn whole<T>(range: RangeInclusive<T>) -> impl Fn(&str) -> Result<T, String> + Clone
where
    T: FromStr + PartialOrd + Display + Clone,
{
    move |text| {
        let fraction = |text: &str| text.bytes().all(|digit| digit.is_ascii_digit());
        let whole = text.split_once('.').filter(|(_, rest)| fraction(rest)).map_or(text, |(whole, _)| whole);
        match whole.parse::<T>() {
            Ok(number) if range.contains(&number) => Ok(number),
            _ => Err(format!("a whole number from {} to {}", range.start(), range.end())),
        }
    }
}

/// Parses a number of bytes: a number with a unit (`k`, `m`, `g`, `t`, each 1024 times the one before, in any of the
/// usual spellings), or a whole number of `unit`s.
pub(crate) fn bytes(text: &str, unit: u64) -> Option<u64> {
    parse_size::Config::new().with_binary().with_default_factor(unit).parse_size(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_has_a_unit_or_takes_the_usual_one() {
        let cases = [
            ("64", MIB, Some(64 * MIB)),
            ("64m", MIB, Some(64 * MIB)),
            ("64MB", MIB, Some(64 * MIB)),
            ("64 MiB", MIB, Some(64 * MIB)),
            ("4g", MIB, Some(4096 * MIB)),
            ("2048", 1, Some(2048)),
            ("5m", 1, Some(5 * MIB)),
            ("1.5m", 1, Some(MIB + MIB / 2)),
            ("m", MIB, None),
            ("-1k", 1, None),
            ("", 1, None),
            ("99999999999g", 1, None),
        ];
        for (text, unit, size) in cases {
            assert_eq!(bytes(text, unit), size, "{text}");
        }
    }

    #[test]
    fn a_number_out_of_range_is_refused_with_the_range() {
        let threads = whole(1u16..=256);
        assert_eq!(threads("256"), Ok(256));
        assert_eq!((threads("2.0"), threads("2.75"), threads("2.")), (Ok(2), Ok(2), Ok(2)));
        for wrong in ["0", "257", "-1", "two", "", ".5", "0.5", "2.0.0", "2.x", "2.-1"] {
            assert_eq!(threads(wrong).unwrap_err(), "a whole number from 1 to 256");
        }
    }
}
