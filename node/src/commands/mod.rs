//! What each command means, once for all protocols.

pub(crate) mod admin;
pub(crate) mod crawler;
pub(crate) mod dump;
pub(crate) mod effect;
pub(crate) mod events;
pub(crate) mod items;
pub(crate) mod observe;

use std::os::fd::RawFd;

use larder_protocol::{Command, Error, Outcome, Reply, Request};

use crate::clock::expiry;
use crate::commands::dump::{Dump, Format};
use crate::commands::effect::Next;
use crate::commands::items::{calculate, debug, delete_item, get_items, store_item, touch};
use crate::counters::Counters;
use crate::net::output::Output;
use crate::shared::Shared;
use crate::statistics;
use crate::store::{Hash, Time};

/// Carries out `request` of the connection with this descriptor and appends the answer to `output`.
#[inline]
pub(crate) fn execute(
    request: &Request<'_>,
    hash: Hash,
    shared: &Shared,
    counters: &Counters,
    now: Time,
    client: RawFd,
    output: &mut Output,
) -> Next {
    let outcome = match shared.observed() {
        false => carry_out(request, hash, shared, counters, now, output),
        true => observe::carry_out(request, hash, shared, counters, now, client, output),
    };
    match outcome {
        Ok(mut outcome) => {
            if let Outcome::Stored { cas, .. } | Outcome::Number { cas, .. } = &mut outcome {
                *cas = shared.told_cas(*cas);
            }
            request.reply.outcome(&outcome, &mut output.bytes);
            Next::Continue
        }
        Err(next) => next,
    }
}

/// Carries out `request`. What it came to is not yet answered, unless it tells what is next.
#[inline]
pub(crate) fn carry_out(
    request: &Request<'_>,
    hash: Hash,
    shared: &Shared,
    counters: &Counters,
    now: Time,
    output: &mut Output,
) -> Result<Outcome<'static>, Next> {
    let reply = &request.reply;
    if matches!(reply, Reply::Meta(_)) {
        counters.cmd_meta.add(1);
    }
    let store = &shared.store;
    Ok(match &request.command {
        Command::Get(get) => {
            get_items(get, hash, reply, shared, counters, now, output);
            return Err(Next::Continue);
        }
        Command::Store(command) => store_item(command, hash, store, counters, now),
        Command::Delete(delete) => delete_item(delete, hash, store, counters, now),
        Command::Arithmetic(arithmetic) => calculate(arithmetic, hash, store, counters, now),
        Command::Touch { key, exptime } => touch(key, hash, *exptime, store, counters, now),
        Command::Debug { key } => return Err(debug(key, hash, reply, shared, now, output)),
        Command::Noop => Outcome::Noop,
        Command::FlushAll { at } => {
            counters.cmd_flush.add(1);
            if shared.settings.no_flush_all {
                return Ok(Outcome::Error(Error::Client("flush_all not allowed")));
            }
            let at = at.filter(|at| at.0 > 0).map(|at| expiry(at, now)).and_then(|expiry| expiry.time());
            store.flush_all(at.unwrap_or(now), now);
            Outcome::Ok
        }
        Command::Version => Outcome::Version(crate::VERSION),
        Command::Verbosity { level } => {
            shared.set_verbosity(*level);
            Outcome::Ok
        }
        // Counted where they are asked for, a slice of the store at a time.
        Command::Stats { group: b"sizes" }
            if shared.settings.given("track_sizes") && matches!(reply, Reply::Text(_)) =>
        {
            return Err(Next::Dump(Dump { format: Format::Sizes, all: true }));
        }
        Command::Stats { group } => {
            statistics::answer(group, reply, shared, now, &mut output.bytes);
            return Err(Next::Continue);
        }
        Command::Quit => {
            reply.outcome(&Outcome::Quit, &mut output.bytes);
            return Err(Next::Close);
        }
        Command::Admin(command) => return admin::carry_out(*command, shared, output.len() > 0),
        Command::Sasl(_) => Outcome::Error(Error::UnknownCommand),
    })
}
