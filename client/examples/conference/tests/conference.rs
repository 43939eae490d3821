//! The whole application in real processes: instances of `conference`, cache nodes, and either database.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use larder_bench::postgres::Postgres;
use larder_bench::process::ServerProcess;
use larder_tests::python::python;
use reqwest::{Client, StatusCode};
use serde_json::{Value, json};
use tokio::task::JoinSet;

const PROGRAM: &str = env!("CARGO_BIN_EXE_conference");

/// How long anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A database, a cache node and instances of the application.
struct World {
    folder: tempfile::TempDir,
    datastore: String,
    _postgres: Option<Postgres>,
    node: ServerProcess,
    http: Client,
}

impl World {
    fn new(postgres: Option<Postgres>) -> World {
        let folder = tempfile::tempdir().unwrap();
        let sqlite = format!("sqlite://{}", folder.path().join("conference.db").display());
        let datastore = postgres.as_ref().map_or(sqlite, Postgres::url);
        let node =
            ServerProcess::start(Command::new(PROGRAM).args(["node", "-p", "-1", "-m", "16", "-t", "1"])).unwrap();
        let http = Client::builder().timeout(PATIENCE).build().unwrap();
        World { folder, datastore, _postgres: postgres, node, http }
    }

    fn mail(&self) -> PathBuf {
        self.folder.path().join("mail")
    }

    fn instance(&self, further: &[&str]) -> ServerProcess {
        let mut command = Command::new(PROGRAM);
        command.args(["serve", "--listen", "127.0.0.1:0", "--datastore", &self.datastore]);
        command.args(["--servers", &self.node.address(), "--mail"]).arg(self.mail()).args(further);
        ServerProcess::start_announced(&mut command).unwrap()
    }

    async fn conference(&self, instance: &ServerProcess, seats: i64) -> i64 {
        let new = json!({ "organizer": "o@example.org", "name": "RustConf", "city": "London", "month": 5, "seats": seats,
            "about": "" });
        let made = self.http.post(format!("{}/api/conferences", instance.url())).json(&new).send().await.unwrap();
        assert_eq!(made.status(), StatusCode::CREATED);
        made.json::<Value>().await.unwrap()["id"].as_i64().unwrap()
    }

    async fn get(&self, instance: &ServerProcess, path: &str) -> Value {
        let answer = self.http.get(format!("{}{path}", instance.url())).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK, "{path}");
        answer.json().await.unwrap()
    }

    /// How many statements an instance has run that begin so.
    async fn statements(&self, instance: &ServerProcess, begin: &str) -> u64 {
        let counts = self.get(instance, "/admin/statements").await;
        let counts = counts.as_object().unwrap().iter().filter(|(text, _)| text.starts_with(begin));
        counts.map(|(_, count)| count.as_u64().unwrap()).sum()
    }
}

