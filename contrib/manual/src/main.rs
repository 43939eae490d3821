//! Writes the man pages and the completions of Larder's programs, from their own command lines.
//!
//! ```sh
//! cargo run -p larder-manual -- target/manual
//! ```

use std::path::{Path, PathBuf};

use clap::{Command, CommandFactory};
use clap_complete::Shell;

// The programs are no libraries: only their command lines are used.
#[allow(dead_code, unused_imports)]
#[path = "../../../bench/src/main.rs"]
mod bench;
#[allow(dead_code, unused_imports)]
#[path = "../../../node/src/bin/larder-cluster.rs"]
mod cluster;

/// Returns the command lines of all programs.
fn programs() -> [Command; 4] {
    [larder_node::CommandLine::command(), cluster::command_line(), larder_cli::command_line(), bench::command_line()]
}

/// Writes a man page for each program and subcommand to `folder`/man, and completions to `folder`/bash, zsh and fish.
fn write(folder: &Path) -> anyhow::Result<()> {
    let subfolder = |name: &str| {
        let folder = folder.join(name);
        std::fs::create_dir_all(&folder).map(|()| folder)
    };
    let [man, bash, zsh, fish] = [subfolder("man")?, subfolder("bash")?, subfolder("zsh")?, subfolder("fish")?];
    for mut program in programs() {
        let name = program.get_name().to_owned();
        for (shell, folder) in [(Shell::Bash, &bash), (Shell::Zsh, &zsh), (Shell::Fish, &fish)] {
            clap_complete::generate_to(shell, &mut program, &name, folder)?;
        }
        // Without the suffix, the loader of completions for bash finds them by the program's name.
        std::fs::rename(bash.join(format!("{name}.bash")), bash.join(&name))?;
        clap_mangen::generate_to(program.disable_help_subcommand(true), &man)?;
    }
    Ok(())
}

fn main() -> anyhow::Result<()> {
    let folder = std::env::args_os().nth(1).map_or_else(|| PathBuf::from("target/manual"), PathBuf::from);
    write(&folder)?;
    println!("man pages and completions are in {}", folder.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_long_flag_of_every_program_is_in_its_page_and_its_completions() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path()).unwrap();
        let read = |path: String| std::fs::read_to_string(folder.path().join(&path)).expect(&path);
        let mut flags = 0;
        for program in programs() {
            let name = program.get_name().to_owned();
            let completions = read(format!("bash/{name}"));
            let mut commands = vec![(name.clone(), program)];
            while let Some((name, command)) = commands.pop() {
                let page = read(format!("man/{name}.1")).replace("\\-", "-");
                for flag in command.get_arguments().filter(|flag| !flag.is_hide_set()) {
                    let Some(long) = flag.get_long() else { continue };
                    assert!(page.contains(&format!("--{long}")), "--{long} is not in {name}.1");
                    assert!(completions.contains(&format!("--{long}")), "--{long} is not completed for {name}");
                    flags += 1;
                }
                let below = command.get_subcommands().filter(|below| !below.is_hide_set());
                commands.extend(below.map(|below| (format!("{name}-{}", below.get_name()), below.clone())));
            }
        }
        assert!(flags > 60, "{flags}");
    }
}
