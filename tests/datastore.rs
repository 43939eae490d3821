//! The datastore behind the cache: real nodes, SQLite and PostgreSQL, writers and readers in other processes' places.

use std::time::{Duration, Instant};

use futures_util::TryStreamExt;
use larder_bench::postgres::Postgres;
use larder_client::{Client, NotFresh};
use larder_datastore::{Backend, Builder, Datastore, Delivered, Entity, Error, Kind, List, Migrations, Rule};
use larder_tests::{PATIENCE, Server, binary, free_port};
use sqlx::postgres::PgPoolOptions;
use sqlx::{FromRow, Pool, Sqlite};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize, FromRow)]
struct Conference {
    id: i64,
    name: String,
    city: String,
    seats: i64,
}

impl Entity for Conference {
    const KIND: Kind = Kind::table("conference")
        .list("by_city", List::on(&["city"]).order(&["name"]).first(10))
        .list("open_in", List::on(&["city"]).only("seats > 0").order(&["name desc"]))
        .not_fresh(NotFresh::Load);
}

const TABLE: &str = "create table conference (id bigint not null primary key, name text not null, city text not null, \
                     seats bigint not null); \
                     create table session (id bigint not null primary key, conference_id bigint not null, title text not null)";

/// A database with the tables, and what keeps it alive.
struct World<DB: Backend> {
    pool: Pool<DB>,
    url: String,
    nodes: Vec<Server>,
    folder: TempDir,
    _postgres: Option<Postgres>,
}

impl<DB: Backend> World<DB> {
    fn servers(&self) -> Vec<String> {
        self.nodes.iter().map(Server::address).collect()
    }

    /// A client as another process has it.
    fn client(&self) -> Client {
        Client::builder().servers(self.servers()).build().unwrap()
    }

    fn migrations(&self) -> Migrations {
        Migrations::Write(self.folder.path().join("migrations"))
    }
}

async fn sqlite(nodes: usize) -> World<Sqlite> {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite://{}", folder.path().join("conference.db").display());
    let pool = larder_bench::sqlite::open(&url, 8, true).await.unwrap();
    sqlx::raw_sql(TABLE).execute(&pool).await.unwrap();
    World { pool, url, nodes: (0..nodes).map(|_| Server::node(&[])).collect(), folder, _postgres: None }
}

async fn postgres(nodes: usize) -> Option<World<sqlx::Postgres>> {
    let server = Postgres::start(false).unwrap()?;
    let pool = PgPoolOptions::new().max_connections(16).connect(&server.url()).await.unwrap();
    sqlx::raw_sql(TABLE).execute(&pool).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let nodes = (0..nodes).map(|_| Server::node(&[])).collect();
    Some(World { pool, url: server.url(), nodes, folder, _postgres: Some(server) })
}

/// One test for each datastore, in which `$world` is a world of `$nodes` nodes and `$datastore` begins its builder.
macro_rules! on_both {
    ($($name:ident($nodes:expr, $world:ident, $datastore:ident) $body:block)*) => {
        mod on_sqlite {
            use super::*;
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                let $world = sqlite($nodes).await;
                #[allow(unused, reason = "not every test makes a datastore of its own")]
                let $datastore = |client: Client| -> Builder<Sqlite> { Datastore::sqlite($world.pool.clone(), client) };
                $body
            })*
        }
        mod on_postgres {
            use super::*;
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                let Some($world) = postgres($nodes).await else { return };
                #[allow(unused, reason = "not every test makes a datastore of its own")]
                let $datastore =
                    |client: Client| -> Builder<sqlx::Postgres> { Datastore::postgres($world.pool.clone(), client) };
                $body
            })*
        }
    };
}

