//! The writer of meta requests.

use crate::base64;
use crate::command::{Direction, Exptime, MetaReply, StoreMode};
use crate::line::is_text_key;
use crate::number::push_number;

/// Writes one meta request: command and key, then flags, then [`Line::end`] (protocol.txt, "Meta Commands").
///
/// The server answers flags in the order written. Each letter is written once: a flag that the line already has keeps
/// its first token.
///
/// A key with blanks or control characters is written in base64 with flag `b`. The caller checks that the key is not
/// empty and not longer than [`KEY_MAX_LEN`](crate::KEY_MAX_LEN) as sent, and that the command has the flag: a server
/// answers `CLIENT_ERROR` otherwise.
///
/// ```
/// use larder_protocol::StoreMode;
/// use larder_protocol::meta::Line;
///
/// let mut out = Vec::new();
/// let mut line = Line::get(&mut out, b"apple");
/// line.flag(b'v').flag(b'c').number(b'T', 60);
/// line.end();
/// assert_eq!(out, b"mg apple v c T60\r\n");
///
/// out.clear();
/// let mut line = Line::set(&mut out, b"two words", b"red");
/// line.store_mode(StoreMode::Add).number(b'F', 7);
/// line.end();
/// assert_eq!(out, b"ms dHdvIHdvcmRz 3 b ME F7\r\nred\r\n");
/// ```
#[derive(Debug)]
#[must_use = "a line without `end` is not a request"]
pub struct Line<'o> {
    out: &'o mut Vec<u8>,
    /// One bit for each flag letter that the line has.
    present: u128,
    /// The value of `ms`, which follows the line's end.
    value: Option<&'o [u8]>,
}

impl<'o> Line<'o> {
    /// Begins `mg`, which reads an item.
    #[inline]
    pub fn get(out: &'o mut Vec<u8>, key: &[u8]) -> Self {
        Line::begin(out, b"mg", key, None, &MetaReply::EMPTY)
    }

    /// Begins `ms`, which stores an item.
    #[inline]
    pub fn set(out: &'o mut Vec<u8>, key: &[u8], value: &'o [u8]) -> Self {
        Line::begin(out, b"ms", key, Some(value), &MetaReply::EMPTY)
    }

    /// Begins `md`, which deletes or invalidates an item.
    #[inline]
    pub fn delete(out: &'o mut Vec<u8>, key: &[u8]) -> Self {
        Line::begin(out, b"md", key, None, &MetaReply::EMPTY)
    }

    /// Begins `ma`, which increments or decrements an item.
    #[inline]
    pub fn arithmetic(out: &'o mut Vec<u8>, key: &[u8]) -> Self {
        Line::begin(out, b"ma", key, None, &MetaReply::EMPTY)
    }

    /// Begins a line with the flag words of `reply` as they are. If these have `b`, `reply.key` is written as the key.
    #[inline]
    pub(super) fn begin(
        out: &'o mut Vec<u8>,
        name: &[u8; 2],
        key: &[u8],
        value: Option<&'o [u8]>,
        reply: &MetaReply<'_>,
    ) -> Self {
        let present = reply.words().fold(0u128, |letters, word| letters | 1 << (word[0] & 127));
        let given = present >> b'b' & 1 == 1;
        let binary = given || !is_text_key(key);
        out.extend_from_slice(name);
        out.push(b' ');
        match binary {
            true if given && !reply.key.is_empty() => out.extend_from_slice(reply.key),
            true => base64::encode(out, key),
            false => out.extend_from_slice(key),
        }
        if let Some(value) = value {
            out.push(b' ');
            push_number(out, value.len());
        }
        let mut line = Line { out, present, value };
        // The first place, because `me` reads `b` only there.
        line.flag_if(b'b', binary);
        if !reply.flags.is_empty() {
            line.out.push(b' ');
            line.out.extend_from_slice(reply.flags);
        }
        line
    }

    /// Writes a flag without a token, for example `v` (return the value) or `q` (quiet).
    #[inline]
    pub fn flag(&mut self, letter: u8) -> &mut Self {
        self.is_new(letter);
        self
    }

    /// Writes a flag with a number, for example `C` (CAS unique), `F` (client flags) or `D` (delta).
    #[inline]
    pub fn number(&mut self, letter: u8, number: u64) -> &mut Self {
        if self.is_new(letter) {
            push_number(self.out, number);
        }
        self
    }

    /// Writes a flag with an expiration time: `T`, `N` or `R`.
    #[inline]
    pub fn exptime(&mut self, letter: u8, exptime: Exptime) -> &mut Self {
        if self.is_new(letter) {
            push_number(self.out, exptime.0);
        }
        self
    }

    /// Writes the mode of `ms` (flag `M`). [`StoreMode::Set`] is the default and needs no flag.
    #[inline]
    pub fn store_mode(&mut self, mode: StoreMode) -> &mut Self {
        match mode {
            StoreMode::Set => self,
            StoreMode::Add => self.mode(b'E'),
            StoreMode::Replace => self.mode(b'R'),
            StoreMode::Append => self.mode(b'A'),
            StoreMode::Prepend => self.mode(b'P'),
        }
    }

    /// Writes the mode of `ma` (flag `M`). [`Direction::Up`] is the default and needs no flag.
    #[inline]
    pub fn direction(&mut self, direction: Direction) -> &mut Self {
        match direction {
            Direction::Up => self,
            Direction::Down => self.mode(b'D'),
        }
    }

    /// Ends the line and, for `ms`, writes the value.
    #[inline]
    pub fn end(self) {
        self.out.extend_from_slice(b"\r\n");
        if let Some(value) = self.value {
            self.out.extend_from_slice(value);
            self.out.extend_from_slice(b"\r\n");
        }
    }

    /// Writes a flag letter unless the line has it. Returns whether it was written.
    #[inline]
    fn is_new(&mut self, letter: u8) -> bool {
        let is_new = self.present >> (letter & 127) & 1 == 0;
        if is_new {
            self.present |= 1 << (letter & 127);
            self.out.extend_from_slice(&[b' ', letter]);
        }
        is_new
    }

    fn mode(&mut self, mode: u8) -> &mut Self {
        if self.is_new(b'M') {
            self.out.push(mode);
        }
        self
    }

    pub(super) fn flag_if(&mut self, letter: u8, wanted: bool) {
        if wanted {
            self.flag(letter);
        }
    }

    pub(super) fn number_if(&mut self, letter: u8, number: Option<u64>) {
        if let Some(number) = number {
            self.number(letter, number);
        }
    }

    pub(super) fn exptime_if(&mut self, letter: u8, exptime: Option<Exptime>) {
        if let Some(exptime) = exptime {
            self.exptime(letter, exptime);
        }
    }
}
