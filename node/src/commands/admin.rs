//! Operators' commands (protocol.txt, "Slabs Reassign", "LRU_Crawler", "LRU Tuning", "cache_memlimit", "Shutdown").
//!
//! This engine has no slabs and no LRU segments to tune. Arguments are checked and answered as memcached does, so that
//! scripts go on working; nothing changes.

use larder_protocol::{Admin, Error, Outcome};

use crate::clock::Clock;
use crate::cluster::NotHere;
use crate::commands::crawler::BUSY;
use crate::commands::dump::{Dump, Format};
use crate::commands::effect::Effect;
use crate::commands::events::Topics;
use crate::commands::turn::Turn;
use crate::log::Seldom;
use crate::shared::Shared;
use crate::statistics::slab_classes::{CLASS, CLASSES};

/// Carries out an operator's command.
pub(super) fn carry_out(command: Admin<'_>, turn: &Turn<'_>) -> Effect {
    let shared = turn.shared;
    let (name, arguments) = match command {
        Admin::CacheMemlimit { mebibytes } => return Effect::Reply(cache_memlimit(mebibytes, shared)),
        Admin::Config { .. } | Admin::Words { name: b"config", .. } if turn.router.is_some() => {
            return Effect::NotHere(NotHere::Configuration);
        }
        Admin::Config { .. } => return Effect::Reply(Outcome::Error(Error::UnknownCommand)),
        Admin::Words { name, arguments } => (name, arguments),
    };
    let Ok(arguments) = std::str::from_utf8(arguments) else {
        return Effect::Reply(Outcome::Error(Error::UnknownCommand));
    };
    let words: Vec<&str> = arguments.split(' ').filter(|word| !word.is_empty()).collect();
    Effect::Reply(match name {
        b"shutdown" => return shutdown(&words, shared),
        b"watch" => return watch(&words, turn),
        b"lru_crawler" => return lru_crawler(&words, turn),
        b"slabs" => slabs(&words),
        b"lru" => lru(&words),
        b"debugtime" if shared.settings.debug_time => debug_time(&words, &shared.clock),
        b"refresh_certs" => refresh_certs(shared),
        _ => Outcome::Error(Error::UnknownCommand),
    })
}

fn cache_memlimit(mebibytes: u64, shared: &Shared) -> Outcome<'static> {
    match mebibytes {
        ..8 => Outcome::Line("MEMLIMIT_TOO_SMALL cannot set maxbytes to less than 8m"),
        1_000_000_001.. => Outcome::Line("MEMLIMIT_ADJUST_FAILED input value is megabytes not bytes"),
        _ => {
            shared.store.set_memory_limit((mebibytes as usize).saturating_mul(1024 * 1024), shared.clock.now());
            Outcome::Ok
        }
    }
}

fn shutdown(words: &[&str], shared: &Shared) -> Effect {
    Effect::Reply(match words {
        _ if !shared.settings.shutdown => Outcome::Line("SERVER_ERROR: shutdown not enabled"),
        [] | ["graceful"] => {
            shared.shutdown.notify_one();
            return Effect::ShutDown;
        }
        _ => Outcome::Error(Error::Client("invalid shutdown mode")),
    })
}

fn watch(words: &[&str], turn: &Turn<'_>) -> Effect {
    Effect::Reply(match Topics::parse(words) {
        _ if turn.shared.settings.no_watch => Outcome::Error(Error::Client("watch commands not allowed")),
        _ if turn.is_pipelined() => Outcome::Line("ERROR cannot pipeline other commands before watch"),
        Some(topics) => return Effect::Watch(topics),
        None => Outcome::Error(Error::UnknownCommand),
    })
}

fn refresh_certs(shared: &Shared) -> Outcome<'static> {
    let Some(tls) = &shared.tls else { return Outcome::Line("Error TLS not enabled") };
    match tls.refresh() {
        Ok(()) => Outcome::Ok,
        Err(error) => {
            static NOT_READ: Seldom = Seldom::new();
            if NOT_READ.is_due() {
                tracing::error!("{error}");
            }
            Outcome::Line("Error loading the certificates: the server's log tells why, the old ones stay")
        }
    }
}

/// `debugtime p` stops the clock, `r` lets it run, a number of seconds moves it.
fn debug_time(words: &[&str], clock: &Clock) -> Outcome<'static> {
    match words {
        ["p"] => clock.pause(clock.now()),
        ["r"] => clock.resume(),
        [seconds] => match seconds.trim_start_matches('+').parse() {
            Ok(seconds) => clock.shift(seconds),
            Err(_) => return Outcome::Error(Error::UnknownCommand),
        },
        _ => return Outcome::Error(Error::UnknownCommand),
    }
    Outcome::Ok
}

