//! The commands, each with one meaning for all protocols. This file only finds the function of a command.

pub(crate) mod admin;
pub(crate) mod crawler;
pub(crate) mod dump;
pub(crate) mod effect;
pub(crate) mod events;
pub(crate) mod items;
pub(crate) mod observe;
pub(crate) mod turn;

use larder_protocol::{Command, Error, Outcome, Reply};

use crate::cluster::NotHere;
use crate::commands::effect::Effect;
use crate::commands::turn::Turn;
use crate::statistics;

/// Carries out the command of one request. [`turn::Context`] writes the reply of [`Effect::Reply`].
#[inline]
pub(crate) fn execute(command: &Command<'_>, turn: &mut Turn<'_>) -> Effect {
    if turn.shared.observed() { execute_observed(command, turn) } else { dispatch(command, turn) }
}

#[cold]
fn execute_observed(command: &Command<'_>, turn: &mut Turn<'_>) -> Effect {
    let found = match observe::before(command, turn) {
        Ok(found) => found,
        Err(why) => return Effect::NotHere(why),
    };
    let effect = dispatch(command, turn);
    observe::after(command, found, &effect, turn);
    effect
}

#[inline]
fn dispatch(command: &Command<'_>, turn: &mut Turn<'_>) -> Effect {
    try_dispatch(command, turn).unwrap_or_else(Effect::NotHere)
}

#[inline]
fn try_dispatch(command: &Command<'_>, turn: &mut Turn<'_>) -> Result<Effect, NotHere> {
    if matches!(turn.reply, Reply::Meta(_)) {
        turn.counters.cmd_meta.add(1);
    }
    Ok(Effect::Reply(match command {
        Command::Get(get) => {
            items::get(get, turn)?;
            return Ok(Effect::Replied);
        }
        Command::Store(store) => items::store(store, turn)?,
        Command::Delete(delete) => items::delete(delete, turn)?,
        Command::Arithmetic(arithmetic) => items::arithmetic(arithmetic, turn)?,
        Command::Touch { key, exptime } => items::touch(key, *exptime, turn)?,
        Command::Debug { key } => {
            items::debug(key, turn)?;
            return Ok(Effect::Replied);
        }
        Command::FlushAll { at } => items::flush_all(*at, turn)?,
        Command::Noop => Outcome::Noop,
        Command::Version => Outcome::Version(crate::version::VERSION),
        Command::Verbosity { level } => {
            turn.shared.set_verbosity(*level);
            Outcome::Ok
        }
        Command::Stats { group } => return Ok(statistics::answer(group, turn)),
        Command::Quit => {
            turn.write_reply(Outcome::Quit);
            return Ok(Effect::Close);
        }
        Command::Admin(command) => return Ok(admin::carry_out(*command, turn)),
        Command::Sasl(sasl) => match &turn.shared.users {
            Some(users) => users.sasl(sasl, turn.counters).0,
            None => Outcome::Error(Error::UnknownCommand),
        },
    }))
}
