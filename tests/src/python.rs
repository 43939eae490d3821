//! Programs in Python, in environments under `target/`.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Whether a program can be started and ends with status 0. Its standard output is discarded.
pub fn succeeds(command: &mut Command) -> bool {
    command.stdout(Stdio::null()).status().is_ok_and(|status| status.success())
}

/// Returns the Python of the environment in `folder`, with packages that are installed on the first call.
/// `requirements` is a file for pip, and `imports` names the modules that must be there. `None` where that fails: a
/// test then says that it was skipped.
pub fn python(folder: &Path, requirements: &str, imports: &str) -> Option<PathBuf> {
    let python = folder.join("bin/python");
    let usable = || succeeds(Command::new(&python).args(["-c", &format!("import {imports}")]).stderr(Stdio::null()));
    if usable() {
        return Some(python);
    }
    let made = succeeds(Command::new("python3").args(["-m", "venv"]).arg(folder))
        && succeeds(
            Command::new("timeout")
                .arg("120")
                .arg(&python)
                .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--only-binary=:all:", "-r"])
                .arg(requirements),
        );
    (made && usable()).then_some(python)
}
