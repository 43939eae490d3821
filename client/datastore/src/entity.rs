//! Kinds, keys and lists, declared once: from them come the reads, the triggers and the indexes.

use larder_client::{Codec, CodecError, Encoded, MessagePack, NotFresh};
use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};
use crate::rule::{Rule, Value, is_name};

/// A struct whose values are rows of a table. Its fields are named as the columns.
pub trait Entity: Serialize + DeserializeOwned + Clone + Send + Sync + Unpin + 'static {
    /// Table, key and lists.
    const KIND: Kind;
}

/// How many lists a kind may have.
const LISTS_MAX: usize = 8;

/// What is known of an entity: its table, key and lists.
#[derive(Debug, Clone, Copy)]
pub struct Kind {
    pub(crate) table: &'static str,
    pub(crate) key: &'static str,
    pub(crate) lists: [Option<(&'static str, List)>; LISTS_MAX],
    pub(crate) not_fresh: NotFresh,
}

impl Kind {
    /// Rows of this table, whose name is the kind's. The key is the column `id`, unless [`Kind::key`] says otherwise.
    pub const fn table(table: &'static str) -> Kind {
        Kind { table, key: "id", lists: [None; LISTS_MAX], not_fresh: NotFresh::Serve }
    }

    /// The column of integers or text that is the primary key.
    pub const fn key(mut self, key: &'static str) -> Kind {
        self.key = key;
        self
    }

    /// A list of this name.
    ///
    /// # Panics
    /// At the ninth, at compile time.
    pub const fn list(mut self, name: &'static str, list: List) -> Kind {
        let mut place = 0;
        while self.lists[place].is_some() {
            place += 1;
        }
        self.lists[place] = Some((name, list));
        self
    }

    /// What becomes of a hit that may be older than the bound, for entities and lists; [`NotFresh::Serve`] unless set.
    /// With the others reads are *strict*.
    pub const fn not_fresh(mut self, not_fresh: NotFresh) -> Kind {
        self.not_fresh = not_fresh;
        self
    }

    /// The rules of the entities and of all lists.
    pub(crate) fn rules(&self) -> Result<Vec<Rule>> {
        let mut rules = vec![Rule::new(self.table).on(self.table, [self.key]).not_fresh(self.not_fresh)];
        for (name, list) in self.lists.iter().flatten() {
            for column in list.equal.iter().copied().chain(list.order_columns().map(|(column, _)| column)) {
                if !is_name(column) {
                    return Err(Error::Rule(format!("list {name:?}: {column:?} is no name of a column")));
                }
            }
            list.descending(name)?;
            if list.equal.is_empty() {
                return Err(Error::Rule(format!("list {name:?} has no column to be found by")));
            }
            let watch = list.order_columns().map(|(column, _)| column).chain([self.key]).chain(list.only);
            let rule = Rule::new(self.list_name(name)).on(self.table, list.equal.iter().copied());
            rules.push(rule.watching(watch).not_fresh(self.not_fresh));
        }
        Ok(rules)
    }

    pub(crate) fn list_name(&self, list: &str) -> String {
        format!("{}.{list}", self.table)
    }

    pub(crate) fn find(&self, list: &str) -> Result<&List> {
        let found = self.lists.iter().flatten().find(|(name, _)| *name == list);
        let unknown = || Error::Rule(format!("{} has no list {list:?}", self.table));
        found.map(|(_, list)| list).ok_or_else(unknown)
    }
}

/// The rows that have certain values in some columns, in an order: a query whose result is cached.
#[derive(Debug, Clone, Copy)]
pub struct List {
    pub(crate) equal: &'static [&'static str],
    pub(crate) only: Option<&'static str>,
    pub(crate) order: &'static [&'static str],
    pub(crate) first: usize,
}

