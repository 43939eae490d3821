//! The command line of `larder-node`.

use std::ffi::OsString;

use clap::{ArgAction, CommandFactory, FromArgMatches, Parser};

use crate::config::arguments;
use crate::config::settings::Settings;

/// What the names of the variables begin with.
const PREFIX: &str = "LARDER_";

/// The command line of `larder-node`: its name, its help and its [`Settings`].
#[derive(Debug, Clone, Parser)]
#[command(
    name = "larder-node",
    version = crate::version::VERSIONS,
    disable_version_flag = true,
    disable_help_flag = true,
    args_override_self = true,
    about = "A memcache server: memcached's protocols and flags, more items in the same memory.",
    long_about = None,
    after_help = "Without -l the node listens on 127.0.0.1 only. All flags, examples and variables: --help",
    after_long_help = "\
Examples:
  larder-node -m 4g -l '*'                       4 GiB, for the whole network
  larder-node -s /run/larder.sock -a 770         on a unix socket, for a group
  larder-node -m 4g -e /dev/shm/larder           with items that outlive a restart
  larder-node -Y users.txt -Z -o ssl_chain_cert=cert.pem,ssl_key=key.pem
                                                 with a login, over TLS
  larder-node --cluster shop --seeds 10.0.0.1:21211
                                                 with the nodes of a cluster

Variables:
  Each long flag can be given by a variable: LARDER_, then its name in capitals, with _ for -
  (LARDER_MEMORY_LIMIT=4g, LARDER_LISTEN='*', LARDER_ENABLE_SSL=yes). The command line goes first. An empty
  variable is not set; nor is one that Kubernetes sets for a Service (LARDER_PORT=tcp://10.96.0.10:11211).

Without -l the node listens on 127.0.0.1 only: a cache that the whole network can reach is a choice to make.
SIGTERM, SIGINT and SIGUSR1 stop the node once it has answered what it has read. SIGHUP makes it read the users and the
certificates again."
)]
pub struct CommandLine {
    /// The flags.
    #[command(flatten)]
    pub settings: Settings,
    /// Print help; -h prints the most used flags
    #[arg(short = 'h', long, action = ArgAction::Help, help_heading = "Process")]
    help: Option<bool>,
    /// Print the version
    #[arg(short = 'V', long = "version", action = ArgAction::Version, help_heading = "Process")]
    version: Option<bool>,
    /// Print the licence
    #[arg(short = 'i', long = "license", exclusive = true, help_heading = "Process", hide_short_help = true)]
    license: bool,
}

impl CommandLine {
    /// Reads the command line of this process, and the variables of its environment. Prints the help or the error, and
    /// ends the process, where there are no settings to run with.
    pub fn of_this_process() -> CommandLine {
        let command_line = CommandLine::read(std::env::args_os()).unwrap_or_else(|error| error.exit());
        if command_line.license {
            print!("{}", include_str!("../LICENSE"));
            std::process::exit(0);
        }
        command_line
    }

    /// Reads a command line, whose first word is the program's name, and the variables of the environment.
    ///
    /// # Errors
    ///
    /// The error to print where the words are not a command line; a request for help or for the version is one too.
    pub fn read(words: impl IntoIterator<Item = OsString>) -> Result<CommandLine, clap::Error> {
        let command = arguments::with_variables(CommandLine::command(), PREFIX);
        let command = arguments::without_foreign_variables(command);
        let words = arguments::without_blanks(words, &command);
        CommandLine::from_arg_matches(&command.try_get_matches_from(words)?)
    }
}

