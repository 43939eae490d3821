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
use crate::rule::{EVERYTHING, Rule, Source};

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
    let has_tables = ["larder_outbox", "larder_node", "larder_meta"].iter().all(|table| there.contains(*table));
    if has_tables && pieces.is_empty() {
        return Ok(());
    }
    let mut sql = String::from("-- Written by larder-datastore. Running it again does no harm.\n");
    let mut names = Vec::new();
    if !has_tables {
        sql.push_str(tables_of(DB::DIALECT));
        names.push("the tables larder_outbox, larder_node and larder_meta".to_owned());
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

fn tables_of(dialect: Dialect) -> &'static str {
    match dialect {
        Dialect::Sqlite => {
            "create table if not exists larder_outbox (\n    \
                 id integer primary key autoincrement,\n    rule text not null,\n    key text not null\n\
             );\n\
             create table if not exists larder_node (address text primary key, flushed boolean not null default 0);\n\
             create table if not exists larder_meta (store text primary key, leader text, until integer);\n"
        }
        Dialect::Postgres => {
            "create table if not exists larder_outbox (\n    \
                 id bigint generated always as identity primary key,\n    \
                 xid xid8 not null default pg_current_xact_id(),\n    \
                 rule text not null,\n    key jsonb not null\n\
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

/// The keys' values of a row.
fn key_of(dialect: Dialect, source: &Source, row: &str) -> String {
    let values: Vec<String> = source.key.iter().map(|name| column(row, name)).collect();
    match dialect {
        Dialect::Sqlite => format!("json_array({})", values.join(", ")),
        Dialect::Postgres => format!("jsonb_build_array({})", values.join(", ")),
    }
}

/// Whether an update changes what the source watches; `None`: that is sure where anything has changed.
fn is_changed(dialect: Dialect, source: &Source, columns: &[Column]) -> Option<String> {
    if source.watch.is_empty() {
        return None;
    }
    let differ = match dialect {
        Dialect::Sqlite => "is not",
        Dialect::Postgres => "is distinct from",
    };
    let compare = |watch: &String| {
        if columns.iter().any(|known| known.name == *watch) {
            return format!("{} {differ} {}", column("old", watch), column("new", watch));
        }
        let side = |row: &str| {
            let all = match dialect {
                Dialect::Postgres => format!("{row}.*"),
                Dialect::Sqlite => {
                    let name = |known: &Column| format!("{} as {}", column(row, &known.name), quoted(&known.name));
                    columns.iter().map(name).collect::<Vec<_>>().join(", ")
                }
            };
            format!("(select ({watch}) from (select {all}) as row_)")
        };
        format!("{} {differ} {}", side("old"), side("new"))
    };
    let changes: Vec<String> = source.key.iter().chain(&source.watch).map(compare).collect();
    Some(changes.join(" or "))
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
        for operation in ["insert", "update", "delete"] {
            let rows: Vec<String> =
                of_table.iter().flat_map(|(rule, source)| rows_of(dialect, operation, rule, source, columns)).collect();
            let insert =
                format!("insert into larder_outbox (rule, key)\n        {};", rows.join("\n        union all "));
            let base = format!("{base}_{operation}");
            let on = quoted(table);
            let create = match dialect {
                Dialect::Sqlite => {
                    let differ = |known: &Column| {
                        format!("{} is not {}", column("old", &known.name), column("new", &known.name))
                    };
                    let when = match operation {
                        "update" => {
                            format!("\n    when {}", columns.iter().map(differ).collect::<Vec<_>>().join(" or "))
                        }
                        _ => String::new(),
                    };
                    format!(
                        "drop trigger if exists {{name}};\ncreate trigger {{name}} after {operation} on {on} for each row{when}\nbegin\n    {insert}\nend;\n"
                    )
                }
                Dialect::Postgres => {
                    let when = if operation == "update" { "\n    when (old.* is distinct from new.*)" } else { "" };
                    let back = if operation == "delete" { "old" } else { "new" };
                    format!(
                        "create or replace function {{name}}() returns trigger language plpgsql as $$\nbegin\n    {insert}\n    return \
                         {back};\nend $$;\ndrop trigger if exists {{name}} on {on};\ncreate trigger {{name}} after {operation} on {on} for each row{when}\n    execute function \
                         {{name}}();\n"
                    )
                }
            };
            pieces.push(Piece::new(base, drop_trigger(dialect, &on), &create));
        }
        if dialect == Dialect::Postgres {
            let on = quoted(table);
            let create = format!(
                "create or replace function {{name}}() returns trigger language plpgsql as $$\nbegin\n    insert into larder_outbox \
                 (rule, key) values ('{EVERYTHING}', '[]');\n    return null;\nend $$;\ndrop trigger if exists {{name}} on {on};\ncreate trigger {{name}} after truncate on {on}\n    \
                 execute function {{name}}();\n"
            );
            pieces.push(Piece::new(format!("{base}_truncate"), drop_trigger(dialect, &on), &create));
        }
    }
    pieces
}

fn drop_trigger(dialect: Dialect, on: &str) -> (&'static str, String) {
    let on = if dialect == Dialect::Postgres { format!(" on {on}") } else { String::new() };
    ("drop trigger if exists ", on)
}

/// What one rule adds to the outbox at an operation, as selects.
fn rows_of(dialect: Dialect, operation: &str, rule: &str, source: &Source, columns: &[Column]) -> Vec<String> {
    let row = |side: &str, only: Option<String>| {
        let only = only.map(|only| format!(" where {only}")).unwrap_or_default();
        format!("select '{rule}', {}{only}", key_of(dialect, source, side))
    };
    match operation {
        "insert" => vec![row("new", None)],
        "delete" => vec![row("old", None)],
        _ => {
            let moved: Vec<String> =
                source.key.iter().map(|name| format!("{} <> {}", column("old", name), column("new", name))).collect();
            vec![row("old", is_changed(dialect, source, columns)), row("new", Some(moved.join(" or ")))]
        }
    }
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
