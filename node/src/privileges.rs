//! Root, which is left before anything is served.

use std::io;

use nix::unistd::{Gid, Uid, User, setgid, setgroups, setuid};

use crate::config::settings::Settings;
use crate::error::StartError;

/// Becomes the user of `-u`, if root started the process.
pub(crate) fn leave_root(settings: &Settings) -> Result<(), StartError> {
    if !Uid::effective().is_root() {
        return Ok(());
    }
    let Some(name) = &settings.user else {
        tracing::warn!("serving as root: -u NAME makes it another user");
        return Ok(());
    };
    let (uid, gid) = find(name).map_err(io::Error::from)?.ok_or_else(|| StartError::NoUser(name.clone()))?;
    if uid.is_root() {
        return Ok(());
    }
    setgroups(&[gid])
        .and_then(|()| setgid(gid))
        .and_then(|()| setuid(uid))
        .map_err(|error| StartError::Process { doing: format!("becoming {name} (-u)"), error: error.into() })
}

/// Returns the user of a name or a number. A number needs no entry among the users: containers run with numbers alone.
fn find(name: &str) -> nix::Result<Option<(Uid, Gid)>> {
    if let Some(user) = User::from_name(name)? {
        return Ok(Some((user.uid, user.gid)));
    }
    let Ok(number) = name.parse::<u32>() else { return Ok(None) };
    let group = User::from_uid(Uid::from_raw(number))?.map_or(Gid::from_raw(number), |user| user.gid);
    Ok(Some((Uid::from_raw(number), group)))
}
