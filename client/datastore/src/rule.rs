//! Rules: which cache keys a change of which rows makes old. And the one place where such a key is made.

use std::borrow::Cow;

use larder_client::{NotFresh, short_key};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::error::{Error, Result};

/// The name of a row in the outbox that stands for all keys: a table was emptied.
pub(crate) const EVERYTHING: &str = "*";

/// The name of a group of cache keys, and the tables whose rows they depend on.
///
/// A page about a conference, made of two tables, is one rule with two sources:
///
/// ```
/// use larder_datastore::Rule;
///
/// let page = Rule::new("conference_page").on("conference", ["id"]).on("session",
/// ["conference_id"]).watching(["title"]); assert_eq!(page.key("", &[7.into()]), b"conference_page:7");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    pub(crate) name: String,
    pub(crate) sources: Vec<Source>,
    pub(crate) not_fresh: NotFresh,
}

/// A table that a rule depends on.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Source {
    pub(crate) table: String,
    /// Columns whose values make the key.
    pub(crate) key: Vec<String>,
    /// Columns, or expressions of columns, an update of which counts beside that of the key; all columns where empty.
    pub(crate) watch: Vec<String>,
}

impl Rule {
    /// A rule of this name, which begins its keys. It is of letters, digits, and `_ . -`.
    pub fn new(name: impl Into<String>) -> Rule {
        Rule { name: name.into(), sources: Vec::new(), not_fresh: NotFresh::Serve }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Rows of `table` make the keys old whose parts are the values of the columns `key`, in this order.
    ///
    /// The columns hold integers, booleans or text, and never NULL.
    pub fn on<S: Into<String>>(mut self, table: impl Into<String>, key: impl IntoIterator<Item = S>) -> Rule {
        let key = key.into_iter().map(Into::into).collect();
        self.sources.push(Source { table: table.into(), key, watch: Vec::new() });
        self
    }

    /// Of the last table only updates count that change one of these columns or SQL expressions, or the key. Without
    /// this all that change anything do.
    pub fn watching<S: Into<String>>(mut self, watch: impl IntoIterator<Item = S>) -> Rule {
        if let Some(source) = self.sources.last_mut() {
            source.watch = watch.into_iter().map(Into::into).collect();
        }
        self
    }

    /// What becomes of a hit that may be older than the bound; [`NotFresh::Serve`] unless set. With the others reads of
    /// these keys are *strict*.
    pub fn not_fresh(mut self, not_fresh: NotFresh) -> Rule {
        self.not_fresh = not_fresh;
        self
    }

    /// The cache key of these values: prefix, name, and the values behind colons; longer ones than 250 bytes are
    /// shortened as [`short_key`] does.
    pub fn key(&self, prefix: &str, values: &[Value]) -> Vec<u8> {
        cache_key(prefix, &self.name, values)
    }

    pub(crate) fn check(&self) -> Result<()> {
        let wrong = |what: String| Err(Error::Rule(format!("rule {:?}: {what}", self.name)));
        let plain = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '_' | '.' | '-');
        if self.name.is_empty() || self.name.len() > 100 || !self.name.chars().all(plain) {
            return wrong("a name is 1 to 100 letters, digits, _, . or -".into());
        }
        let parts = self.sources.first().map_or(0, |source| source.key.len());
        for source in &self.sources {
            if source.key.is_empty() {
                return wrong(format!("the key of {} has no columns", source.table));
            }
            if source.key.len() != parts {
                return wrong("all its tables need as many key columns".into());
            }
            for name in source.table.split('.').chain(source.key.iter().map(String::as_str)) {
                if !is_name(name) {
                    return wrong(format!("{name:?} is no name of a table or column"));
                }
            }
        }
        if self.sources.is_empty() { wrong("it depends on no table".into()) } else { Ok(()) }
    }
}

/// Whether this is a plain name of a column or table.
pub(crate) fn is_name(name: &str) -> bool {
    let word = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
    !name.is_empty() && name.chars().all(word) && !name.starts_with(|first: char| first.is_ascii_digit())
}

/// All but what stays as it is in a key.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'_').remove(b'.').remove(b'-').remove(b'~');

pub(crate) fn cache_key(prefix: &str, rule: &str, values: &[Value]) -> Vec<u8> {
    let mut key = format!("{prefix}{rule}");
    for value in values {
        key.push(':');
        match value {
            Value::Integer(number) => key.push_str(&number.to_string()),
            Value::Text(text) => key.extend(utf8_percent_encode(text, ENCODED)),
        }
    }
    match short_key(key.as_bytes()) {
        Cow::Borrowed(_) => key.into_bytes(),
        Cow::Owned(short) => short,
    }
}

