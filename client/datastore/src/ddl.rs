//! Rules and lists as triggers and indexes.
//!
//! Each object's name ends with a hash of what it is made of. So it is there, or it is not; one that is out of date has
//! another hash, and goes when its successor comes. The statements may be run again without harm.

use std::collections::{BTreeMap, HashSet};
use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use sha2::{Digest, Sha256};
use sqlx::Pool;

use crate::entity::Kind;
use crate::error::{Error, Result};
use crate::outbox::{Backend, Column};
use crate::rule::{Rule, Source};

/// Whose SQL is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// SQLite, 3.38 or later.
    Sqlite,
    /// PostgreSQL, 13 or later.
    Postgres,
}

/// What happens where triggers or indexes are missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Migrations {
    /// Starting fails with [`Error::Missing`], which has the statements. So it is in a release build.
    Refuse,
    /// The statements are run.
    Apply,
    /// The statements are written to a file in this folder, for sqlx's migrations and a review, and are run. So it is
    /// in a debug build, in `migrations`.
    Write(PathBuf),
}

impl Default for Migrations {
    fn default() -> Self {
        if cfg!(debug_assertions) { Migrations::Write("migrations".into()) } else { Migrations::Refuse }
    }
}

/// A trigger, or an index, or a table.
struct Piece {
    /// Its name without the hash.
    base: String,
    name: String,
    /// How its successor drops it: before and after the name.
    drop: (&'static str, String),
    create: String,
}

impl Piece {
    /// `create` has `{name}` where the name belongs.
    fn new(base: String, drop: (&'static str, String), create: &str) -> Piece {
        let hash = Sha256::digest(create);
        let base: String = base.chars().take(50).collect();
        let name = format!("{base}_{:02x}{:02x}{:02x}{:02x}", hash[0], hash[1], hash[2], hash[3]);
        Piece { create: create.replace("{name}", &name), base, name, drop }
    }
}

/// Sees to it that the triggers of `rules` and the indexes of the lists of `kinds` are there.
/// [`Builder::start`](crate::Builder::start) does this too.
///
/// # Errors
/// [`Error::Rule`] where one cannot work, [`Error::Missing`] with [`Migrations::Refuse`] where something is missing,
/// and where the datastore cannot be reached.
pub async fn ensure<DB: Backend>(
    pool: &Pool<DB>,
    rules: &[Rule],
    kinds: &[Kind],
    migrations: &Migrations,
) -> Result<()> {
    let mut tables: BTreeMap<String, Vec<Column>> = BTreeMap::new();
    for source in rules.iter().flat_map(|rule| &rule.sources) {
        if !tables.contains_key(&source.table) {
            let columns = DB::columns(pool, &source.table).await?;
            if columns.is_empty() {
                return Err(Error::Rule(format!("there is no table {:?}", source.table)));
            }
            tables.insert(source.table.clone(), columns);
        }
        check_key(source, &tables[&source.table])?;
    }
    let there: HashSet<String> = DB::objects(pool).await?.into_iter().collect();
    let mut pieces = triggers(DB::DIALECT, rules, &tables);
    for kind in kinds {
        pieces.extend(indexes(kind)?);
    }
    pieces.retain(|piece| !there.contains(&piece.name));
    let names: &[&str] = match DB::DIALECT {
        Dialect::Sqlite => &["larder_outbox", "larder_last", "larder_outbox_last", "larder_node", "larder_meta"],
        Dialect::Postgres => &["larder_outbox", "larder_node", "larder_meta"],
    };
    let outbox = DB::columns(pool, "larder_outbox").await?;
    let is_outdated = !outbox.is_empty() && !outbox.iter().any(|column| column.name == "keys");
    let has_tables = !is_outdated && names.iter().all(|name| there.contains(*name));
    if has_tables && pieces.is_empty() {
        return Ok(());
    }
    let mut sql = String::from("-- Written by larder-datastore. Running it again does no harm.\n");
    let mut names = Vec::new();
    if is_outdated {
        sql.push_str(
            "-- The outbox had a row for each key. What it still held is made up for by a flush of all nodes.\n",
        );
        sql.push_str("drop table larder_outbox;\n");
    }
    if !has_tables {
        sql.push_str(tables_of(DB::DIALECT));
        names.push("the tables larder_outbox, larder_node and larder_meta".to_owned());
    }
    if is_outdated {
        let _ = writeln!(sql, "{EVERYTHING_INSERTED}");
    }
    for piece in &pieces {
        let hash_len = 9;
        let is_old = |name: &&String| name.len() == piece.base.len() + hash_len && name.starts_with(&piece.base);
        for old in there.iter().filter(is_old) {
            let _ = writeln!(sql, "{}{old}{};", piece.drop.0, piece.drop.1);
        }
        sql.push_str(&piece.create);
        names.push(piece.name.clone());
    }
    let names = names.join(", ");
    match migrations {
        Migrations::Refuse => Err(Error::Missing { names, sql }),
        Migrations::Apply => {
            tracing::info!("the datastore lacked {names}: made now");
            Ok(DB::apply(pool, sql).await?)
        }
        Migrations::Write(folder) => {
            let seconds = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
            let what = pieces.first().map_or("larder_outbox", |piece| piece.name.as_str());
            let path = folder.join(format!("{seconds}_{what}.sql"));
            let failed = |error| Error::Migration { path: path.display().to_string(), error };
            std::fs::create_dir_all(folder).map_err(failed)?;
            std::fs::write(&path, &sql).map_err(failed)?;
            let path = path.display();
            tracing::warn!(%path, "the datastore lacked {names}: made now, and written down as a migration");
            Ok(DB::apply(pool, sql).await?)
        }
    }
}

fn check_key(source: &Source, columns: &[Column]) -> Result<()> {
    for name in &source.key {
        let wrong = |what: &str| Err(Error::Rule(format!("{}.{name} cannot be part of a key: {what}", source.table)));
        let Some(column) = columns.iter().find(|column| column.name.eq_ignore_ascii_case(name)) else {
            return wrong("there is no such column");
        };
        if column.nullable {
            return wrong("it may be NULL");
        }
        let fits = ["int", "text", "char", "bool", "uuid", "serial"].iter().any(|kind| column.kind.contains(kind));
        if !fits || column.kind == "character" || column.kind.contains("citext") {
            return wrong(&format!("it is of type {}; integers, text, booleans and UUIDs can be", column.kind));
        }
    }
    Ok(())
}

/// A row that asks for a flush, as [`EVERYTHING`](crate::rule::EVERYTHING) says.
const EVERYTHING_INSERTED: &str = "insert into larder_outbox (keys) values ('[\"*\"]');";

fn tables_of(dialect: Dialect) -> &'static str {
    match dialect {
        Dialect::Sqlite => {
            // A number is never given twice, though rows go: `autoincrement` would write its counter in each commit.
            "create table if not exists larder_outbox (id integer primary key, keys text not null);\n\
             create table if not exists larder_last (id integer not null);\n\
             insert into larder_last select 0 where not exists (select 1 from larder_last);\n\
             create trigger if not exists larder_outbox_last after delete on larder_outbox\n    \
                 when old.id > (select id from larder_last)\n\
             begin\n    update larder_last set id = old.id;\nend;\n\
             create table if not exists larder_node (address text primary key, flushed boolean not null default 0);\n\
             create table if not exists larder_meta (store text primary key, leader text, until integer);\n"
        }
        Dialect::Postgres => {
            "create table if not exists larder_outbox (\n    \
                 id bigint generated always as identity primary key,\n    \
                 xid xid8 not null default pg_current_xact_id(),\n    \
                 keys text not null\n\
             ) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);\n\
             create index if not exists larder_outbox_xid on larder_outbox (xid);\n\
             create table if not exists larder_node (address text primary key, flushed bool not null default false);\n\
             create table if not exists larder_meta (store text primary key, leader text, until bigint);\n"
        }
    }
}

fn quoted(name: &str) -> String {
    name.split('.').map(|part| format!("\"{part}\"")).collect::<Vec<_>>().join(".")
}

fn column(row: &str, name: &str) -> String {
    format!("{row}.{}", quoted(name))
}

/// A text that is put together by `||`.
#[derive(Default)]
struct Parts {
    parts: Vec<String>,
    /// What is to be written behind them.
    literal: String,
}

impl Parts {
    fn expression(&mut self, expression: String) {
        self.end_literal();
        self.parts.push(expression);
    }

