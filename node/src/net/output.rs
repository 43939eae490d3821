//! The unsent replies of a connection: bytes, and references to large values between them.

use std::io::IoSlice;

use bytes::Bytes;

#[derive(Debug, Default)]
pub(crate) struct Output {
    /// Replies without the large values.
    pub(crate) bytes: Vec<u8>,
    /// In place of `bytes`, while the connection waits.
    kept: Bytes,
    /// Large values, each with the offset in `bytes` that it goes before.
    values: Vec<(usize, Bytes)>,
    values_len: usize,
    /// Bytes already sent, of `bytes` and values together.
    sent: usize,
}

/// Most slices given to one vectored write.
const SLICES: usize = 32;

impl Output {
    /// Appends a large value without copying it.
    pub(crate) fn push_value(&mut self, value: Bytes) {
        self.values_len += value.len();
        self.values.push((self.bytes.len(), value));
    }

    /// Leaves a place for bytes that [`Output::fill`] brings before anything is sent.
    pub(crate) fn hole(&mut self) -> usize {
        self.values.push((self.bytes.len(), Bytes::new()));
        self.values.len() - 1
    }

    /// Puts bytes into the place that [`Output::hole`] left.
    pub(crate) fn fill(&mut self, hole: usize, bytes: Bytes) {
        self.values_len += bytes.len();
        self.values[hole].1 = bytes;
    }

    /// Moves the bytes elsewhere: `keep` returns a copy. The emptied buffer is returned.
    pub(crate) fn keep<E>(&mut self, keep: impl FnOnce(&[u8]) -> Result<Bytes, E>) -> Result<Vec<u8>, E> {
        if self.kept.is_empty() {
            // The values' places count from the beginning; without any, what is sent can go.
            let from = if self.values.is_empty() { std::mem::take(&mut self.sent) } else { 0 };
            self.kept = keep(&self.bytes[from..])?;
        }
        let mut bytes = std::mem::take(&mut self.bytes);
        bytes.clear();
        Ok(bytes)
    }

    fn head(&self) -> &[u8] {
        if self.kept.is_empty() { &self.bytes } else { &self.kept }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0 && self.values.is_empty()
    }

    /// Appends all replies to `out`.
    pub(crate) fn append_to(&self, out: &mut Vec<u8>) {
        let mut from = 0;
        for (at, value) in &self.values {
            out.extend_from_slice(&self.head()[from..*at]);
            out.extend_from_slice(value);
            from = *at;
        }
        out.extend_from_slice(&self.head()[from..]);
    }

    /// Length of all replies in bytes, with those already sent.
    pub(crate) fn len(&self) -> usize {
        self.head().len() + self.values_len
    }

    pub(crate) fn is_sent(&self) -> bool {
        self.sent == self.len()
    }

    /// Empties the output; the allocation is kept.
    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.kept = Bytes::new();
        self.values.clear();
        self.values_len = 0;
        self.sent = 0;
    }

    pub(crate) fn advance(&mut self, sent: usize) {
        self.sent += sent;
    }

    /// Returns all replies in one piece.
    pub(crate) fn to_vec(&self) -> Vec<u8> {
        let mut all = Vec::with_capacity(self.len());
        self.append_to(&mut all);
        all
    }

    /// Returns the unsent bytes if they lie in one slice.
    pub(crate) fn unsent(&self) -> Option<&[u8]> {
        self.values.is_empty().then(|| &self.head()[self.sent..])
    }

    /// The unsent slices in order, the first few of them.
    pub(crate) fn slices(&self) -> ([IoSlice<'_>; SLICES], usize) {
        let mut slices = [IoSlice::new(b""); SLICES];
        let mut count = 0;
        let mut skip = self.sent;
        let mut from = 0;
        let mut push = |slice| {
            let slice: &[u8] = slice;
            if skip >= slice.len() {
                skip -= slice.len();
            } else if count < SLICES {
                slices[count] = IoSlice::new(&slice[skip..]);
                skip = 0;
                count += 1;
            }
        };
        for (at, value) in &self.values {
            push(&self.head()[from..*at]);
            push(value);
            from = *at;
        }
        push(&self.head()[from..]);
        (slices, count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_are_the_bytes_and_values_in_order_from_wherever_sending_stopped() {
        let mut output = Output::default();
        output.bytes.extend_from_slice(b"head ");
        output.push_value(Bytes::from_static(b"VALUE"));
        output.bytes.extend_from_slice(b" tail");
        let whole = b"head VALUE tail";
        for sent in 0..=whole.len() {
            output.sent = sent;
            let (slices, count) = output.slices();
            let rest: Vec<u8> = slices[..count].iter().flat_map(|slice| slice.to_vec()).collect();
            assert_eq!(rest, &whole[sent..]);
        }
        assert!(output.is_sent());
    }
}
