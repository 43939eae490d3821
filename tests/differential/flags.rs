//! Meta commands with any of all flags in any order: also those that a command accepts and ignores.
//!
//! What memcached does by chance, or to an item that it has just replaced, is left out: see [`Random::flags`].

use std::fmt::Write as _;

use rand::RngExt;
use rand::seq::{IndexedRandom, SliceRandom};

use super::{CAS, Command, Random};

/// Keys in base64 as sent, with the key that they decode to. The last one has a byte that decoding skips.
const BASE64: [(&str, &str); 4] =
    [("aGVsbG8=", "hello"), ("aGVsbG8x", "hello1"), ("aGVsbG8yMg==", "hello22"), ("YmF!zZTY0", "base64")];

/// Writes all keys in an answer in plain. memcached returns a key in base64 only while its item remembers that it was
/// sent so, the node whenever the command sends it so.
pub(super) fn with_plain_keys(answer: &[u8]) -> Vec<u8> {
    let mut text: String = answer.iter().map(|&byte| char::from(byte)).collect();
    if text.contains(" k") {
        for (sent, plain) in BASE64 {
            let canonical = sent.replace('!', "");
            text = text.replace(&format!(" k{canonical} b"), &format!(" k{plain}"));
        }
    }
    text.chars().map(|char| char as u8).collect()
}

/// Which key a command has, and what follows from that.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// The servers choose its CAS uniques.
    Plain,
    /// In base64.
    Base64,
    /// The commands choose all its CAS uniques, and its numbers have 20 digits. memcached gives the CAS unique of `E`
    /// and the time of `T` to the replaced item if `ma` lengthens a number, so only these keys have them with `ma`.
    Chosen,
}

impl Random {
    /// A meta command with a random set of flags in random order.
    pub(super) fn flags(&mut self) -> Command {
        let kinds = [Kind::Plain, Kind::Base64, Kind::Chosen, Kind::Chosen];
        // 1.6.18 does not know E.
        let kinds = if self.newest { &kinds[..] } else { &kinds[..2] };
        let kind = *kinds.choose(&mut self.rng).expect("not empty");
        let key = match kind {
            Kind::Plain => format!("f{}", self.rng.random_range(0..6)),
            Kind::Base64 => BASE64.choose(&mut self.rng).expect("not empty").0.to_owned(),
            Kind::Chosen => format!("c{}", self.rng.random_range(0..6)),
        };
        let name = self.pick(&["mg", "mg", "mg", "ms", "ms", "md", "ma"]);
        let mut letters: Vec<char> = self.letters(name).chars().filter(|_| self.rng.random_ratio(2, 5)).collect();
        if kind == Kind::Base64 {
            letters.push('b');
        }
        let creates = name != "mg" || letters.contains(&'N');
        match kind {
            Kind::Chosen if creates && !letters.contains(&'E') => letters.push('E'),
            Kind::Plain | Kind::Base64 => letters.retain(|&letter| letter != 'E' && !(letter == 'T' && name == "ma")),
            Kind::Chosen => {}
        }
        if kind == Kind::Chosen && name == "ma" && letters.contains(&'N') && !letters.contains(&'J') {
            letters.push('J');
        }
        // The remaining time of an item whose time is past depends on memcached's age.
        let reports_time = letters.contains(&'t');
        letters.shuffle(&mut self.rng);
        let mut line = format!("{name} {key}");
        let value = (name == "ms").then(|| self.value_for(kind));
        if let Some(value) = &value {
            let _ = write!(line, " {}", value.len());
        }
        for letter in letters {
            let token = match letter {
                'T' | 'N' => self.time(reports_time),
                'R' => self.pick(&["30", "900", "3000", "10000", "0", "-1"]).to_owned(),
                'O' => self.rng.random_range(0..1000u32).to_string(),
                'C' if kind == Kind::Chosen => self.rng.random_range(0..12u32).to_string(),
                'C' => self.pick(&[CAS, CAS, "1", "0", "18446744073709551615"]).to_owned(),
                // E0 lets memcached choose in an `ms`.
                'E' => self.rng.random_range(u32::from(name == "ms")..12).to_string(),
                'F' => self.client_flags().to_owned(),
                'D' => self.number(),
                'J' if kind == Kind::Chosen => self.rng.random_range(10u64.pow(19)..=u64::MAX).to_string(),
                'J' => self.number(),
                'M' if name == "ma" => self.pick(&["I", "D", "+", "-", "x"]).to_owned(),
                'M' => self.pick(&["S", "E", "A", "P", "R", "S", "E", "A", "P", "R", "x", ""]).to_owned(),
                _ => String::new(),
            };
            let _ = write!(line, " {letter}{token}");
        }
        line += "\r\n";
        if let Some(value) = value {
            line += &value;
            line += "\r\n";
        }
        Command { key, bytes: line, exact_cas: kind == Kind::Chosen }
    }

    /// The flags that the command has in the reference, and those that it ignores.
    fn letters(&self, name: &str) -> &'static str {
        match (name, self.newest) {
            // At most 18 of them fit a line.
            ("mg", true) => "vqkstcfluhIOTNRCEF",
            ("ms", true) => "cksqvuhIOTNCEFMDR",
            ("md", true) => "qkvsxIOTNCEFMRt",
            (_, true) => "vqktcsfhIOTNRCEMDJ",
            ("mg", false) => "vqkstcfluhOTNR",
            ("ms", false) => "ckIOTFC",
            ("md", false) => "qkIOTC",
            (_, false) => "vktcONDJM",
        }
    }

    fn time(&mut self, only_future: bool) -> String {
        loop {
            let time = self.exptime();
            if !(only_future && ["-1", "2592001"].contains(&time)) {
                return time.to_owned();
            }
        }
    }

    fn value_for(&mut self, kind: Kind) -> String {
        if kind != Kind::Chosen {
            return self.value();
        }
        match self.rng.random_range(0..4) {
            0 => String::new(),
            1 => format!("a{}", self.rng.random_range(0..1000u32)),
            _ => format!("{:020}", self.rng.random_range(0..=u64::MAX)),
        }
    }
}
