//! Lists: the first keys of a group are cached, and their entities by themselves.
//!
//! A list and its entities may be a bound apart in time. An entity that has left the group since is dropped; one that
//! has come is there when the list is.

use std::marker::PhantomData;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures_util::{Stream, StreamExt, TryStreamExt, stream};
use sqlx::FromRow;

use crate::ddl::Dialect;
use crate::entity::{Entity, List, field};
use crate::error::{Error, Result};
use crate::outbox::Backend;
use crate::rule::Value;
use crate::store::Datastore;

/// How many rows a stream asks for at a time.
const STREAM: usize = 100;

/// A list of entities. Made by [`Datastore::list`].
#[derive(Debug)]
pub struct Listing<DB: Backend, T> {
    store: Datastore<DB>,
    rule: String,
    list: &'static List,
    descending: bool,
    values: Vec<Value>,
    of: PhantomData<fn() -> T>,
}

/// A part of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page<T> {
    /// The entities, in order.
    pub items: Vec<T>,
    /// Where the next page begins: a text for a link or a device. `None` where there is none.
    pub next: Option<String>,
}

impl<DB: Backend, T: Entity + for<'r> FromRow<'r, DB::Row>> Listing<DB, T> {
    pub(crate) fn new(store: Datastore<DB>, name: &str, values: Vec<Value>) -> Result<Self> {
        let kind: &'static crate::entity::Kind = const { &T::KIND };
        let list = kind.find(name)?;
        if values.len() != list.equal.len() {
            let wants = list.equal.join(", ");
            return Err(Error::Rule(format!(
                "list {name:?} takes the values of {wants}, and these are {}",
                values.len()
            )));
        }
        let (rule, descending) = (kind.list_name(name), list.descending(name)?);
        Ok(Listing { store, rule, list, descending, values, of: PhantomData })
    }

    /// The first of the list.
    ///
    /// # Errors
    /// Where the datastore had to be asked and could not be.
    pub async fn first(&self) -> Result<Option<T>> {
        Ok(self.fetch(1).await?.into_iter().next())
    }

    /// The first `count` of the list.
    ///
    /// # Errors
    /// As [`Listing::first`].
    pub async fn fetch(&self, count: usize) -> Result<Vec<T>> {
        Ok(self.page(None, count).await?.items)
    }

    /// Up to `count` entities from `cursor` on, which is [`Page::next`] of the page before.
    ///
    /// # Errors
    /// [`Error::Rule`] for a cursor that is none, and as [`Listing::first`].
    pub async fn page(&self, cursor: Option<&str>, count: usize) -> Result<Page<T>> {
        let after = cursor.map(|cursor| self.after(cursor)).transpose()?;
        let keys = self.keys().await?;
        let whole = keys.len() < self.list.first;
        let begin = match &after {
            None => Some(0),
            Some(after) => keys.iter().position(|key| after.last() == Some(key)).map(|place| place + 1),
        };
        let mut items = Vec::new();
        if let Some(begin) = begin {
            let mut rest = &keys[begin..];
            while items.len() < count && !rest.is_empty() {
                let (next, later) = rest.split_at((count - items.len()).min(rest.len()));
                for entity in self.store.get_many::<T>(next).await? {
                    if self.belongs(&entity)? {
                        items.push(entity);
                    }
                }
                rest = later;
            }
            if items.len() == count || whole {
                let more = !(whole && rest.is_empty());
                return self.paged(items, more);
            }
        }
        // Beyond what is cached.
        let after = match items.last() {
            Some(last) => Some(self.place_of(last)?),
            None => after,
        };
        let wanted = count - items.len();
        let mut further = self.query(after.as_deref(), wanted + 1).await?;
        let more = further.len() > wanted;
        further.truncate(wanted);
        items.extend(further);
        self.paged(items, more)
    }