impl List {
    /// Found by the values of these columns.
    pub const fn on(equal: &'static [&'static str]) -> List {
        List { equal, only: None, order: &[], first: 100 }
    }

    /// Only rows for which this SQL expression of columns is true.
    pub const fn only(mut self, expression: &'static str) -> List {
        self.only = Some(expression);
        self
    }

    /// Ordered by these columns, and then by the key; `"name desc"` for the other way round, which all of them go.
    pub const fn order(mut self, order: &'static [&'static str]) -> List {
        self.order = order;
        self
    }

    /// How many keys are cached, 100 unless set. What lies beyond comes from the datastore.
    pub const fn first(mut self, keys: usize) -> List {
        self.first = keys;
        self
    }

    pub(crate) fn order_columns(&self) -> impl Iterator<Item = (&'static str, bool)> {
        self.order.iter().map(|order| match order.strip_suffix(" desc") {
            Some(column) => (column, true),
            None => (*order, false),
        })
    }

    /// Whether the list goes from the greatest to the least.
    pub(crate) fn descending(&self, name: &str) -> Result<bool> {
        let down = self.order_columns().filter(|(_, down)| *down).count();
        match down {
            0 => Ok(false),
            all if all == self.order.len() => Ok(true),
            _ => Err(Error::Rule(format!("list {name:?}: all its columns go up, or all go down"))),
        }
    }
}

/// MessagePack behind a fingerprint of the fields: a value that a program with other fields has cached is none.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fingerprinted(pub(crate) u16);

impl Fingerprinted {
    /// That of a struct's fields; of what is no struct, that of none.
    pub(crate) fn of<T: DeserializeOwned>() -> Fingerprinted {
        let fields = serde_aux::serde_introspection::serde_introspect::<T>();
        Fingerprinted::over(&fields.join(","))
    }

    pub(crate) fn over(text: &str) -> Fingerprinted {
        let hash = Sha256::digest(text);
        Fingerprinted(u16::from_be_bytes([hash[0], hash[1]]))
    }
}

impl<T: Serialize + DeserializeOwned> Codec<T> for Fingerprinted {
    fn encode(&self, value: &T) -> Result<Encoded, CodecError> {
        let packed = MessagePack.encode(value)?;
        Ok(Encoded { value: [&self.0.to_be_bytes()[..], &packed.value].concat().into(), flags: packed.flags })
    }

    fn decode(&self, mut encoded: Encoded) -> Result<T, CodecError> {
        if encoded.value.len() < 2 || encoded.value.split_to(2)[..] != self.0.to_be_bytes() {
            return Err("the value was cached by a program with other fields".into());
        }
        MessagePack.decode(encoded)
    }
}

/// The value of a field that is part of a key or an order.
pub(crate) fn field<T: Serialize>(entity: &T, column: &str) -> Result<Value> {
    let json = serde_json::to_value(entity).ok();
    let value = json.as_ref().and_then(|json| Value::from_json(json.get(column)?));
    value.ok_or_else(|| Error::Rule(format!("the struct has no field {column:?} of an integer or text")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Clone, PartialEq, Serialize, serde::Deserialize)]
    struct Before {
        id: i64,
    }

    #[derive(Debug, Clone, PartialEq, Serialize, serde::Deserialize)]
    struct After {
        id: i64,
        note: Option<String>,
    }

    #[test]
    fn a_value_of_other_fields_is_refused_though_it_could_be_decoded() {
        let old: Encoded = Fingerprinted::of::<Before>().encode(&Before { id: 7 }).unwrap();
        let again: Before = Fingerprinted::of::<Before>().decode(old.clone()).unwrap();
        assert_eq!(again, Before { id: 7 });
        assert!(Codec::<After>::decode(&Fingerprinted::of::<After>(), old).is_err());
    }

    #[test]
    fn a_kind_has_a_rule_for_itself_and_for_each_list() {
        const KIND: Kind = Kind::table("conference")
            .list("open_in", List::on(&["city", "month"]).only("seats > 0").order(&["name"]))
            .not_fresh(NotFresh::Load);
        let rules = KIND.rules().unwrap();
        let list = Rule::new("conference.open_in").on("conference", ["city", "month"]);
        assert_eq!(rules[0], Rule::new("conference").on("conference", ["id"]).not_fresh(NotFresh::Load));
        assert_eq!(rules[1], list.watching(["name", "id", "seats > 0"]).not_fresh(NotFresh::Load));
        const MIXED: Kind = Kind::table("t").list("l", List::on(&["a"]).order(&["b desc", "c"]));
        assert!(MIXED.rules().is_err());
    }
}
