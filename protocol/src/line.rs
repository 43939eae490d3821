//! Lines, their words, and the value that follows a line: the parts of which classic and meta commands are made.

use memchr::memchr;

use crate::number::parse_u32;

/// Longest value in bytes that a line can announce (memcached: its length and line end fit an `int`).
const VALUE_MAX_LEN: u32 = i32::MAX as u32 - 2;

/// Iterator over the words of a line, which runs of blanks separate. Made for short words: [`Keys`](crate::Keys) is
/// faster for keys.
#[derive(Debug, Clone)]
pub struct Words<'a>(pub(crate) &'a [u8]);

impl<'a> Iterator for Words<'a> {
    type Item = &'a [u8];

    #[inline]
    fn next(&mut self) -> Option<&'a [u8]> {
        let start = self.0.iter().position(|&b| b != b' ')?;
        let rest = &self.0[start..];
        let len = rest.iter().position(|&b| b == b' ').unwrap_or(rest.len());
        self.0 = &rest[len..];
        Some(&rest[..len])
    }
}

/// Returns the first line without its end, and its length with the end. `None` if the end has not arrived.
#[inline]
pub(crate) fn first_line(input: &[u8]) -> Option<(&[u8], usize)> {
    let end = memchr(b'\n', input)?;
    let line = input[..end].strip_suffix(b"\r").unwrap_or(&input[..end]);
    Some((line, end + 1))
}

/// Whether a client may write this key in a line as it is (protocol.txt, "Keys": no blanks, no control characters).
#[inline]
pub(crate) fn is_text_key(key: &[u8]) -> bool {
    // Without an early exit, which would keep the loop from being vectorised.
    key.iter().fold(true, |all, &b| all & (b > b' ') & (b != 0x7f))
}

/// Removes the next word from a line and returns it.
#[inline]
pub(crate) fn next_word<'a>(line: &mut &'a [u8]) -> Option<&'a [u8]> {
    let mut words = Words(line);
    let word = words.next();
    *line = words.0;
    word
}

/// Like [`next_word`], and faster if the word is a key.
#[inline]
pub(crate) fn next_key<'a>(line: &mut &'a [u8]) -> Option<&'a [u8]> {
    let start = line.iter().position(|&b| b != b' ')?;
    let rest = &line[start..];
    let len = memchr(b' ', rest).unwrap_or(rest.len());
    *line = &rest[len..];
    Some(&rest[..len])
}

/// Returns the line without the blanks around it.
pub(crate) fn trim(mut line: &[u8]) -> &[u8] {
    while let [b' ', rest @ ..] | [rest @ .., b' '] = line {
        line = rest;
    }
    line
}

/// Parses the length of a value in bytes; `None` if it is negative or too large.
#[inline]
pub(crate) fn value_len(word: &[u8]) -> Option<usize> {
    parse_u32(word).filter(|&len| len <= VALUE_MAX_LEN).map(|len| len as usize)
}

/// The bytes that follow a storage line.
pub(crate) enum Body<'a> {
    /// The value. A line end follows it.
    Value(&'a [u8]),
    /// At least this many further bytes are needed.
    Incomplete(usize),
    /// No line end follows the value.
    Unended,
}

/// Returns the value of `len` bytes that follows a line of `consumed` bytes.
#[inline]
pub(crate) fn body(input: &[u8], consumed: usize, len: usize) -> Body<'_> {
    let rest = &input[consumed..];
    if rest.len() < len + 2 {
        Body::Incomplete(len + 2 - rest.len())
    } else if &rest[len..len + 2] == b"\r\n" {
        Body::Value(&rest[..len])
    } else {
        Body::Unended
    }
}