fn slabs(words: &[&str]) -> Outcome<'static> {
    let number = |word: &str| word.parse::<u32>().ok();
    match words {
        ["reassign", from, to] if number(from).is_some() && number(to).is_some() => {
            Outcome::Line("BADCLASS invalid src or dst class id")
        }
        ["automove", "ratio" | "freeratio", ratio, ..] if ratio.parse::<f64>().is_ok() => Outcome::Ok,
        ["automove", "ratio" | "freeratio", ..] => Outcome::Error(Error::UnknownCommand),
        ["automove", "window", seconds, ..] => match number(seconds) {
            Some(3..=1800) => Outcome::Ok,
            Some(_) => Outcome::Error(Error::Client("automove window too low or too high")),
            None => Outcome::Error(Error::BAD_FORMAT),
        },
        ["automove", level, ..] => match number(level) {
            Some(0..=2) => Outcome::Ok,
            Some(_) => Outcome::Error(Error::UnknownCommand),
            None => Outcome::Error(Error::BAD_FORMAT),
        },
        ["reassign", _, _] => Outcome::Error(Error::BAD_FORMAT),
        _ => Outcome::Error(Error::UnknownCommand),
    }
}

fn lru(words: &[&str]) -> Outcome<'static> {
    let accepted = match words {
        ["tune", hot, warm, hot_age, warm_age, ..] => {
            let (Ok(hot), Ok(warm)) = (hot.parse::<u32>(), warm.parse::<u32>()) else {
                return Outcome::Error(Error::UnknownCommand);
            };
            let (Ok(hot_age), Ok(warm_age)) = (hot_age.parse::<f64>(), warm_age.parse::<f64>()) else {
                return Outcome::Error(Error::UnknownCommand);
            };
            if hot.saturating_add(warm) > 80 {
                return Outcome::Line("ERROR hot and warm pcts must not exceed 80");
            }
            if hot_age <= 0.0 || warm_age <= 0.0 {
                return Outcome::Line("ERROR hot/warm age factors must be greater than 0");
            }
            true
        }
        ["mode", "flat" | "segmented", ..] => true,
        ["temp_ttl", seconds, ..] => seconds.parse::<i32>().is_ok(),
        _ => false,
    };
    if accepted { Outcome::Ok } else { Outcome::Error(Error::UnknownCommand) }
}

fn lru_crawler(words: &[&str], turn: &Turn<'_>) -> Effect {
    let shared = turn.shared;
    let number = |word: &str| word.parse::<u32>().ok();
    Effect::Reply(match words {
        ["enable"] | ["disable"] => {
            shared.crawler.enable(words == ["enable"]);
            Outcome::Ok
        }
        ["crawl", "hash"] => Outcome::Line("ERROR an unknown error happened"),
        ["crawl", classes] => match crawled(classes, shared) {
            // Expired items are reclaimed by background work already.
            Ok(_) => {
                shared.crawler.count_crawl();
                Outcome::Ok
            }
            Err(refused) => refused,
        },
        ["metadump", classes] => return dump(Format::Metadata, classes, turn),
        ["mgdump", classes] => return dump(Format::Get, classes, turn),
        ["tocrawl", count] if number(count).is_some() => Outcome::Ok,
        ["sleep", microseconds] => match number(microseconds) {
            Some(..=1_000_000) => Outcome::Ok,
            Some(_) => Outcome::Error(Error::Client("sleep must be one second or less")),
            None => Outcome::Error(Error::BAD_FORMAT),
        },
        ["tocrawl", _] => Outcome::Error(Error::BAD_FORMAT),
        _ => Outcome::Error(Error::UnknownCommand),
    })
}

/// Whether these classes (`all`, `hash`, or numbers separated by commas) hold all items or none. The error says why
/// they cannot be crawled.
fn crawled(classes: &str, shared: &Shared) -> Result<bool, Outcome<'static>> {
    if !shared.crawler.enabled() {
        return Err(Outcome::Error(Error::Client("lru crawler disabled")));
    }
    let mut all = matches!(classes, "all" | "hash");
    if !all {
        for class in classes.split(',').filter(|class| !class.is_empty()) {
            match class.parse() {
                Ok(class @ 1..CLASSES) => all |= class == CLASS,
                _ => return Err(Outcome::Line("BADCLASS invalid class id")),
            }
        }
    }
    if shared.crawler.running() { Err(Outcome::Line(BUSY)) } else { Ok(all) }
}

fn dump(format: Format, classes: &str, turn: &Turn<'_>) -> Effect {
    let (refused, late) = match format {
        Format::Metadata => ("ERROR metadump not allowed", "ERROR cannot pipeline other commands before metadump"),
        Format::Get | Format::Sizes => {
            ("ERROR key dump not allowed", "ERROR cannot pipeline other commands before mgdump")
        }
    };
    Effect::Reply(match crawled(classes, turn.shared) {
        Err(Outcome::Error(error)) => Outcome::Error(error),
        _ if turn.shared.settings.no_dumping => Outcome::Line(refused),
        _ if turn.is_pipelined() => Outcome::Line(late),
        Err(refused) => refused,
        Ok(all) => return Effect::Dump(Dump { format, all }),
    })
}
