//! The command line of `larder-node`.

use clap::{ArgAction, Parser};

use crate::config::settings::Settings;

/// The command line of `larder-node`: its name, its help and its [`Settings`].
#[derive(Debug, Clone, Parser)]
#[command(
    name = "larder-node",
    version = crate::version::VERSION,
    disable_version_flag = true,
    args_override_self = true,
    about = "A memcache server: memcached's protocols and flags, more items in the same memory.",
    long_about = None,
    after_help = "Without -l the node listens on 127.0.0.1 only: a cache that the whole network can reach is a choice \
                  to make (-l '*').\nStop it with SIGTERM or SIGINT; it answers what it has read, then ends. SIGHUP reads \
                  the users and the certificates again."
)]
pub struct CommandLine {
    /// The flags.
    #[command(flatten)]
    pub settings: Settings,
    /// Print the version
    #[arg(short = 'V', long = "version", action = ArgAction::Version)]
    version: Option<bool>,
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn try_parse_from(arguments: impl IntoIterator<Item = &'static str>) -> Result<Settings, clap::Error> {
        CommandLine::try_parse_from(arguments).map(|command_line| command_line.settings)
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
    fn flags_are_memcacheds_and_so_are_long_names() {
        let short = parse_from(["larder-node", "-p", "0", "-m", "100", "-c", "10", "-I", "2m", "-vv"]);
        let long = parse_from([
            "larder-node",
            "--port=0",
            "--memory-limit=100",
            "--conn-limit=10",
            "--max-item-size=2m",
            "--verbose",
            "--verbose",
        ]);
        assert_eq!(format!("{short:?}"), format!("{long:?}"));
        assert!(try_parse_from(["larder-node", "--no-such-flag"]).is_err());
    }
}
