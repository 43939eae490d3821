//! Words of a text line, and the value behind one. The classic and the meta commands are read with these.

use memchr::memchr;

use crate::number::parse_u32;

/// Longest value that a line can announce.
const VALUE_MAX_LEN: u32 = i32::MAX as u32 - 2;

/// The words of a line: what stands between runs of blanks. For short ones; [`Keys`](crate::Keys) is faster over keys.
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

/// Returns the first line without its end, and its length with it. `None` where the line's end has not come.
#[inline]
pub(crate) fn first_line(input: &[u8]) -> Option<(&[u8], usize)> {
    let end = memchr(b'\n', input)?;
    let line = input[..end].strip_suffix(b"\r").unwrap_or(&input[..end]);
    Some((line, end + 1))
}

/// Whether a client may write this key in a line as it is (protocol.txt, "Keys": no blanks, no control characters).
#[inline]
pub(crate) fn is_text_key(key: &[u8]) -> bool {
    !key.iter().any(|&b| b <= b' ' || b == 0x7f)
}

/// Takes the next word off a line. Words are parted by runs of blanks.
#[inline]
pub(crate) fn next_word<'a>(line: &mut &'a [u8]) -> Option<&'a [u8]> {
    let mut words = Words(line);
    let word = words.next();
    *line = words.0;
    word
}

/// Like [`next_word`], faster where the word is a key.
#[inline]
pub(crate) fn next_key<'a>(line: &mut &'a [u8]) -> Option<&'a [u8]> {
    let start = line.iter().position(|&b| b != b' ')?;
    let rest = &line[start..];
    let len = memchr(b' ', rest).unwrap_or(rest.len());
    *line = &rest[len..];
    Some(&rest[..len])
}

/// The line without blanks around it.
pub(crate) fn trim(mut line: &[u8]) -> &[u8] {
    while let [b' ', rest @ ..] | [rest @ .., b' '] = line {
        line = rest;
    }
    line
}

/// The length of a value; `None` where it is negative or too large to be one.
#[inline]
pub(crate) fn value_len(word: &[u8]) -> Option<usize> {
    parse_u32(word).filter(|&len| len <= VALUE_MAX_LEN).map(|len| len as usize)
}

/// The bytes behind a storage line.
pub(crate) enum Body<'a> {
    /// The value, with its line end behind it.
    Value(&'a [u8]),
    /// So many more bytes are needed.
    Incomplete(usize),
    /// There is no line end behind the value.
    Unended,
}

/// The value of `len` bytes behind a line of `consumed` bytes.
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