    /// All entities of the list, page by page.
    pub fn stream(&self) -> impl Stream<Item = Result<T>> + '_ {
        let pages = stream::try_unfold(Some(None::<String>), move |cursor| async move {
            let Some(cursor) = cursor else { return Ok(None) };
            let page = self.page(cursor.as_deref(), STREAM).await?;
            Ok::<_, Error>(Some((stream::iter(page.items).map(Ok), page.next.map(Some))))
        });
        pages.try_flatten()
    }

    /// The first keys: from the cache, or from the datastore.
    async fn keys(&self) -> Result<Vec<Value>> {
        let load = async || {
            let key = T::KIND.key;
            let sql = self.sql(key, None, self.list.first);
            let sql = match DB::DIALECT {
                Dialect::Sqlite => format!("select json_group_array({key}) from ({sql})"),
                Dialect::Postgres => format!("select coalesce(json_agg({key}), '[]')::text from ({sql}) as keys"),
            };
            DB::text(self.store.pool(), sql, &self.values).await
        };
        let cache_key = self.store.key(&self.rule, &self.values);
        let json: Option<String> = self.store.reading(&self.rule)?.get_optional(cache_key, load).await?;
        let keys = Value::all_from_json(json.as_deref().unwrap_or("[]"));
        keys.ok_or_else(|| Error::Rule(format!("{}.{} holds what can be no key", T::KIND.table, T::KIND.key)))
    }

    async fn query(&self, after: Option<&[Value]>, count: usize) -> Result<Vec<T>> {
        let values = [&self.values, after.unwrap_or_default()].concat();
        Ok(DB::fetch(self.store.pool(), self.sql("*", after, count), &values).await?)
    }

    fn sql(&self, what: &str, after: Option<&[Value]>, count: usize) -> String {
        let kind = &T::KIND;
        let placed = |number: usize| format!("${number}");
        let equal = self.list.equal.iter().enumerate();
        let mut conditions: Vec<String> =
            equal.map(|(place, column)| format!("{column} = {}", placed(place + 1))).collect();
        conditions.extend(self.list.only.map(|only| format!("({only})")));
        let order: Vec<&str> = self.list.order_columns().map(|(column, _)| column).chain([kind.key]).collect();
        if let Some(after) = after {
            let first = self.list.equal.len() + 1;
            let places: Vec<String> = (first..first + after.len()).map(placed).collect();
            let beyond = if self.descending { "<" } else { ">" };
            conditions.push(format!("({}) {beyond} ({})", order.join(", "), places.join(", ")));
        }
        let down = if self.descending { " desc" } else { "" };
        let order: Vec<String> = order.iter().map(|column| format!("{column}{down}")).collect();
        format!(
            "select {what} from {} where {} order by {} limit {count}",
            kind.table,
            conditions.join(" and "),
            order.join(", ")
        )
    }

    fn belongs(&self, entity: &T) -> Result<bool> {
        for (column, value) in self.list.equal.iter().zip(&self.values) {
            if field(entity, column)? != *value {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn place_of(&self, entity: &T) -> Result<Vec<Value>> {
        let columns = self.list.order_columns().map(|(column, _)| column).chain([T::KIND.key]);
        columns.map(|column| field(entity, column)).collect()
    }

    fn paged(&self, items: Vec<T>, more: bool) -> Result<Page<T>> {
        let next = match items.last().filter(|_| more) {
            None => None,
            Some(last) => {
                let place = self.place_of(last)?.iter().map(Value::to_json).collect::<Vec<_>>();
                Some(URL_SAFE_NO_PAD.encode(serde_json::Value::from(place).to_string()))
            }
        };
        Ok(Page { items, next })
    }

    /// The place that a cursor stands for.
    fn after(&self, cursor: &str) -> Result<Vec<Value>> {
        let json = URL_SAFE_NO_PAD.decode(cursor).ok().and_then(|bytes| String::from_utf8(bytes).ok());
        let place = json.and_then(|json| Value::all_from_json(&json));
        let place = place.filter(|place| place.len() == self.list.order.len() + 1);
        place.ok_or_else(|| Error::Rule(format!("{cursor:?} is no cursor of this list")))
    }
}
