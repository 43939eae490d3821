//! Command lines and environments as they are written in the field: by templates, charts and other programs.
//!
//! Blanks in front of a value are no part of it: charts write `-m 64` as one word, and memcached skips the blank. Each
//! option can be given by a variable too. A variable that is empty, or that Kubernetes sets for a Service, is not set.

use std::env;
use std::ffi::{OsStr, OsString};

use clap::builder::BoolishValueParser;
use clap::{Arg, ArgAction, Command};

/// What the values begin with that Kubernetes gives to the variables of a Service, such as `LARDER_PORT`.
const SERVICE_SCHEMES: [&str; 3] = ["tcp://", "udp://", "sctp://"];

/// Returns the command with a variable for each of its options: `prefix`, then the long name in capitals, with `_` for
/// `-`. A variable that the command names itself keeps its name.
pub(crate) fn with_variables(command: Command, prefix: &str) -> Command {
    command.mut_args(|arg| match variable(&arg, prefix) {
        Some(name) => {
            let arg = if matches!(arg.get_action(), ArgAction::SetTrue) {
                arg.value_parser(BoolishValueParser::new())
            } else {
                arg
            };
            arg.env(name).hide_env(true)
        }
        None => arg,
    })
}

/// Returns the command, and its subcommands, without the variables that are empty or a Service's.
pub fn without_foreign_variables(command: Command) -> Command {
    let command = command.mut_args(|arg| match arg.get_env().and_then(env::var_os) {
        Some(value) if is_unset(&value) => arg.env(None::<&str>),
        _ => arg,
    });
    command.mut_subcommands(without_foreign_variables)
}

/// Returns the variables of a command that Kubernetes has set, each with its value.
pub(crate) fn service_variables(command: &Command, prefix: &str) -> Vec<(String, String)> {
    let names = command.get_arguments().filter_map(|arg| variable(arg, prefix));
    let set = names.filter_map(|name| env::var(&name).ok().map(|value| (name, value)));
    set.filter(|(_, value)| is_a_services(value)).collect()
}

/// Returns the name of an option's variable; `None` for one that prints something and ends the program.
fn variable(arg: &Arg, prefix: &str) -> Option<String> {
    let prints =
        matches!(arg.get_action(), ArgAction::Help | ArgAction::HelpShort | ArgAction::HelpLong | ArgAction::Version);
    let long = arg.get_long().filter(|_| !prints)?;
    Some(prefix.to_owned() + &long.to_ascii_uppercase().replace('-', "_"))
}

fn is_unset(value: &OsStr) -> bool {
    value.is_empty() || value.to_str().is_some_and(is_a_services)
}

fn is_a_services(value: &str) -> bool {
    SERVICE_SCHEMES.iter().any(|scheme| value.starts_with(scheme))
}

/// Returns the words of a command line without blanks around them, and without those in front of a value that stands in
/// one word with its option.
pub(crate) fn without_blanks(words: impl IntoIterator<Item = OsString>, command: &Command) -> Vec<OsString> {
    let takes_value = |letter: char| {
        let arg = command.get_arguments().find(|arg| arg.get_short() == Some(letter));
        arg.is_some_and(|arg| arg.get_action().takes_values())
    };
    words.into_iter().map(|word| word.to_str().map(|text| trim(text, takes_value).into()).unwrap_or(word)).collect()
}

fn trim(word: &str, takes_value: impl Fn(char) -> bool) -> String {
    let word = word.trim();
    let value_at = if word.starts_with("--") {
        word.find('=').map(|at| at + 1)
    } else if let Some(letters) = word.strip_prefix('-') {
        let with_value = letters.char_indices().find(|&(_, letter)| takes_value(letter));
        with_value.map(|(at, letter)| 1 + at + letter.len_utf8())
    } else {
        None
    };
    let (option, value) = word.split_at(value_at.unwrap_or(0));
    option.to_owned() + value.trim_start()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blanks_in_front_of_a_value_are_no_part_of_it() {
        let cases = [
            ("-m 64", "-m64"),
            ("-vm 64", "-vm64"),
            (" -m\t64 ", "-m64"),
            ("--memory-limit= 64", "--memory-limit=64"),
            (" 64", "64"),
            ("-s/a b", "-s/a b"),
            ("-v ", "-v"),
            ("-p -1", "-p-1"),
            ("--extended=modern, track_sizes", "--extended=modern, track_sizes"),
            ("", ""),
            ("-", "-"),
        ];
        for (word, trimmed) in cases {
            assert_eq!(trim(word, |letter| "msp".contains(letter)), trimmed, "{word:?}");
        }
    }

    #[test]
    fn a_variable_has_the_name_of_its_option() {
        let command = Command::new("node").args([
            Arg::new("a").long("memory-limit"),
            Arg::new("b").short('D'),
            Arg::new("c").long("version").action(ArgAction::Version),
            Arg::new("d").long("cache").env("OTHER"),
        ]);
        let names: Vec<_> = command.get_arguments().filter_map(|arg| variable(arg, "LARDER_")).collect();
        assert_eq!(names, ["LARDER_MEMORY_LIMIT", "LARDER_CACHE"]);
    }

    #[test]
    fn what_kubernetes_sets_for_a_service_and_what_is_empty_counts_as_not_set() {
        for unset in ["", "tcp://10.96.0.10:11211", "udp://[fd00::1]:11211"] {
            assert!(is_unset(unset.as_ref()), "{unset:?}");
        }
        assert!(!is_unset("11211".as_ref()));
    }
}
