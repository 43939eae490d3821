//! Widely used client libraries with three nodes. The libraries are installed under `target/`. If that fails, the tests
//! report that they were skipped.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use bytes::Bytes;
use larder_client::{Client, Compressed, Compression, Plain};
use larder_tests::python::succeeds;
use larder_tests::{PATIENCE, Server, installed};

/// Returns the Python of an environment with the client libraries.
fn python() -> Option<&'static PathBuf> {
    static PYTHON: OnceLock<Option<PathBuf>> = OnceLock::new();
    let requirements = concat!(env!("CARGO_MANIFEST_DIR"), "/clients/requirements.txt");
    let imports = "pymemcache, pylibmc, bmemcached";
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("python-clients");
    PYTHON.get_or_init(|| larder_tests::python::python(&folder, requirements, imports)).as_ref()
}

fn check(library: &str) {
    let Some(python) = python() else {
        eprintln!("SKIPPED: {library} could not be installed with python3 -m venv and pip");
        return;
    };
    let nodes = [Server::node(&[]), Server::node(&[]), Server::node(&[])];
    let output = Command::new(python)
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/clients/check.py"))
        .arg(library)
        .args(nodes.iter().map(Server::address))
        .output()
        .unwrap();
    assert!(output.status.success(), "{library}: {}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn pymemcache_works() {
    check("pymemcache");
}

#[test]
fn pylibmc_works_in_text_with_ketama() {
    check("pylibmc");
}

#[test]
fn pylibmc_works_in_binary_with_ketama() {
    check("pylibmc-binary");
}

#[test]
fn python_binary_memcached_works() {
    check("python-binary-memcached");
}

/// Runs `values.py`. Returns `false` if the library cannot be installed.
fn values(library: &str, action: &str, node: &Server) -> bool {
    let Some(python) = python() else {
        eprintln!("SKIPPED: {library} could not be installed with python3 -m venv and pip");
        return false;
    };
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/clients/values.py");
    let output = Command::new(python).args([script, library, action, &node.address()]).output().unwrap();
    assert!(output.status.success(), "{library}, {action}: {}", String::from_utf8_lossy(&output.stderr));
    true
}

async fn exchange_values(library: &str) {
    let node = Server::node(&[]);
    let cache = Client::builder().server(node.address()).timeout(PATIENCE).build().unwrap();
    let plain = cache.typed(Compressed::new(Plain).method(Compression::Zlib));
    let (text, long, bytes) = ("h\u{e9}llo".to_owned(), "larder ".repeat(1000), Bytes::from_static(&[0, 255]));
    let ttl = Duration::from_secs(60);
    plain.set("string", &text, ttl).await.unwrap();
    plain.set("integer", &42u64, ttl).await.unwrap();
    plain.set("negative", &-7i64, ttl).await.unwrap();
    plain.set("bytes", &bytes, ttl).await.unwrap();
    plain.set("long", &long, ttl).await.unwrap();
    if !values(library, "read", &node) {
        return;
    }
    cache.delete_many(&["string", "integer", "negative", "bytes", "long"]).await;
    values(library, "write", &node);
    assert_eq!(plain.get("string").await.unwrap(), Some(text));
    assert_eq!(plain.get("integer").await.unwrap(), Some(42u64));
    assert_eq!(plain.get("negative").await.unwrap(), Some(-7i64));
    assert_eq!(plain.get("bytes").await.unwrap(), Some(bytes));
    assert_eq!(plain.get("long").await.unwrap(), Some(long));
    assert!(cache.get("long").await.unwrap().unwrap().len() < 1000, "it was written compressed");
}

#[tokio::test]
async fn pymemcache_and_larder_read_each_others_strings_integers_and_bytes() {
    exchange_values("pymemcache").await;
}

#[tokio::test]
async fn pylibmc_and_larder_read_each_others_strings_integers_and_bytes() {
    exchange_values("pylibmc").await;
}

/// Returns the folder with memjs.
fn memjs() -> Option<PathBuf> {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("node-clients");
    let modules = folder.join("node_modules");
    let usable = || {
        let mut require = Command::new("node");
        succeeds(require.args(["-e", "require('memjs')"]).env("NODE_PATH", &modules).stderr(Stdio::null()))
    };
    let mut install = Command::new("timeout");
    install.args(["120", "npm", "install", "--silent", "--no-audit", "--no-fund", "--prefix"]).arg(&folder);
    (usable() || (succeeds(install.arg("memjs@1.3.2")) && usable())).then_some(modules)
}

#[test]
fn memjs_works() {
    let Some(modules) = memjs() else {
        eprintln!("SKIPPED: memjs could not be installed with npm, or there is no node");
        return;
    };
    let nodes = [Server::node(&[]), Server::node(&[]), Server::node(&[])];
    let output = Command::new("node")
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/clients/check.js"))
        .args(nodes.iter().map(Server::address))
        .env("NODE_PATH", modules)
        .output()
        .unwrap();
    assert!(output.status.success(), "memjs: {}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn memccapable_finds_nothing_that_it_does_not_find_in_memcached() {
    if !installed("memccapable", "libmemcached-tools") {
        eprintln!(
            "SKIPPED: memccapable is not installed and could not be installed (apt-get install libmemcached-tools)"
        );
        return;
    }
    let node = Server::node(&[]);
    // This check fails on memcached 1.6.45 too: `delete` takes a second word now.
    let known = ["ascii delete", "ascii delete noreply"];
    for protocol in ["-a", "-b"] {
        let port = node.port().to_string();
        let output =
            Command::new("memccapable").args(["-h", "127.0.0.1", "-p", &port, protocol, "-t", "10"]).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let passed = text.lines().filter(|line| line.contains("[pass]")).count();
        assert!(passed > 20, "{passed} passed: {text}");
        for failed in text.lines().filter(|line| line.contains("[FAIL]")) {
            let name = failed.split("  ").next().unwrap_or(failed);
            assert!(known.contains(&name), "{failed}");
        }
    }
}
