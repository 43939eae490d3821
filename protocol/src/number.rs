//! Decimal numbers, strictly digits.

/// An unsigned decimal number; no sign, no blanks, no overflow.
#[inline]
pub(crate) fn parse_u64(word: &[u8]) -> Option<u64> {
    if word.is_empty() || word.len() > 20 {
        return None;
    }
    let mut value: u64 = 0;
    for &byte in word {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        value = value.checked_mul(10)?.checked_add(u64::from(digit))?;
    }
    Some(value)
}

/// As [`parse_u64`], in 32 bits.
#[inline]
pub(crate) fn parse_u32(word: &[u8]) -> Option<u32> {
    parse_u64(word)?.try_into().ok()
}

/// A signed decimal number in 32 bits.
#[inline]
pub(crate) fn parse_i32(word: &[u8]) -> Option<i32> {
    let (negative, digits) = match word {
        [b'-', digits @ ..] => (true, digits),
        [b'+', digits @ ..] => (false, digits),
        digits => (false, digits),
    };
    let value = i64::try_from(parse_u64(digits)?).ok()?;
    i32::try_from(if negative { -value } else { value }).ok()
}

/// Appends a number in decimal.
#[inline]
pub fn push_number(out: &mut Vec<u8>, value: impl itoa::Integer) {
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}