/// Waits until `condition` holds.
async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition().await {
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn conference(id: i64, city: &str) -> String {
    format!("insert into conference values ({id}, 'name {id:03}', '{city}', 10)")
}

macro_rules! run {
    ($pool:expr, $sql:expr) => {
        sqlx::raw_sql(sqlx::AssertSqlSafe($sql.to_string())).execute(&$pool).await.unwrap()
    };
}

macro_rules! outbox {
    ($world:expr) => {{
        let rows: i64 = sqlx::query_scalar("select count(*) from larder_outbox").fetch_one(&$world.pool).await.unwrap();
        rows
    }};
}

/// larder-tail for the table `conference`, as it is started beside an application in Django.
fn tail_of<DB: Backend>(world: &World<DB>, node: &Server, arguments: &[&str]) -> tokio::process::Command {
    let rules = world.folder.path().join("rules.toml");
    let text = "[[rule]]\nname = \"conference\"\ntable = \"conference\"\nkey = [\"id\"]\ncheck = [\"name\"]\n";
    std::fs::write(&rules, text).unwrap();
    let mut command = tokio::process::Command::new(binary("larder-tail"));
    command.args(["--datastore", &world.url, "--servers", &node.address(), "--prefix", ":1:", "--rules"]).arg(&rules);
    command.args(arguments).kill_on_drop(true);
    command
}

/// A counter that larder-tail serves; 0 where it is not there yet.
async fn scraped(metrics: &str, name: &str) -> u64 {
    let mut socket = tokio::net::TcpStream::connect(metrics).await.unwrap();
    socket.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").await.unwrap();
    let mut page = String::new();
    socket.read_to_string(&mut page).await.unwrap();
    let line = page.lines().find(|line| line.starts_with(&format!("larder_coherence_{name}")));
    line.map_or(0, |line| line.rsplit(' ').next().unwrap().parse().unwrap())
}

on_both! {
    a_committed_change_is_seen_by_the_next_read_of_another_process(2, world, datastore) {
        let writer = datastore(world.client()).kind::<Conference>().migrations(world.migrations()).start().await.unwrap();
        let reader = datastore(world.client()).kind::<Conference>().without_sweeping().start().await.unwrap();
        run!(world.pool, conference(1, "London"));
        for seats in 0..200i64 {
            let mut tx = writer.begin().await.unwrap();
            sqlx::query("update conference set seats = $1 where id = 1").bind(seats).execute(&mut **tx).await.unwrap();
            assert_eq!(tx.commit().await.unwrap(), Delivered::Everywhere);
            let read: Conference = reader.get(1).await.unwrap().unwrap();
            assert_eq!(read.seats, seats);
        }
        until("the outbox is empty", async || outbox!(world) == 0).await;
    }

    a_change_that_nobody_delivered_reaches_every_reader(2, world, datastore) {
        let store = datastore(world.client()).kind::<Conference>().migrations(world.migrations()).start().await.unwrap();
        assert_eq!(store.get::<Conference>(1).await.unwrap(), None);
        run!(world.pool, conference(1, "London"));
        // As psql, or a writer that was killed after its commit.
        until("the absence is forgotten", async || store.get::<Conference>(1).await.unwrap().is_some()).await;
        run!(world.pool, "update conference set seats = 7");
        until("the update is seen", async || store.get::<Conference>(1).await.unwrap().unwrap().seats == 7).await;
        run!(world.pool, "delete from conference");
        until("the deletion is seen", async || store.get::<Conference>(1).await.unwrap().is_none()).await;
        until("the outbox is empty", async || outbox!(world) == 0).await;
    }

    an_update_of_nothing_that_is_watched_and_a_rollback_leave_no_trace(1, world, datastore) {
        let rule = Rule::new("headline").on("conference", ["id"]).watching(["name", "seats > 0"]);
        let store = datastore(world.client()).rule(rule).migrations(world.migrations()).without_sweeping().start().await.unwrap();
        run!(world.pool, conference(1, "London"));
        let before = outbox!(world);
        run!(world.pool, "update conference set name = name");
        run!(world.pool, "update conference set seats = 5");
        let mut tx = store.begin().await.unwrap();
        sqlx::query("update conference set name = 'other'").execute(&mut **tx).await.unwrap();
        tx.rollback().await.unwrap();
        assert_eq!(outbox!(world), before);
        run!(world.pool, "update conference set seats = 0");
        assert_eq!(outbox!(world), before + 1);
        run!(world.pool, "update conference set id = 2");
        assert_eq!(outbox!(world), before + 2);
    }

    a_change_writes_one_row_for_all_rules_and_none_for_columns_that_nobody_watches(1, world, datastore) {
        let store = datastore(world.client())
            .rule(Rule::new("seats").on("conference", ["id"]).watching(["seats"]))
            .rule(Rule::new("place").on("conference", ["city", "id"]).watching(["name", "seats > 5"]))
            .rule(Rule::new("name").on("conference", ["name"]).watching(["seats > 5"]))
            .migrations(world.migrations());
        let _store = store.without_sweeping().start().await.unwrap();
        run!(world.pool, "alter table conference add column note text");
        let keys_after = async |sql: &str| {
            run!(world.pool, "delete from larder_outbox");
            run!(world.pool, sql);
            let rows: Vec<String> = sqlx::query_scalar("select keys from larder_outbox").fetch_all(&world.pool).await.unwrap();
            rows.into_iter().map(|keys| keys.trim().to_owned()).collect::<Vec<_>>()
        };
        let insert = "insert into conference values (1, 'a \"b\"', 'Zürich', 10, null)";
        let all = r#"["seats",1] ["place","Zürich",1] ["name","a \"b\""]"#;
        assert_eq!(keys_after(insert).await, [all]);
        assert_eq!(keys_after("update conference set note = 'new'").await, [""; 0]);
        assert_eq!(keys_after("update conference set seats = 9").await, [r#"["seats",1]"#]);
        assert_eq!(keys_after("update conference set seats = 2").await, [all]);
        let moved = r#"["place","Zürich",1] ["place","Bern",1]"#;
        assert_eq!(keys_after("update conference set city = 'Bern'").await, [moved]);
        assert_eq!(keys_after("delete from conference").await, [r#"["seats",1] ["place","Bern",1] ["name","a \"b\""]"#]);
    }

    a_change_to_what_a_collation_or_a_number_takes_for_equal_counts(1, world, datastore) {
        if world.url.starts_with("sqlite") {
            run!(world.pool, "create table price (id bigint not null primary key, name text collate nocase, amount text)");
        } else {
            run!(world.pool, "create collation nocase (provider = icu, locale = 'und-u-ks-level2', deterministic = false)");
            run!(world.pool, "create table price (id bigint not null primary key, name text collate nocase, amount numeric, more json)");
        }
        let store = datastore(world.client())
            .rule(Rule::new("all").on("price", ["id"]))
            .rule(Rule::new("some").on("price", ["id"]).watching(["name", "amount"]))
            .migrations(world.migrations());
        let _store = store.without_sweeping().start().await.unwrap();
        run!(world.pool, "insert into price (id, name, amount) values (1, 'a', '1.0')");
        for change in ["name = 'A'", "amount = '1.00'"] {
            run!(world.pool, "delete from larder_outbox");
            run!(world.pool, format!("update price set {change}"));
            let keys: Vec<String> = sqlx::query_scalar("select keys from larder_outbox").fetch_all(&world.pool).await.unwrap();
            assert_eq!(keys, [r#"["all",1] ["some",1] "#], "{change}");
        }
    }

    no_read_is_old_after_a_commit_of_more_rows_than_are_read_back(1, world, datastore) {
        let store = datastore(world.client()).rule(Rule::new("seats").on("conference", ["id"])).migrations(world.migrations());
        let store = store.start().await.unwrap();
        let rows = 100_010;
        let numbers = format!("with recursive n(i) as (select 1 union all select i + 1 from n where i < {rows})");
        run!(world.pool, format!("insert into conference {numbers} select i, 'n', 'London', 0 from n"));
        until("the outbox is empty", async || outbox!(world) == 0).await;
        let seats = async |id: i64, seats: i64| {
            store.cached::<i64, std::io::Error, _>("seats", (id,), || async move { Ok(seats) }).await.unwrap()
        };
        for id in [1, rows] {
            assert_eq!(seats(id, 0).await, 0);
        }
        let mut tx = store.begin().await.unwrap();
        sqlx::query("update conference set seats = 1").execute(&mut **tx).await.unwrap();
        assert_eq!(tx.commit().await.unwrap(), Delivered::Everywhere);
        for id in [1, rows] {
            assert_eq!(seats(id, 1).await, 1);
        }
        until("the outbox is empty", async || outbox!(world) == 0).await;
    }

    an_outbox_of_an_older_version_is_replaced_and_what_it_held_is_flushed(1, world, datastore) {
        run!(world.pool, "create table larder_outbox (id bigint not null primary key, rule text not null, key text not null)");
        run!(world.pool, "insert into larder_outbox values (7, 'conference', '[1]')");
        let refused = datastore(world.client()).kind::<Conference>().migrations(Migrations::Refuse).start().await;
        assert!(matches!(refused, Err(Error::Missing { sql, .. }) if sql.contains("drop table larder_outbox")));
        world.client().set("conference:1", "old", Duration::from_secs(60)).await.unwrap();
        let store = datastore(world.client()).kind::<Conference>().migrations(world.migrations()).start().await.unwrap();
        until("it is flushed", async || world.client().get("conference:1").await.unwrap().is_none()).await;
        run!(world.pool, conference(1, "London"));
        until("it is there", async || store.get::<Conference>(1).await.unwrap().is_some()).await;
        until("the outbox is empty", async || outbox!(world) == 0).await;
    }

    a_node_that_was_down_gets_the_deletes_it_missed_before_it_serves_again(2, world, datastore) {
        let store = datastore(world.client()).kind::<Conference>().migrations(world.migrations()).start().await.unwrap();
        let ids: Vec<i64> = (0..50).collect();
        for id in 0..50 {
            run!(world.pool, conference(id, "London"));
        }
        let reader = datastore(world.client()).kind::<Conference>().without_sweeping().start().await.unwrap();
        until("beats", async || store.ages().iter().all(|(_, age)| age.is_some())).await;
        until("the outbox is empty", async || outbox!(world) == 0).await;
        reader.get_many::<Conference>(&ids).await.unwrap();
        world.nodes[1].signal("STOP");
        let mut tx = store.begin().await.unwrap();
        sqlx::query("update conference set seats = 3").execute(&mut **tx).await.unwrap();
        assert_eq!(tx.commit().await.unwrap(), Delivered::Later);
        assert!(outbox!(world) > 0);
        let committed = Instant::now();
        world.nodes[1].signal("CONT");
        loop {
            let began = Instant::now();
            let read = reader.get_many::<Conference>(&ids).await.unwrap();
            let old = read.iter().filter(|read| read.seats != 3).count();
            assert!(old == 0 || began < committed + Duration::from_secs(1), "{old} old values after {:?}", began - committed);
            if old == 0 && outbox!(world) == 0 {
                break;
            }
            assert!(began < committed + PATIENCE, "the outbox is not emptied");
        }
    }

    lists_are_cached_paged_and_follow_every_change(2, world, datastore) {
        let store = datastore(world.client()).kind::<Conference>().migrations(world.migrations()).start().await.unwrap();
        let mut tx = store.begin().await.unwrap();
        for id in 0..25 {
            sqlx::query(sqlx::AssertSqlSafe(conference(id, "London"))).execute(&mut **tx).await.unwrap();
        }
        tx.commit().await.unwrap();
        let london = store.list::<Conference>("by_city", ("London",)).unwrap();
        let ids = |found: &[Conference]| found.iter().map(|conference| conference.id).collect::<Vec<_>>();
        assert_eq!(london.first().await.unwrap().map(|first| first.id), Some(0));
        assert_eq!(ids(&london.fetch(5).await.unwrap()), [0, 1, 2, 3, 4]);
        assert_eq!(ids(&london.fetch(15).await.unwrap()), (0..15).collect::<Vec<_>>());
        let all: Vec<Conference> = london.stream().try_collect().await.unwrap();
        assert_eq!(ids(&all), (0..25).collect::<Vec<_>>());
        let (mut seen, mut cursor) = (Vec::new(), None);
        loop {
            let page = london.page(cursor.as_deref(), 4).await.unwrap();
            seen.extend(ids(&page.items));
            cursor = page.next;
            if cursor.is_none() {
                break;
            }
        }
        assert_eq!(seen, (0..25).collect::<Vec<_>>());
        let open = store.list::<Conference>("open_in", ("London",)).unwrap();
        assert_eq!(ids(&open.fetch(3).await.unwrap()), [24, 23, 22]);
        let mut tx = store.begin().await.unwrap();
        sqlx::query("update conference set seats = 0 where id = 24").execute(&mut **tx).await.unwrap();
        sqlx::query("update conference set city = 'Paris' where id in (0, 23)").execute(&mut **tx).await.unwrap();
        tx.commit().await.unwrap();
        assert_eq!(ids(&open.fetch(3).await.unwrap()), [22, 21, 20]);
        assert_eq!(london.first().await.unwrap().map(|first| first.id), Some(1));
        assert_eq!(ids(&store.list::<Conference>("by_city", ("Paris",)).unwrap().fetch(5).await.unwrap()), [0, 23]);
        assert!(matches!(london.page(Some("no cursor"), 4).await, Err(Error::Rule(_))));
        assert!(matches!(store.list::<Conference>("by_month", ("London",)), Err(Error::Rule(_))));
    }

    what_is_made_of_two_tables_is_made_anew_when_either_changes(1, world, datastore) {
        let page = Rule::new("page").on("conference", ["id"]).on("session", ["conference_id"]).watching(["title"]);
        let store = datastore(world.client()).rule(page).migrations(world.migrations()).start().await.unwrap();
        run!(world.pool, conference(1, "London"));
        let titles = async || {
            let pool = store.pool().clone();
            let load = || async move {
                let sql = "select title from session where conference_id = 1 order by title";
                sqlx::query_scalar::<_, String>(sql).fetch_all(&pool).await
            };
            store.cached::<Vec<String>, _, _>("page", (1,), load).await.unwrap()
        };
        assert_eq!(titles().await, [""; 0]);
        let mut tx = store.begin().await.unwrap();
        sqlx::query("insert into session values (1, 1, 'Opening')").execute(&mut **tx).await.unwrap();
        tx.commit().await.unwrap();
        assert_eq!(titles().await, ["Opening"]);
    }

    a_missing_index_is_written_as_a_migration_or_refused(1, world, datastore) {
        let strict = datastore(world.client()).kind::<Conference>().migrations(Migrations::Refuse).start().await;
        let Err(Error::Missing { sql, names }) = strict else { panic!("there are no triggers yet") };
        assert!(sql.contains("create index") && sql.contains("trigger") && names.contains("larder_conference_list_by_city"));
        let written = datastore(world.client()).kind::<Conference>().migrations(world.migrations()).start().await;
        drop(written.unwrap());
        let files: Vec<_> = std::fs::read_dir(world.folder.path().join("migrations")).unwrap().collect();
        assert_eq!(files.len(), 1);
        let text = std::fs::read_to_string(files[0].as_ref().unwrap().path()).unwrap();
        assert!(text.contains("larder_conference_list_open_in"));
        // A migration that runs again does no harm.
        run!(world.pool, text);
        let again = datastore(world.client()).kind::<Conference>().migrations(Migrations::Refuse).start().await;
        drop(again.unwrap());
        // The index serves the list's query, in its order.
        let explain = if world.url.starts_with("sqlite") { "explain query plan" } else { "set enable_seqscan = off; set enable_bitmapscan = off; explain" };
        let query = "select id from conference where city = 'x' order by name, id limit 10";
        // SQLite explains by the schema that a connection read last: the query itself comes first, which reads it anew.
        let rows = sqlx::raw_sql(sqlx::AssertSqlSafe(format!("{query}; {explain} {query}"))).fetch_all(&world.pool).await.unwrap();
        let plan: Vec<String> = rows.iter().map(|row| sqlx::Row::try_get(row, if world.url.starts_with("sqlite") { 3 } else { 0 }).unwrap()).collect();
        let plan = plan.join("\n");
        assert!(plan.contains("larder_conference_list_by_city") && !plan.to_lowercase().contains("sort") && !plan.contains("B-TREE"), "{plan}");
    }

    a_key_that_cannot_be_one_is_refused(1, world, datastore) {
        run!(world.pool, "create table odd (id integer not null primary key, note text, share real not null)");
        for column in ["note", "share", "missing"] {
            let rule = Rule::new("odd").on("odd", [column]);
            let started = datastore(world.client()).rule(rule).migrations(world.migrations()).start().await;
            assert!(matches!(started, Err(Error::Rule(_))), "{column}");
        }
    }

    strict_reads_are_loaded_served_or_fail_when_beats_stop(1, world, datastore) {
        let store = datastore(world.client()).kind::<Conference>().migrations(world.migrations()).start().await.unwrap();
        run!(world.pool, conference(1, "London"));
        until("beats", async || store.ages().iter().all(|(_, age)| age.is_some())).await;
        until("the outbox is empty", async || outbox!(world) == 0).await;
        let rule = |name: &str, not_fresh| Rule::new(name).on("conference", ["id"]).not_fresh(not_fresh);
        let reader = datastore(world.client())
            .rule(rule("load", NotFresh::Load))
            .rule(rule("serve", NotFresh::Serve))
            .rule(rule("fail", NotFresh::Fail))
            .bound(Duration::from_secs(2))
            .migrations(world.migrations())
            .without_sweeping()
            .start()
            .await
            .unwrap();
        until("beats", async || reader.ages().iter().all(|(_, age)| age.is_some())).await;
        let value = async |rule: &str, value: i64| {
            reader.cached::<i64, std::io::Error, _>(rule, (1,), || async move { Ok(value) }).await
        };
        for rule in ["load", "serve", "fail"] {
            assert_eq!(value(rule, 1).await.unwrap(), 1);
            assert_eq!(value(rule, 2).await.unwrap(), 1, "a hit within the bound");
        }
        assert_eq!(reader.counts().not_fresh, 0);
        // The only invalidator ends.
        drop(store);
        until("the bound has passed", async || reader.ages().iter().all(|(_, age)| age.is_none_or(|age| age > Duration::from_secs(2)))).await;
        assert_eq!(value("load", 2).await.unwrap(), 2);
        assert_eq!(value("serve", 2).await.unwrap(), 1);
        assert!(matches!(value("fail", 2).await, Err(Error::Cache(larder_client::Error::NotFresh { .. }))));
        assert_eq!(reader.counts().not_fresh, 3);
    }

    a_raw_update_is_delivered_by_larder_tail_to_a_stock_memcached(0, world, datastore) {
        let Some(memcached) = Server::memcached(&[]) else { return };
        let refused = tail_of(&world, &memcached, &[]).output().await.unwrap();
        assert!(String::from_utf8_lossy(&refused.stderr).contains("--print-migration"));
        let printed = tail_of(&world, &memcached, &["--print-migration"]).output().await.unwrap();
        run!(world.pool, String::from_utf8(printed.stdout).unwrap());
        run!(world.pool, conference(1, "London"));
        let _tail = tail_of(&world, &memcached, &[]).spawn().unwrap();
        let client = Client::builder().server(memcached.address()).build().unwrap();
        until("it beats", async || client.get("larder:beat:default").await.unwrap().is_some()).await;
        let mut slowest = Duration::ZERO;
        for seats in 0..20 {
            // A reader in another language, which sets what it has read.
            client.set(":1:conference:1", "old", Duration::from_secs(60)).await.unwrap();
            run!(world.pool, format!("update conference set seats = {}", 100 + seats));
            let committed = Instant::now();
            until("the key is deleted", async || client.get(":1:conference:1").await.unwrap().is_none()).await;
            slowest = slowest.max(committed.elapsed());
        }
        println!("a raw update was seen after {slowest:?} at most");
        until("the outbox is empty", async || outbox!(world) == 0).await;
    }

    larder_tail_counts_values_that_the_datastore_does_not_have(1, world, datastore) {
        let port = free_port();
        let metrics = format!("127.0.0.1:{port}");
        let printed = tail_of(&world, &world.nodes[0], &["--print-migration"]).output().await.unwrap();
        run!(world.pool, String::from_utf8(printed.stdout).unwrap());
        let arguments = ["--check", "1", "--bound", "2000", "--metrics", &metrics];
        let _tail = tail_of(&world, &world.nodes[0], &arguments).spawn().unwrap();
        let client = world.client();
        until("it beats", async || client.get("larder:beat:default").await.unwrap().is_some()).await;
        for (id, cached, wrong) in [(1, r#"{"name":"name 001","more":1}"#, false), (2, r#"{"name":"before"}"#, true)] {
            let before = scraped(&metrics, "violations_total{age=\"bound\"}").await;
            let checked = scraped(&metrics, "checked_total{age=\"bound\"}").await;
            run!(world.pool, conference(id, "London"));
            until("the outbox is empty", async || outbox!(world) == 0).await;
            // As by a program that sets what it read before the change.
            client.set(format!(":1:conference:{id}"), cached, Duration::from_secs(60)).await.unwrap();
            let after = async || scraped(&metrics, "checked_total{age=\"bound\"}").await;
            until("it is checked", async || after().await > checked).await;
            let violations = scraped(&metrics, "violations_total{age=\"bound\"}").await - before;
            assert_eq!(violations, u64::from(wrong), "{cached}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn insert_or_replace_and_cascades_reach_the_outbox() {
    let world = sqlite(1).await;
    run!(
        world.pool,
        "create table part (id integer not null primary key, whole integer not null references conference (id) on delete cascade)"
    );
    let by_city = Rule::new("by_city").on("conference", ["city"]);
    let parts = Rule::new("parts").on("part", ["whole"]);
    let store =
        Datastore::sqlite(world.pool.clone(), world.client()).rule(by_city).rule(parts).migrations(world.migrations());
    let _store = store.without_sweeping().start().await.unwrap();
    run!(world.pool, conference(1, "London"));
    run!(world.pool, "insert into part values (1, 1)");
    run!(world.pool, "delete from larder_outbox");
    run!(world.pool, "insert or replace into conference values (1, 'n', 'Paris', 1)");
    let rows: Vec<String> =
        sqlx::query_scalar("select keys from larder_outbox order by 1").fetch_all(&world.pool).await.unwrap();
    assert_eq!(rows, ["[\"by_city\",\"London\"] ", "[\"by_city\",\"Paris\"] ", "[\"parts\",1] "]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_number_of_sqlites_outbox_is_never_given_twice() {
    let world = sqlite(1).await;
    let store =
        Datastore::sqlite(world.pool.clone(), world.client()).kind::<Conference>().migrations(world.migrations());
    let _store = store.without_sweeping().start().await.unwrap();
    let mut last = 0;
    for (id, remove) in [(1, "1 = 1"), (2, "1 = 0"), (3, "id % 2 = 1"), (4, "id % 2 = 0"), (5, "1 = 1"), (6, "1 = 1")] {
        run!(world.pool, conference(id, "London"));
        let newest: i64 = sqlx::query_scalar("select max(id) from larder_outbox").fetch_one(&world.pool).await.unwrap();
        assert!(newest > last, "{newest} after {last}");
        last = newest;
        run!(world.pool, format!("delete from larder_outbox where {remove}"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_truncated_table_flushes_the_nodes() {
    let Some(world) = postgres(1).await else { return };
    let store =
        Datastore::postgres(world.pool.clone(), world.client()).kind::<Conference>().migrations(world.migrations());
    let store = store.start().await.unwrap();
    run!(world.pool, conference(1, "London"));
    until("it is there", async || store.get::<Conference>(1).await.unwrap().is_some()).await;
    run!(world.pool, "truncate conference");
    until("it is gone", async || store.get::<Conference>(1).await.unwrap().is_none()).await;
}