async fn until(what: &str, mut reached: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !reached().await {
        assert!(Instant::now() < deadline, "not reached: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Each test runs on both databases; without PostgreSQL the second says that it is skipped.
macro_rules! on_both {
    ($($name:ident($world:ident) $body:block)*) => {
        $(mod $name {
            use super::*;

            async fn run($world: World) $body

            #[tokio::test(flavor = "multi_thread")]
            async fn on_sqlite() {
                run(World::new(None)).await;
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn on_postgresql() {
                if let Some(postgres) = Postgres::start(false).unwrap() {
                    run(World::new(Some(postgres))).await;
                }
            }
        })*
    };
}

on_both! {
    seats_are_neither_lost_nor_sold_twice_while_instances_are_killed(world) {
        const SEATS: i64 = 200;
        let first = world.instance(&[]);
        let id = world.conference(&first, SEATS).await;
        let urls = Arc::new(std::sync::Mutex::new([first.url(), first.url()]));
        let mut instances = [first, world.instance(&[])];
        urls.lock().unwrap()[1] = instances[1].url();
        let attempts = Arc::new(AtomicU64::new(0));
        let taken = Arc::new(std::sync::Mutex::new(HashSet::new()));
        let mut people = JoinSet::new();
        for place in 0..32u64 {
            let (attempts, taken, urls, http) = (attempts.clone(), taken.clone(), urls.clone(), world.http.clone());
            people.spawn(async move {
                loop {
                    let attempt = attempts.fetch_add(1, Ordering::Relaxed);
                    if attempt >= 5000 {
                        return;
                    }
                    let url = urls.lock().unwrap()[(place % 2) as usize].clone();
                    let profile = format!("person{}@example.org", attempt % 1000);
                    let url = format!("{url}/api/conferences/{id}/registrations");
                    // An instance that is killed answers nothing, and whether the seat was taken is not known.
                    let Ok(answer) = http.post(url).json(&json!({ "profile": profile })).send().await else { continue };
                    match answer.status() {
                        StatusCode::CREATED => assert!(taken.lock().unwrap().insert(profile), "registered twice"),
                        StatusCode::CONFLICT => {}
                        status => panic!("{status}"),
                    }
                }
            });
        }
        for kill in 1..=4u64 {
            until("the next kill is due", async || attempts.load(Ordering::Relaxed) >= kill * 100).await;
            let place = (kill % 2) as usize;
            instances[place] = world.instance(&[]);
            urls.lock().unwrap()[place] = instances[place].url();
        }
        while let Some(person) = people.join_next().await {
            person.unwrap();
        }
        let conference = world.get(&instances[0], &format!("/api/conferences/{id}")).await;
        assert_eq!(conference["seats_available"], 0);
        let registered = registrations(&world, id).await;
        assert_eq!(registered.len() as i64, SEATS);
        assert!(taken.lock().unwrap().iter().all(|profile| registered.contains(profile)), "an answered seat is missing");
        // Seats that are given back can be taken again.
        let profile = registered.iter().next().unwrap();
        let url = format!("{}/api/conferences/{id}/registrations", instances[0].url());
        let deleted = world.http.delete(format!("{url}/{profile}")).send().await.unwrap();
        assert_eq!(deleted.json::<Value>().await.unwrap()["seats_available"], 1);
        let again = world.http.delete(format!("{url}/{profile}")).send().await.unwrap();
        assert_eq!(again.status(), StatusCode::NOT_FOUND);
        let newcomer = world.http.post(&url).json(&json!({ "profile": "new@example.org" })).send().await.unwrap();
        assert_eq!(newcomer.status(), StatusCode::CREATED);
        let nowhere = format!("{}/api/conferences/4711/registrations", instances[0].url());
        let nowhere = world.http.post(nowhere).json(&json!({ "profile": "new@example.org" })).send().await.unwrap();
        assert_eq!(nowhere.status(), StatusCode::NOT_FOUND);
    }

    every_registration_is_confirmed_though_instances_are_killed(world) {
        let (registrations, kills) = scale();
        let mut instance = world.instance(&[]);
        let id = world.conference(&instance, registrations).await;
        let mut answered = HashSet::new();
        for number in 0..registrations {
            if number % (registrations / kills) == registrations / kills / 2 {
                instance = world.instance(&[]);
            }
            let profile = format!("person{number}@example.org");
            let url = format!("{}/api/conferences/{id}/registrations", instance.url());
            let answer = world.http.post(url).json(&json!({ "profile": profile })).send().await.unwrap();
            assert_eq!(answer.status(), StatusCode::CREATED);
            answered.insert(profile);
        }
        // On SQLite they wait for its one writer: that none comes for long is a fault.
        let files = || std::fs::read_dir(world.mail()).unwrap().count() as i64;
        let all_are_sent = || files() >= registrations && mails(&world.mail()).len() as i64 >= registrations;
        while !all_are_sent() {
            let before = files();
            until("one more mail is sent", async || files() > before || all_are_sent()).await;
        }
        let mails = mails(&world.mail());
        let missing = answered.iter().filter(|profile| !mails.contains_key(*profile)).count();
        assert_eq!(missing, 0);
        let copies: usize = mails.values().map(|ids| ids.len() - 1).sum();
        // A kill may come after a mail was sent, and before that was noted.
        println!("{registrations} registrations, {kills} kills, {copies} mails sent again");
        assert!(copies <= kills as usize, "{copies} copies");
        for (profile, ids) in &mails {
            assert_eq!(ids.iter().collect::<HashSet<_>>().len(), 1, "{profile}: copies differ in their Message-ID");
        }
    }

    a_leased_task_comes_back_when_its_lease_runs_out_and_never_after_it_was_deleted(world) {
        let instance = world.instance(&["--lease-seconds", "2"]);
        let queue = format!("{}/api/queues/badges", instance.url());
        let lease = async || {
            let answer = world.http.post(format!("{queue}/leases")).json(&json!({ "count": 5 })).send().await.unwrap();
            let lease: Value = answer.json().await.unwrap();
            (lease["lease"].as_str().unwrap().to_owned(), lease["tasks"].as_array().unwrap().clone())
        };
        let added = world.http.post(format!("{queue}/tasks")).json(&json!({ "payload": { "print": 7 } }));
        assert_eq!(added.send().await.unwrap().status(), StatusCode::CREATED);
        let (dead, tasks) = lease().await;
        let began = Instant::now();
        assert_eq!(tasks[0]["payload"]["print"], 7);
        let task = tasks[0]["id"].as_str().unwrap().to_owned();
        // Its worker is dead: it renews nothing.
        let mut taken = None;
        until("the task is back", async || {
            let (name, tasks) = lease().await;
            taken = tasks.first().map(|task| (name, task.clone(), began.elapsed()));
            taken.is_some()
        })
        .await;
        let (alive, again, after) = taken.unwrap();
        assert!(after >= Duration::from_secs(2) && after < Duration::from_secs(5), "back after {after:?}");
        assert_eq!(again["id"], task.as_str());
        assert_eq!(again["tries"], 1);
        let delete = async |lease: &str| {
            world.http.delete(format!("{queue}/leases/{lease}/tasks/{task}")).send().await.unwrap().status()
        };
        assert_eq!(delete(&dead).await, StatusCode::GONE);
        let renew = async |lease: &str| world.http.post(format!("{queue}/leases/{lease}/renew")).send().await.unwrap().status();
        assert_eq!(renew(&dead).await, StatusCode::GONE);
        let renewing = Instant::now();
        while renewing.elapsed() < Duration::from_secs(5) {
            assert_eq!(renew(&alive).await, StatusCode::NO_CONTENT);
            assert!(lease().await.1.is_empty(), "a renewed lease was given out");
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        assert_eq!(delete(&alive).await, StatusCode::NO_CONTENT);
        let deleted = Instant::now();
        while deleted.elapsed() < Duration::from_secs(4) {
            assert!(lease().await.1.is_empty(), "a deleted task came back");
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    }

    a_pushed_task_is_retried_given_up_and_tried_again_on_request(world) {
        // A mail server that is not there.
        let instance = world.instance(&["--task-tries", "3", "--task-limit", "1", "--mail", "smtp://127.0.0.1:9"]);
        let id = world.conference(&instance, 5).await;
        let url = format!("{}/api/conferences/{id}/registrations", instance.url());
        let answer = world.http.post(url).json(&json!({ "profile": "p@example.org" })).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::CREATED);
        let dead = async || {
            let page = world.http.get(format!("{}/admin/tasks", instance.url())).send().await.unwrap().text().await.unwrap();
            let task = page.split("/admin/tasks/").nth(1)?.split('/').next()?.to_owned();
            Some((task, page))
        };
        let mut letter = None;
        until("the task is given up", async || {
            letter = dead().await;
            letter.is_some()
        })
        .await;
        let (task, page) = letter.unwrap();
        assert!(page.contains("3 tries") && page.contains("p@example.org"), "{page}");
        // The mail server is there again: another instance has another one, a folder.
        drop(instance);
        let instance = world.instance(&["--task-tries", "3"]);
        let requeued = world.http.post(format!("{}/admin/tasks/{task}/requeue", instance.url())).send().await.unwrap();
        assert_eq!(requeued.status(), StatusCode::OK);
        until("the mail is sent", async || mails(&world.mail()).contains_key("p@example.org")).await;
        let again = world.http.post(format!("{}/admin/tasks/{task}/requeue", instance.url())).send().await.unwrap();
        assert_eq!(again.status(), StatusCode::NOT_FOUND);
    }

    devices_get_pages_fields_and_304s_without_a_read_of_the_datastore(world) {
        let instance = world.instance(&[]);
        for _ in 0..45 {
            world.conference(&instance, 3).await;
        }
        let (mut seen, mut cursor) = (Vec::new(), String::new());
        loop {
            let page = world.get(&instance, &format!("/api/conferences?city=London&limit=20&fields=id,name{cursor}")).await;
            for item in page["items"].as_array().unwrap() {
                assert_eq!(item.as_object().unwrap().keys().collect::<Vec<_>>(), ["id", "name"]);
                seen.push(item["id"].as_i64().unwrap());
            }
            let Some(next) = page["next"].as_str() else { break };
            cursor = format!("&cursor={next}");
        }
        assert_eq!(seen, (1..=45).collect::<Vec<_>>());
        let url = format!("{}/api/conferences/7", instance.url());
        // A strict read takes no hit of a node that has had no beats yet.
        until("reads are served from the cache", async || {
            let before = world.statements(&instance, "select * from conference").await;
            world.get(&instance, "/api/conferences/7").await;
            before == world.statements(&instance, "select * from conference").await
        })
        .await;
        let first = world.http.get(&url).send().await.unwrap();
        let tag = first.headers()["etag"].clone();
        assert_eq!(first.json::<Value>().await.unwrap()["seats_available"], 3);
        let reads = world.statements(&instance, "select * from conference").await;
        let again = world.http.get(&url).header("if-none-match", &tag).send().await.unwrap();
        assert_eq!(again.status(), StatusCode::NOT_MODIFIED);
        assert_eq!(world.statements(&instance, "select * from conference").await, reads);
        let registered = format!("{url}/registrations");
        world.http.post(registered).json(&json!({ "profile": "p@example.org" })).send().await.unwrap();
        let changed = world.http.get(&url).header("if-none-match", &tag).send().await.unwrap();
        assert_eq!(changed.json::<Value>().await.unwrap()["seats_available"], 2);
        let zipped = world.http.get(format!("{}/conferences/7", instance.url())).header("accept-encoding", "gzip");
        let zipped = zipped.send().await.unwrap();
        assert_eq!(zipped.headers()["content-encoding"], "gzip");
        let wrong = ["conferences?city=x&cursor=no", "conferences?city=x&limit=0", "conferences/7?fields=no"];
        for wrong in wrong.iter().chain(&["conferences?city=%00", "profiles/%00/registrations"]) {
            let answer = world.http.get(format!("{}/api/{wrong}", instance.url())).send().await.unwrap();
            assert_eq!(answer.status(), StatusCode::BAD_REQUEST, "{wrong}");
        }
        let nul = world.http.post(format!("{}/api/queues/q/leases/%00/renew", instance.url())).send().await.unwrap();
        assert_eq!(nul.status(), StatusCode::BAD_REQUEST);
        let description = world.get(&instance, "/openapi.json").await;
        let parameters = description["paths"]["/api/conferences"]["get"]["parameters"].as_array().unwrap();
        let names: Vec<_> = parameters.iter().map(|parameter| parameter["name"].as_str().unwrap()).collect();
        assert_eq!(names, ["city", "month", "open", "cursor", "limit", "fields"]);
    }
}

#[test]
fn no_input_breaks_the_api_or_gets_an_answer_that_its_description_does_not_name() {
    let requirements = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fuzzer-requirements.txt");
    let environment = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("python-fuzzer");
    if python(&environment, requirements, "schemathesis").is_none() {
        eprintln!("SKIPPED: schemathesis cannot be installed (python3 -m pip install schemathesis)");
        return;
    }
    let world = World::new(None);
    let instance = world.instance(&[]);
    // A description cannot say which cursors, leases and tasks there are: those that are not are refused rightly.
    let output = Command::new(environment.join("bin/schemathesis"))
        .args(["run", &format!("{}/openapi.json", instance.url()), "--exclude-checks", "positive_data_acceptance"])
        .args(["--phases", "coverage,fuzzing,stateful", "--max-examples", "20", "--seed", "1"])
        .current_dir(world.folder.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

#[test]
fn each_command_explains_itself() {
    for command in ["demo", "serve", "indexes"] {
        let output = Command::new(PROGRAM).args([command, "--help"]).output().unwrap();
        assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

/// Registrations and kills: few, unless `LARDER_REGISTRATIONS=10000,20` asks for the run that the documentation shows.
fn scale() -> (i64, i64) {
    let set = std::env::var("LARDER_REGISTRATIONS").ok();
    let set = set.as_deref().and_then(|text| text.split_once(','));
    set.map_or((300, 4), |(registrations, kills)| (registrations.parse().unwrap(), kills.parse().unwrap()))
}

/// The Message-IDs of the mails to each address.
fn mails(folder: &Path) -> HashMap<String, Vec<String>> {
    let mut mails: HashMap<String, Vec<String>> = HashMap::new();
    for file in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let text = std::fs::read_to_string(file.path()).unwrap_or_default();
        let header =
            |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).map(|value| value.trim().to_owned());
        // One that is being written has none yet.
        if let (Some(to), Some(id)) = (header("To:"), header("Message-ID:")) {
            mails.entry(to).or_default().push(id);
        }
    }
    mails
}

/// Who is registered, as the datastore itself says.
async fn registrations(world: &World, conference: i64) -> HashSet<String> {
    let sql = "select profile from registration where conference = $1";
    let profiles: Vec<String> = if world.datastore.starts_with("postgres") {
        let pool = sqlx::PgPool::connect(&world.datastore).await.unwrap();
        sqlx::query_scalar(sql).bind(conference).fetch_all(&pool).await.unwrap()
    } else {
        let pool = sqlx::SqlitePool::connect(&world.datastore).await.unwrap();
        sqlx::query_scalar(sql).bind(conference).fetch_all(&pool).await.unwrap()
    };
    profiles.into_iter().collect()
}
