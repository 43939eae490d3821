//! What is printed: nothing that a server sends reaches a terminal as a control character.

use std::io::{self, BufWriter, IsTerminal, StdoutLock, Write};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

use crate::format::count;

/// Whether all items were found, or stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Found {
    All,
    NotAll,
}

impl Found {
    pub(crate) fn all(all: bool) -> Found {
        if all { Found::All } else { Found::NotAll }
    }
}

/// Returns text that shows `bytes` on one line. Control characters, those without a picture, and bytes that are not
/// UTF-8 are written as escapes (`\n`, `\u{202e}`, `\xff`).
pub(crate) fn printable(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for letter in chunk.valid().chars() {
            match letter {
                '\'' | '"' | '\\' => text.push(letter),
                letter => text.extend(letter.escape_debug()),
            }
        }
        text.extend(chunk.invalid().iter().map(|byte| format!("\\x{byte:02x}")));
    }
    text
}

/// Like [`printable`], with line ends and tabs as they are.
fn printable_lines(bytes: &[u8]) -> String {
    printable(bytes).replace("\\n", "\n").replace("\\t", "\t")
}

/// Puts `bytes` into a JSON object as `name`, or as `name_base64` if they are not UTF-8.
pub(crate) fn put_bytes(object: &mut Map<String, Value>, name: &str, bytes: &[u8]) {
    match std::str::from_utf8(bytes) {
        Ok(text) => object.insert(name.to_owned(), text.into()),
        Err(_) => object.insert(format!("{name}_base64"), STANDARD.encode(bytes).into()),
    };
}

/// Standard output.
pub(crate) struct Output(BufWriter<StdoutLock<'static>>);

impl Output {
    pub(crate) fn new() -> Output {
        Output(BufWriter::new(io::stdout().lock()))
    }

    /// Whether a person reads it.
    pub(crate) fn is_terminal(&self) -> bool {
        self.0.get_ref().is_terminal()
    }

    /// Prints a line.
    pub(crate) fn line(&mut self, text: &str) -> io::Result<()> {
        writeln!(self.0, "{text}")
    }

    /// Prints a line, and at once.
    pub(crate) fn event(&mut self, text: &str) -> io::Result<()> {
        self.line(text)?;
        self.0.flush()
    }

    /// Prints a JSON object on a line.
    pub(crate) fn json(&mut self, object: Map<String, Value>) -> io::Result<()> {
        self.event(&Value::Object(object).to_string())
    }

    /// Prints a value as it is; on a terminal, with escapes and a line end.
    pub(crate) fn value(&mut self, value: &[u8]) -> io::Result<()> {
        if self.is_terminal() { self.line(&printable_lines(value)) } else { self.0.write_all(value) }
    }

    /// Empties a terminal.
    pub(crate) fn clear(&mut self) -> io::Result<()> {
        write!(self.0, "\x1b[H\x1b[2J")
    }

    /// Prints what is left.
    pub(crate) fn end(mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// Returns a number of things: `1 item`, `2 items`.
pub(crate) fn number_of(number: u64, thing: &str) -> String {
    format!("{} {thing}{}", count(number), if number == 1 { "" } else { "s" })
}

/// Prints a remark for a person beside the output: what was not found, or how much was done.
pub(crate) fn remark(text: &str) {
    // Where nobody reads it, nothing is to be done.
    let _ = writeln!(io::stderr(), "{}", printable(text.as_bytes()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_would_obey_is_shown_as_an_escape() {
        assert_eq!(printable("ключ:\"a\\b\" 日本".as_bytes()), "ключ:\"a\\b\" 日本");
        assert_eq!(printable(b"a\x1b[31m\r\n\x07\x00\x7f"), "a\\u{1b}[31m\\r\\n\\u{7}\\0\\u{7f}");
        assert_eq!(printable(b"\xff\xc3("), "\\xff\\xc3(");
        // C1 controls and letters that turn the direction of text.
        assert_eq!(printable("\u{9b}2J\u{202e}".as_bytes()), "\\u{9b}2J\\u{202e}");
        assert_eq!(printable_lines(b"a\tb\nc\x1b"), "a\tb\nc\\u{1b}");
    }

    #[test]
    fn bytes_that_are_no_text_are_base64_in_json() {
        let mut object = Map::new();
        put_bytes(&mut object, "key", b"\xff");
        put_bytes(&mut object, "value", b"a\n");
        assert_eq!(Value::Object(object).to_string(), r#"{"key_base64":"/w==","value":"a\n"}"#);
    }
}