    fn end_literal(&mut self) {
        if !self.literal.is_empty() {
            self.parts.push(format!("'{}'", std::mem::take(&mut self.literal)));
        }
    }

    fn sql(mut self) -> String {
        self.end_literal();
        self.parts.join(" || ")
    }
}

/// Adds a key, as [`Row::keys`](crate::outbox::Row::keys) takes it apart: `["rule",7,"London"]`.
fn add_key(dialect: Dialect, rule: &str, source: &Source, row: &str, columns: &[Column], parts: &mut Parts) {
    let _ = write!(parts.literal, "[\"{rule}\"");
    for name in &source.key {
        let value = column(row, name);
        let value = match dialect {
            Dialect::Sqlite => format!("json_quote({value})"),
            // A number is its own JSON, and that saves a call.
            Dialect::Postgres if is_integer(columns, name) => value,
            Dialect::Postgres => format!("to_json({value})::text"),
        };
        parts.literal.push(',');
        parts.expression(value);
    }
    parts.literal.push_str("] ");
}

fn is_integer(columns: &[Column], name: &str) -> bool {
    let is = |column: &Column| ["smallint", "integer", "bigint"].contains(&column.kind.as_str());
    columns.iter().any(|column| column.name.eq_ignore_ascii_case(name) && is(column))
}

/// Whether the key's columns have changed.
fn is_moved(dialect: Dialect, source: &Source, columns: &[Column]) -> String {
    let differ = |name: &String| {
        let (old, new) = (column("old", name), column("new", name));
        // Equal byte by byte, whatever the column's collation takes for equal.
        match dialect {
            Dialect::Sqlite => format!("{old} <> {new} collate binary"),
            Dialect::Postgres if is_integer(columns, name) => format!("{old} <> {new}"),
            Dialect::Postgres => format!("{old}::text <> {new}::text collate \"C\""),
        }
    };
    source.key.iter().map(differ).collect::<Vec<_>>().join(" or ")
}

/// Whether an update changes one of these columns or expressions. What differs in its bytes has changed: `1.0` and
/// `1.00` are equal as numbers, and `a` and `A` in some collations, and a reader sees which.
fn is_changed(dialect: Dialect, watch: &[&String], columns: &[Column]) -> String {
    let side = |row: &str, watch: &String| {
        if columns.iter().any(|known| known.name == *watch) {
            return column(row, watch);
        }
        let all = match dialect {
            Dialect::Postgres => format!("{row}.*"),
            Dialect::Sqlite => {
                let name = |known: &Column| format!("{} as {}", column(row, &known.name), quoted(&known.name));
                columns.iter().map(name).collect::<Vec<_>>().join(", ")
            }
        };
        format!("(select ({watch}) from (select {all}) as row_)")
    };
    match dialect {
        Dialect::Sqlite => {
            let differ =
                |watch: &&String| format!("{} is not {} collate binary", side("old", watch), side("new", watch));
            watch.iter().map(differ).collect::<Vec<_>>().join(" or ")
        }
        Dialect::Postgres => {
            let image = |row| watch.iter().map(|watch| side(row, watch)).collect::<Vec<_>>().join(", ");
            format!("row({})::record *<> row({})::record", image("old"), image("new"))
        }
    }
}

/// Whether an update changes anything at all.
fn is_changed_at_all(dialect: Dialect, columns: &[Column]) -> String {
    match dialect {
        Dialect::Sqlite => is_changed(dialect, &columns.iter().map(|column| &column.name).collect::<Vec<_>>(), columns),
        Dialect::Postgres => "old *<> new".to_owned(),
    }
}

fn triggers(dialect: Dialect, rules: &[Rule], tables: &BTreeMap<String, Vec<Column>>) -> Vec<Piece> {
    let mut pieces = Vec::new();
    for (table, columns) in tables {
        let of_table: Vec<(&str, &Source)> = rules
            .iter()
            .flat_map(|rule| rule.sources.iter().map(|source| (rule.name.as_str(), source)))
            .filter(|(_, source)| source.table == *table)
            .collect();
        let base = format!("larder_{}", table.replace('.', "_"));
        let on = quoted(table);
        for operation in ["insert", "update", "delete"] {
            let (keys, only) = keys_of(dialect, operation, &of_table, columns);
            let insert = inserted(dialect, &keys);
            let base = format!("{base}_{operation}");
            let create = match dialect {
                Dialect::Sqlite => {
                    let when = only.map(|only| format!("\n    when {only}")).unwrap_or_default();
                    format!(
                        "drop trigger if exists {{name}};\ncreate trigger {{name}} after {operation} on {on} for each row{when}\nbegin\n    {insert}\nend;\n"
                    )
                }
                Dialect::Postgres => {
                    // Not in a `when` of the trigger, which is made ready to run anew in each statement.
                    let body = match only {
                        Some(only) => format!("if {only} then\n        {insert}\n    end if;"),
                        None => insert,
                    };
                    function_and_trigger(&body, &format!("after {operation} on {on} for each row"), &on)
                }
            };
            pieces.push(Piece::new(base, drop_trigger(dialect, &on), &create));
        }
        if dialect == Dialect::Postgres {
            let create = function_and_trigger(EVERYTHING_INSERTED, &format!("after truncate on {on}"), &on);
            pieces.push(Piece::new(format!("{base}_truncate"), drop_trigger(dialect, &on), &create));
        }
    }
    pieces
}

/// One row for a change, however many rules it concerns.
fn inserted(dialect: Dialect, keys: &str) -> String {
    match dialect {
        Dialect::Sqlite => {
            let last = "(select max(id) from larder_outbox)";
            format!(
                "insert into larder_outbox (id, keys) values (\n        \
                 1 + max(coalesce({last}, 0), (select id from larder_last)),\n        {keys}\n    );"
            )
        }
        Dialect::Postgres => format!("insert into larder_outbox (keys) values ({keys});"),
    }
}

/// `{name}` stands where the name belongs.
fn function_and_trigger(body: &str, event: &str, on: &str) -> String {
    format!(
        "create or replace function {{name}}() returns trigger language plpgsql as $$\nbegin\n    {body}\n    return \
         null;\nend $$;\ndrop trigger if exists {{name}} on {on};\ncreate trigger {{name}} {event}\n    execute function \
         {{name}}();\n"
    )
}

fn drop_trigger(dialect: Dialect, on: &str) -> (&'static str, String) {
    let on = if dialect == Dialect::Postgres { format!(" on {on}") } else { String::new() };
    ("drop trigger if exists ", on)
}

/// The keys that an operation makes old, and when it does; `None`: always.
fn keys_of(
    dialect: Dialect,
    operation: &str,
    of_table: &[(&str, &Source)],
    columns: &[Column],
) -> (String, Option<String>) {
    let mut parts = Parts::default();
    if operation != "update" {
        let row = if operation == "insert" { "new" } else { "old" };
        for (rule, source) in of_table {
            add_key(dialect, rule, source, row, columns, &mut parts);
        }
        return (parts.sql(), None);
    }
    let watches_all = of_table.iter().any(|(_, source)| source.watch.is_empty());
    let only = if watches_all {
        is_changed_at_all(dialect, columns)
    } else {
        let mut watch: Vec<&String> =
            of_table.iter().flat_map(|(_, source)| source.key.iter().chain(&source.watch)).collect();
        watch.sort();
        watch.dedup();
        is_changed(dialect, &watch, columns)
    };
    let case = |when: String, keys: Parts| format!("case when {when} then {} else '' end", keys.sql());
    // The new keys of all rules with the same key columns are asked for once.
    let mut moved: BTreeMap<&[String], Parts> = BTreeMap::new();
    for (rule, source) in of_table {
        if source.watch.is_empty() || of_table.len() == 1 {
            add_key(dialect, rule, source, "old", columns, &mut parts);
        } else {
            let mut keys = Parts::default();
            add_key(dialect, rule, source, "old", columns, &mut keys);
            let watch: Vec<&String> = source.key.iter().chain(&source.watch).collect();
            parts.expression(case(is_changed(dialect, &watch, columns), keys));
        }
        add_key(dialect, rule, source, "new", columns, moved.entry(&source.key).or_default());
    }
    for (_, source) in of_table {
        if let Some(keys) = moved.remove(source.key.as_slice()) {
            parts.expression(case(is_moved(dialect, source, columns), keys));
        }
    }
    (parts.sql(), Some(only))
}

/// The name of a list's index without its hash.
pub(crate) fn index_base(kind: &Kind, list: &str) -> String {
    format!("larder_{}_list_{list}", kind.table.replace('.', "_"))
}

fn indexes(kind: &Kind) -> Result<Vec<Piece>> {
    let mut pieces = Vec::new();
    for (name, list) in kind.lists.iter().flatten() {
        let down = if list.descending(name)? { " desc" } else { "" };
        let equal = list.equal.iter().map(|column| quoted(column));
        let order = list.order_columns().map(|(column, _)| column).chain([kind.key]);
        let columns: Vec<String> = equal.chain(order.map(|column| format!("{}{down}", quoted(column)))).collect();
        let only = list.only.map(|only| format!(" where {only}")).unwrap_or_default();
        let create =
            format!("create index if not exists {{name}} on {} ({}){only};\n", quoted(kind.table), columns.join(", "));
        pieces.push(Piece::new(index_base(kind, name), ("drop index if exists ", String::new()), &create));
    }
    Ok(pieces)
}