/// A part of a key. A boolean is 0 or 1.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Value {
    /// An integer of up to 64 bits.
    Integer(i64),
    /// Text, compared byte by byte.
    Text(String),
}

impl Value {
    /// A part of a key as a trigger writes it; `None` for a kind of value that no key has.
    pub(crate) fn from_json(json: &serde_json::Value) -> Option<Value> {
        match json {
            serde_json::Value::Number(number) => number.as_i64().map(Value::Integer),
            serde_json::Value::Bool(bool) => Some(Value::Integer((*bool).into())),
            serde_json::Value::String(text) => Some(Value::Text(text.clone())),
            _ => None,
        }
    }

    /// An array of such parts.
    pub(crate) fn all_from_json(json: &str) -> Option<Vec<Value>> {
        serde_json::from_str::<Vec<serde_json::Value>>(json).ok()?.iter().map(Value::from_json).collect()
    }

    pub(crate) fn to_json(&self) -> serde_json::Value {
        match self {
            Value::Integer(number) => (*number).into(),
            Value::Text(text) => text.as_str().into(),
        }
    }
}

macro_rules! value_from {
    ($($type:ty => $make:expr),* $(,)?) => {
        $(impl From<$type> for Value {
            fn from(value: $type) -> Value {
                let make: fn($type) -> Value = $make;
                make(value)
            }
        })*
    };
}

value_from! {
    i64 => Value::Integer,
    i32 => |number| Value::Integer(number.into()),
    i16 => |number| Value::Integer(number.into()),
    u32 => |number| Value::Integer(number.into()),
    bool => |bool| Value::Integer(bool.into()),
    String => Value::Text,
    &str => |text| Value::Text(text.to_owned()),
    &String => |text| Value::Text(text.clone()),
}

/// The parts of a key: a tuple of up to four.
pub trait Values {
    /// The parts, in order.
    fn values(self) -> Vec<Value>;
}

impl Values for Vec<Value> {
    fn values(self) -> Vec<Value> {
        self
    }
}

macro_rules! values_for {
    ($($part:ident),+) => {
        impl<$($part: Into<Value>),+> Values for ($($part,)+) {
            #[allow(non_snake_case, reason = "the types' names serve as the variables'")]
            fn values(self) -> Vec<Value> {
                let ($($part,)+) = self;
                vec![$($part.into()),+]
            }
        }
    };
}

values_for!(A);
values_for!(A, B);
values_for!(A, B, C);
values_for!(A, B, C, D);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_its_rule_and_values_and_no_text_can_look_like_two() {
        assert_eq!(cache_key("", "conference", &[7.into()]), b"conference:7");
        assert_eq!(cache_key("app:", "r", &["a:b".into(), "c d\n%".into()]), b"app:r:a%3Ab:c%20d%0A%25");
        assert_eq!(cache_key("", "r", &["Zürich".into()]), b"r:Z%C3%BCrich");
        assert_ne!(cache_key("", "r", &["a:b".into()]), cache_key("", "r", &["a".into(), "b".into()]));
        let long = cache_key("", "r", &["x".repeat(300).into()]);
        assert!(long.len() <= 250 && long != cache_key("", "r", &["x".repeat(301).into()]));
    }

    #[test]
    fn what_a_trigger_writes_makes_the_same_key_as_a_readers_values() {
        let written = Value::all_from_json(r#"[7, "London", true]"#).unwrap();
        assert_eq!(written, (7, "London", true).values());
        for no_key in ["[null]", "[1.5]", "[[1]]", "7", "not json"] {
            assert_eq!(Value::all_from_json(no_key), None, "{no_key}");
        }
    }

    #[test]
    fn a_rule_that_cannot_work_is_refused() {
        for wrong in [
            Rule::new("a b").on("t", ["id"]),
            Rule::new("r"),
            Rule::new("r").on("t", [] as [&str; 0]),
            Rule::new("r").on("t; drop table t", ["id"]),
            Rule::new("r").on("t", ["id"]).on("u", ["a", "b"]),
        ] {
            assert!(wrong.check().is_err(), "{wrong:?}");
        }
        assert!(Rule::new("r").on("shop.t", ["id"]).on("u", ["t_id"]).check().is_ok());
    }
}