/// Returns the variables that Kubernetes has set for a Service under the name of a flag's, each with its value.
pub(crate) fn service_variables() -> Vec<(String, String)> {
    arguments::service_variables(&CommandLine::command(), PREFIX)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn try_parse_from(arguments: impl IntoIterator<Item = &'static str>) -> Result<Settings, clap::Error> {
        CommandLine::read(arguments.into_iter().map(OsString::from)).map(|command_line| command_line.settings)
    }

    fn parse_from(arguments: impl IntoIterator<Item = &'static str>) -> Settings {
        try_parse_from(arguments).unwrap()
    }

    #[test]
    fn ports_are_off_free_or_taken_from_each_other_as_in_memcached() {
        let cases: [(&[&str], Option<u16>, Option<u16>); 7] = [
            (&[], Some(11211), None),
            (&["-p", "0"], None, None),
            (&["-p", "-1"], Some(0), None),
            (&["-U", "7"], Some(7), Some(7)),
            (&["-p", "0", "-U", "7"], None, Some(7)),
            (&["-p", "5", "-U", "7"], Some(5), Some(7)),
            (&["-p", "5", "-p", "6", "-U", "-1"], Some(6), Some(0)),
        ];
        for (arguments, tcp, udp) in cases {
            let settings = parse_from([&["larder-node"], arguments].concat());
            assert_eq!((settings.tcp_port(), settings.udp_port()), (tcp, udp), "{arguments:?}");
        }
    }

    #[test]
    fn flags_that_contradict_each_other_are_refused() {
        let wrong: [&[&str]; 7] = [
            &["-S", "-B", "auto"],
            &["-S", "-B", "binary", "-B", "ascii"],
            &["-Y", "users", "-B", "binary"],
            &["-Y", "users", "-U", "11211"],
            &["-S", "-U", "11211"],
            &["-I", "256m"],
            &["-m", "1"],
        ];
        for arguments in wrong {
            assert!(parse_from([&["larder-node"], arguments].concat()).check().is_err(), "{arguments:?}");
        }
        assert_eq!(parse_from(["larder-node", "-S", "-B", "binary"]).check(), Ok(()));
    }

    #[test]
    fn the_last_option_of_a_name_holds() {
        let options = |text| parse_from(["larder-node", "-o", text]);
        assert_eq!(options("idle_timeout=3,idle_timeout=5").extended.idle_timeout, Some(Duration::from_secs(5)));
        assert!(options("modern").extended.maxconns_fast);
        assert!(!options("no_maxconns_fast").extended.maxconns_fast);
        assert!(!options("no_modern").extended.maxconns_fast);
        assert!(options("no_modern,maxconns_fast").extended.maxconns_fast);
    }

    #[test]
    fn a_value_may_have_blanks_in_front_of_it_whichever_way_its_flag_is_written() {
        let values = [
            ("-p", "--port", "5"),
            ("-l", "--listen", "10.0.0.1"),
            ("-s", "--unix-socket", "/a b"),
            ("-a", "--unix-mask", "770"),
            ("-U", "--udp-port", "-1"),
            ("-b", "--listen-backlog", "9"),
            ("-B", "--protocol", "ascii"),
            ("-m", "--memory-limit", "100"),
            ("-I", "--max-item-size", "5m"),
            ("", "--eviction", "lru"),
            ("-c", "--conn-limit", "16384"),
            ("-t", "--threads", "4"),
            ("-R", "--max-reqs-per-event", "20"),
            ("-Y", "--auth-file", "users"),
            ("-P", "--pidfile", "pid"),
            ("-e", "--memory-file", "/dev/shm/larder"),
            ("-u", "--user", "11211"),
            ("-o", "--extended", "modern,track_sizes"),
            ("-D", "", "/"),
            ("-f", "--slab-growth-factor", "1.5"),
            ("-n", "--slab-min-size", "64"),
            ("-N", "--napi-ids", "2"),
            ("", "--http", "127.0.0.1:9150"),
            ("", "--log-format", "json"),
        ];
        for (short, long, value) in values {
            let plain = match long {
                "" => vec![short.to_owned(), value.to_owned()],
                _ => vec![long.to_owned(), value.to_owned()],
            };
            let mut others = Vec::new();
            if !short.is_empty() {
                others.extend([vec![format!("{short}{value}")], vec![format!("{short} {value}")]]);
                others
                    .extend([vec![format!("-v{} {value}", &short[1..])], vec![short.to_owned(), format!(" {value}")]]);
            }
            if !long.is_empty() {
                others.extend([vec![format!("{long}= {value}")], vec![long.to_owned(), format!("\t{value}")]]);
            }
            let settings = |words: &[String]| {
                let words = ["larder-node".to_owned()].iter().chain(words).map(OsString::from).collect::<Vec<_>>();
                let settings = CommandLine::read(words).unwrap().settings;
                format!("{:?}", Settings { verbosity: 0, ..settings })
            };
            let expected = settings(&plain);
            assert_ne!(expected, settings(&[]), "{plain:?}");
            for words in others {
                assert_eq!(settings(&words), expected, "{words:?}");
            }
        }
        let command = CommandLine::command();
        let flags = command.get_arguments().filter(|arg| arg.get_action().takes_values() && !arg.is_positional());
        let missing: Vec<_> = flags
            .filter(|arg| arg.get_help_heading() != Some("Cluster (see docs/cluster.md)"))
            .filter(|arg| values.iter().all(|(_, long, _)| Some(&long[long.len().min(2)..]) != arg.get_long()))
            .filter(|arg| arg.get_long().is_some())
            .map(|arg| arg.get_id())
            .collect();
        assert!(missing.is_empty(), "not in the table: {missing:?}");
    }

    #[test]
    fn flags_are_memcacheds_and_so_are_long_names() {
        // memcached.c, longopts.
        let memcacheds = "a unix-mask A enable-shutdown Z enable-ssl p port s unix-socket U udp-port m memory-limit \
                          M disable-evictions c conn-limit k lock-memory h help i license V version r enable-coredumps \
                          v verbose d daemon l listen u user P pidfile f slab-growth-factor n slab-min-size t threads \
                          L enable-largepages R max-reqs-per-event C disable-cas b listen-backlog B protocol \
                          I max-item-size S enable-sasl F disable-flush-all X disable-dumping W disable-watch \
                          Y auth-file e memory-file o extended N napi-ids";
        let words: Vec<&str> = memcacheds.split_whitespace().collect();
        let command = CommandLine::command();
        for pair in words.chunks(2) {
            let arg = command.get_arguments().find(|arg| arg.get_long() == Some(pair[1]));
            assert_eq!(arg.and_then(|arg| arg.get_short()), pair[0].chars().next(), "{pair:?}");
        }
        assert!(try_parse_from(["larder-node", "--no-such-flag"]).is_err());
    }

    #[test]
    fn the_version_is_that_of_the_node_and_names_the_memcached_that_it_stands_in_for() {
        let asked = try_parse_from(["larder-node", "-V"]).unwrap_err();
        let versions =
            format!("larder-node {} (as memcached {})\n", env!("CARGO_PKG_VERSION"), crate::version::VERSION);
        assert_eq!(asked.to_string(), versions);
    }

    #[test]
    fn lists_may_have_empty_elements_and_words_may_be_left_over() {
        let settings = parse_from(["larder-node", "-o", "modern,", "-o", "", "-l", "127.0.0.1,", ">>", "/var/log/x"]);
        assert_eq!(settings.stray_words, [">>", "/var/log/x"]);
        assert!(settings.addresses().is_ok());
    }

    #[test]
    fn the_short_help_has_the_most_used_flags_and_the_long_one_has_all_in_groups() {
        let (short, long) =
            (CommandLine::command().render_help().to_string(), CommandLine::command().render_long_help().to_string());
        assert!(short.lines().count() < 60, "{short}");
        for heading in ["Listening", "Memory", "Limits", "TLS and login", "Process", "Compatibility", "Cluster"] {
            assert!(long.contains(&format!("\n{heading}")), "{heading}: {long}");
        }
        for arg in CommandLine::command().get_arguments().filter(|arg| !arg.is_hide_set() && !arg.is_positional()) {
            assert!(long.contains(&format!("-{}", arg.get_long().unwrap_or("D"))), "{}", arg.get_id());
            assert!(arg.get_help().is_some(), "{}", arg.get_id());
        }
    }
}
