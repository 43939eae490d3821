//! Root, which is left before anything is served.

use std::io;

use nix::unistd::{Uid, User, setgid, setgroups, setuid};

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
    let user = User::from_name(name).map_err(io::Error::from)?.ok_or_else(|| StartError::NoUser(name.clone()))?;
    if user.uid.is_root() {
        return Ok(());
    }
    setgroups(&[user.gid])
        .and_then(|()| setgid(user.gid))
        .and_then(|()| setuid(user.uid))
        .map_err(|error| StartError::Process { doing: format!("becoming {name} (-u)"), error: error.into() })
}
