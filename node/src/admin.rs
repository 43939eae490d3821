//! Operators' commands (protocol.txt, "Slabs Reassign", "LRU_Crawler", "LRU Tuning", "cache_memlimit", "Shutdown").
//!
//! This engine has no slabs, no crawler and no LRU segments to tune: where memcached would change them, the words are
//! checked as it does and the answer is its own, so that scripts go on working; nothing changes.

use larder_protocol::{Admin, Error, Outcome};

use crate::clock::Clock;
use crate::server::Shared;

/// Carries out the command; `None` where the connection ends without an answer.
pub(crate) fn carry_out(command: Admin<'_>, shared: &Shared) -> Option<Outcome<'static>> {
    match command {
        Admin::CacheMemlimit { mebibytes } => Some(cache_memlimit(mebibytes, shared)),
        Admin::Words { name, arguments } => {
            let Ok(arguments) = std::str::from_utf8(arguments) else {
                return Some(Outcome::Error(Error::UnknownCommand));
            };
            let words: Vec<&str> = arguments.split(' ').filter(|word| !word.is_empty()).collect();
            match name {
                b"shutdown" => shutdown(&words, shared),
                b"slabs" => Some(slabs(&words)),
                b"lru" => Some(lru(&words)),
                b"debugtime" if shared.settings.debug_time => Some(debug_time(&words, &shared.clock)),
                b"lru_crawler" => Some(lru_crawler(&words)),
                _ => Some(Outcome::Error(Error::UnknownCommand)),
            }
        }
    }
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

fn shutdown(words: &[&str], shared: &Shared) -> Option<Outcome<'static>> {
    match words {
        _ if !shared.settings.shutdown => Some(Outcome::Line("SERVER_ERROR: shutdown not enabled")),
        [] | ["graceful"] => {
            shared.shutdown.notify_one();
            None
        }
        _ => Some(Outcome::Error(Error::Client("invalid shutdown mode"))),
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

fn lru_crawler(words: &[&str]) -> Outcome<'static> {
    let number = |word: &str| word.parse::<u32>().ok();
    match words {
        ["enable" | "disable"] => Outcome::Ok,
        // Expired items are given back without being asked for.
        ["crawl", "all"] => Outcome::Ok,
        ["crawl", classes] if classes.split(',').all(|class| matches!(number(class), Some(1..=63))) => Outcome::Ok,
        ["crawl", _] => Outcome::Line("BADCLASS invalid class id"),
        ["tocrawl", count] if number(count).is_some() => Outcome::Ok,
        ["sleep", microseconds] => match number(microseconds) {
            Some(..=1_000_000) => Outcome::Ok,
            Some(_) => Outcome::Error(Error::Client("sleep must be one second or less")),
            None => Outcome::Error(Error::BAD_FORMAT),
        },
        ["tocrawl", _] => Outcome::Error(Error::BAD_FORMAT),
        _ => Outcome::Error(Error::UnknownCommand),
    }
}
