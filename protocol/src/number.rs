//! Decimal numbers, parsed as strictly or leniently as memcached parses each field.
//!
//! The strict functions follow memcached's tokenizer (its library `mcmc`), the lenient ones `safe_strtoul` and its kind
//! in memcached's `util.c`, which call C's `strtoul`.

/// Parses an unsigned number of at most 22 digits that fits in 64 bits.
#[inline]
pub(crate) fn parse_u64(word: &[u8]) -> Option<u64> {
    if word.is_empty() || word.len() > 22 {
        return None;
    }
    let mut value = 0u64;
    if word.len() < 20 {
        for &byte in word {
            let digit = byte.wrapping_sub(b'0');
            if digit > 9 {
                return None;
            }
            value = value * 10 + u64::from(digit);
        }
        return Some(value);
    }
    for &byte in word {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        value = value.checked_mul(10)?.checked_add(u64::from(digit))?;
    }
    Some(value)
}

/// Parses an unsigned number of at most 11 digits that fits in 32 bits.
#[inline]
pub(crate) fn parse_u32(word: &[u8]) -> Option<u32> {
    if word.len() > 11 {
        return None;
    }
    parse_u64(word)?.try_into().ok()
}

/// Parses a number of at most 11 characters that fits in 32 bits with its sign. A lone `-` is 0.
#[inline]
pub(crate) fn parse_i32(word: &[u8]) -> Option<i32> {
    if word.len() > 11 {
        return None;
    }
    match word {
        [b'-'] => Some(0),
        [b'-', digits @ ..] => i32::try_from(-(parse_u64(digits)? as i64)).ok(),
        _ => i32::try_from(parse_u64(word)?).ok(),
    }
}

/// Parses a word of a storage line as C's `strtol` does: a sign, then digits, which white space may follow. The number
/// is truncated to 32 bits.
pub(crate) fn parse_lenient_i32(word: &[u8]) -> Option<i32> {
    let (negative, digits) = lenient_digits(word)?;
    let magnitude = parse_long(digits)?;
    let limit = i64::MAX as u64 + u64::from(negative);
    (magnitude <= limit).then(|| if negative { (magnitude as i32).wrapping_neg() } else { magnitude as i32 })
}

/// Parses client flags as C's `strtoul` does: like [`parse_lenient_u64`], truncated to 32 bits.
pub(crate) fn parse_lenient_u32(word: &[u8]) -> Option<u32> {
    if word == b"0" {
        return Some(0);
    }
    parse_lenient_u64(word).map(|number| number as u32)
}

/// Parses the number at the beginning of an item's value as memcached does for `incr`: white space, a sign, digits,
/// then white space or the end.
pub fn parse_lenient_u64(text: &[u8]) -> Option<u64> {
    let (negative, digits) = lenient_digits(text)?;
    let magnitude = parse_long(digits)?;
    // memcached negates the number first and refuses it only if the result has the sign bit.
    match (negative, magnitude.wrapping_neg()) {
        (true, wrapped) if wrapped >> 63 == 1 => None,
        (true, wrapped) => Some(wrapped),
        (false, _) => Some(magnitude),
    }
}

fn lenient_digits(word: &[u8]) -> Option<(bool, &[u8])> {
    let blank = |b: &u8| matches!(b, b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c);
    let word = &word[word.iter().position(|b| !blank(b))?..];
    let (negative, rest) = match word {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        _ => (false, word),
    };
    let len = rest.iter().position(|b| !b.is_ascii_digit()).unwrap_or(rest.len());
    let ended = rest.get(len).is_none_or(|b| blank(b) || *b == 0);
    (len > 0 && ended).then(|| (negative, &rest[..len]))
}

fn parse_long(digits: &[u8]) -> Option<u64> {
    digits.iter().try_fold(0u64, |value, digit| value.checked_mul(10)?.checked_add(u64::from(digit - b'0')))
}

/// Appends a number in decimal.
#[inline]
pub fn push_number(out: &mut Vec<u8>, number: impl itoa::Integer) {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strict_numbers_have_a_limit_on_digits() {
        assert_eq!(parse_u64(b"18446744073709551615"), Some(u64::MAX));
        assert_eq!(parse_u64(b"18446744073709551616"), None);
        assert_eq!(parse_u64(b"0000000000000000000001"), Some(1));
        assert_eq!(parse_u64(b"00000000000000000000001"), None);
        assert_eq!(parse_i32(b"-2147483648"), Some(i32::MIN));
        assert_eq!(parse_i32(b"2147483648"), None);
        assert_eq!(parse_i32(b"-"), Some(0));
        assert_eq!(parse_i32(b"+1"), None);
        assert_eq!(parse_u32(b"4294967295"), Some(u32::MAX));
        assert_eq!(parse_u32(b"4294967296"), None);
    }

    #[test]
    fn lenient_numbers_are_cut_to_32_bits() {
        assert_eq!(parse_lenient_u32(b"5000000000"), Some(705_032_704));
        assert_eq!(parse_lenient_u32(b"-0"), Some(0));
        assert_eq!(parse_lenient_u32(b"-1"), None);
        assert_eq!(parse_lenient_i32(b"+5"), Some(5));
        assert_eq!(parse_lenient_i32(b"2147483648"), Some(i32::MIN));
        assert_eq!(parse_lenient_i32(b"5\tx"), Some(5));
        assert_eq!(parse_lenient_i32(b"5x"), None);
        assert_eq!(parse_lenient_i32(b"99999999999999999999"), None);
    }
}
