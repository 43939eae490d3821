//! How figures are shown, and how times are written on a command line.

use std::fmt::Write;
use std::time::Duration;

use anyhow::{Context, bail, ensure};

/// Aligns rows as a table: the first column to the left, the others to the right.
pub fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut out = String::new();
    for row in rows {
        let mut line = String::new();
        for (column, cell) in row.iter().enumerate() {
            let width = widths[column];
            // Writing to a String cannot fail.
            let _ = match column {
                0 => write!(line, "{cell:<width$}"),
                _ => write!(line, "  {cell:>width$}"),
            };
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

/// Formats microseconds in the unit that is easiest to read.
pub fn duration(microseconds: f64) -> String {
    match microseconds {
        us if us < 1_000.0 => format!("{us:.1} µs"),
        us if us < 1_000_000.0 => format!("{:.2} ms", us / 1e3),
        us => format!("{:.2} s", us / 1e6),
    }
}

/// Formats a rate a second: a whole number from 100 on, and three digits below.
pub fn rate(per_second: f64) -> String {
    match per_second {
        rate if rate >= 99.95 || rate == rate.trunc() => count(rate.round() as u64),
        rate if rate >= 9.995 => format!("{rate:.1}"),
        rate if rate >= 0.01 => format!("{rate:.2}"),
        rate => format!("{rate:.2e}"),
    }
}

/// Formats a share of 1 in percent, with two digits.
pub fn percent(share: f64) -> String {
    format!("{:.2} %", share * 100.0)
}

/// Formats bytes in the unit that is easiest to read.
pub fn bytes(count: u64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB"];
    let mut size = count as f64;
    let mut unit = "bytes";
    for larger in units {
        if size < 1024.0 {
            break;
        }
        size /= 1024.0;
        unit = larger;
    }
    if unit == "bytes" { format!("{count} bytes") } else { format!("{size:.1} {unit}") }
}

/// Formats a whole number with a comma at each thousand.
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// The longest time, in seconds.
const TIME_MAX: f64 = 10_000.0 * 3600.0;

/// Parses a time: `10s`, `500ms`, `250µs` (or `250us`), `2m`, `1h`, `1d`. A number without a unit is in seconds.
pub fn parse_duration(text: &str) -> anyhow::Result<Duration> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: f64 = number.parse().with_context(|| format!("`{text}` is not a time (10s, 500ms, 2m)"))?;
    let seconds = match unit {
        // The micro sign, and the Greek letter that looks like it.
        "us" | "\u{b5}s" | "\u{3bc}s" => number / 1e6,
        "ms" => number / 1e3,
        "s" | "" => number,
        "m" => number * 60.0,
        "h" => number * 3600.0,
        "d" => number * 86_400.0,
        _ => bail!("`{unit}` is no unit of time: use µs, ms, s, m, h or d"),
    };
    ensure!(seconds <= TIME_MAX, "`{text}` is too long: a time is at most 10,000 hours");
    Ok(Duration::try_from_secs_f64(seconds)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let rows = [vec!["a".to_owned(), "1".to_owned()], vec!["bcd".to_owned(), "234".to_owned()]];
        assert_eq!(table(&rows), "a      1\nbcd  234\n");
    }

    #[test]
    fn numbers_are_easy_to_take_in() {
        assert_eq!([count(7), count(1234), count(1_234_567)], ["7", "1,234", "1,234,567"]);
        assert_eq!([duration(12.34), duration(1234.0), duration(2.5e6)], ["12.3 µs", "1.23 ms", "2.50 s"]);
    }

    #[test]
    fn times_take_units() {
        let cases = [
            ("10s", 10_000_000),
            ("500ms", 500_000),
            ("250us", 250),
            ("250\u{b5}s", 250),
            ("250\u{3bc}s", 250),
            ("1.5m", 90_000_000),
            ("2", 2_000_000),
        ];
        for (text, microseconds) in cases {
            assert_eq!(parse_duration(text).expect("valid"), Duration::from_micros(microseconds), "{text}");
        }
        assert!(parse_duration("5 parsecs").is_err());
        for wrong in ["-1s", "nan", "inf", "1e9", "999999999999h", "99999999999999999999999s", "", "s"] {
            assert!(parse_duration(wrong).is_err(), "{wrong}");
        }
    }
}
