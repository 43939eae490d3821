//! What packages and the book hold, without building them: the entry point of the container, the units of systemd, and
//! the pages.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use larder_bench::process::ServerProcess;
use larder_tests::{PATIENCE, binary};

fn root() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The entry point with the node on its path and the image's environment.
fn container() -> Command {
    let programs = binary("larder-node").parent().expect("a folder").to_owned();
    let path = std::env::join_paths(
        std::iter::once(programs).chain(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())),
    );
    let mut command = Command::new(root().join("contrib/docker/entrypoint"));
    command.env("PATH", path.expect("folders without colons"));
    let dockerfile = read(&root().join("Dockerfile"));
    let variables = dockerfile.lines().filter_map(|line| line.strip_prefix("ENV ")?.split_once('='));
    command.envs(variables);
    command
}

#[test]
fn the_containers_entry_point_takes_arguments_of_the_node_and_other_commands() {
    // As charts give them: flag and value in one argument.
    for arguments in [&["-p", "-1"][..], &["larder-node", "-p", "-1"], &["-m 64", "-I 5m", "-p -1"]] {
        let node = ServerProcess::start(container().args(arguments).stderr(Stdio::null())).expect("the node starts");
        let mut connection = TcpStream::connect(node.address()).unwrap();
        connection.set_read_timeout(Some(PATIENCE)).unwrap();
        connection.write_all(b"stats settings\r\nquit\r\n").unwrap();
        let mut settings = String::new();
        connection.read_to_string(&mut settings).unwrap();
        // Within a container, nobody else reaches 127.0.0.1.
        assert!(settings.contains("STAT inter *\r\n") || settings.contains("STAT inter 0.0.0.0\r\n"), "{settings}");
    }
    let output = container().args(["echo", "-p", "hello"]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "-p hello\n");
}

/// The output of `systemd-analyze`, or `None`, said on standard error, where it is missing.
fn systemd_analyze(arguments: &[&str]) -> Option<(bool, String)> {
    let Ok(output) = Command::new("systemd-analyze").args(arguments).output() else {
        eprintln!("SKIPPED: systemd-analyze is not installed (apt-get install systemd)");
        return None;
    };
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    Some((output.status.success(), text))
}

#[test]
fn systemd_accepts_the_units_and_finds_the_service_well_confined() {
    let folder = tempfile::tempdir().unwrap();
    // The program stands elsewhere until the package is installed.
    let program = binary("larder-node");
    let service = read(&root().join("contrib/deb/larder.service"));
    let installed = service.replace("/usr/bin/larder-node", program.to_str().expect("a path of text"));
    assert_ne!(installed, service);
    let unit = folder.path().join("larder.service");
    std::fs::write(&unit, installed).unwrap();
    let socket = folder.path().join("larder.socket");
    std::fs::copy(root().join("contrib/deb/optional/larder.socket"), &socket).unwrap();
    let (unit, socket) = (unit.to_str().unwrap(), socket.to_str().unwrap());
    let Some((is_valid, text)) = systemd_analyze(&["verify", "--man=no", unit, socket]) else { return };
    assert!(is_valid && !text.contains("larder."), "{text}");
    // 30 tenths: the exposure of units runs from 0 to 10.
    let (is_confined, text) =
        systemd_analyze(&["security", "--offline=yes", "--threshold=30", "--no-pager", unit]).expect("it ran above");
    assert!(is_confined, "{text}");
}

#[test]
fn systemd_hears_when_the_node_serves_reloads_and_stops() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let states = || {
        let mut bytes = [0; 256];
        let len = socket.recv(&mut bytes).expect("a message");
        let text = String::from_utf8_lossy(&bytes[..len]).into_owned();
        text.lines().map(|line| line.split_once('=').expect("NAME=VALUE").0.to_owned()).collect::<Vec<_>>()
    };
    let mut command = Command::new(binary("larder-node"));
    command.args(["-p", "-1"]).env("NOTIFY_SOCKET", &path).stderr(Stdio::null());
    let node = ServerProcess::start(&mut command).expect("the node starts");
    assert_eq!(states(), ["READY"]);
    assert!(Command::new("kill").args(["-HUP", &node.id().to_string()]).status().unwrap().success());
    assert_eq!(states(), ["RELOADING", "MONOTONIC_USEC"]);
    assert_eq!(states(), ["READY"]);
    node.terminate().unwrap();
    assert_eq!(states(), ["STOPPING"]);
    assert!(node.wait().unwrap().success());
}

#[test]
fn the_log_is_an_object_a_line_where_that_is_asked_for() {
    let log = tempfile::NamedTempFile::new().unwrap();
    let mut command = Command::new(binary("larder-node"));
    command.args(["-p", "-1", "--log-format", "json"]).stderr(log.reopen().unwrap());
    let node = ServerProcess::start(&mut command).expect("the node starts");
    node.terminate().unwrap();
    assert!(node.wait().unwrap().success());
    let text = read(log.path());
    let lines: Vec<serde_json::Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect();
    let has = |message: &str| lines.iter().any(|line| line["message"] == message && line["level"] == "INFO");
    assert!(has("listening") && has("stopping: SIGTERM came"), "{text}");
    assert!(lines.iter().all(|line| line["timestamp"].is_string()));
}

#[test]
fn the_summary_of_the_book_names_every_page_and_no_other() {
    let docs = root().join("docs");
    let summary = read(&docs.join("SUMMARY.md"));
    let named: BTreeSet<PathBuf> =
        summary.split("](").skip(1).filter_map(|rest| rest.split(')').next()).map(|page| docs.join(page)).collect();
    let mut pages = BTreeSet::new();
    let mut folders = vec![docs.clone()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "md") && !path.ends_with("SUMMARY.md") {
                pages.insert(path);
            }
        }
    }
    assert_eq!(named, pages);
}

#[test]
fn every_link_to_a_file_in_a_page_leads_to_one() {
    let docs = root().join("docs");
    let pages = ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"]
        .map(|page| root().join(page));
    let book = std::fs::read_dir(&docs).unwrap().map(|entry| entry.unwrap().path());
    let mut broken = Vec::new();
    for page in pages.into_iter().chain(book.filter(|path| path.extension().is_some_and(|found| found == "md"))) {
        let text = read(&page);
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let file = target.split('#').next().unwrap_or_default();
            let is_file = !file.is_empty() && !file.contains("://") && !file.contains(':') && !file.contains(' ');
            if is_file && !page.parent().expect("a folder").join(file).exists() {
                broken.push(format!("{}: {target}", page.display()));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}
