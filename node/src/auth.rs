//! Who may use the node: users and passwords from a file of `user:password` lines.

use std::io;
use std::path::Path;

use subtle::ConstantTimeEq;

/// Longest authentication request that is read, in bytes.
pub(crate) const REQUEST_MAX: usize = 2048;

/// The users of a file.
#[derive(Debug)]
pub(crate) struct Users(Vec<(Vec<u8>, Vec<u8>)>);

impl Users {
    pub(crate) fn read(path: &Path) -> io::Result<Users> {
        let in_words = |error: io::Error| {
            io::Error::new(error.kind(), format!("reading the users in {}: {error}", path.display()))
        };
        Users::parse(&std::fs::read(path).map_err(in_words)?)
            .ok_or_else(|| io::Error::other(format!("{} has a line that is not user:password", path.display())))
    }

    fn parse(text: &[u8]) -> Option<Users> {
        let lines = text.split(|&byte| byte == b'\n').map(<[u8]>::trim_ascii).filter(|line| !line.is_empty());
        let users = lines.map(|line| {
            let colon = line.iter().position(|&byte| byte == b':').filter(|&colon| colon > 0)?;
            Some((line[..colon].to_vec(), line[colon + 1..].to_vec()))
        });
        users.collect::<Option<Vec<_>>>().filter(|users| !users.is_empty()).map(Users)
    }

    /// Whether there is such a user with this password. Takes as long for a wrong one as for a right one: every user
    /// is looked at, and compared in constant time.
    pub(crate) fn accept(&self, user: &[u8], password: &[u8]) -> bool {
        let mut accepted = subtle::Choice::from(0);
        for (known, secret) in &self.0 {
            accepted |= known.as_slice().ct_eq(user) & secret.as_slice().ct_eq(password);
        }
        accepted.into()
    }

    /// The text protocol's authentication: a `set` of `user password` (protocol.txt, "Authentication").
    pub(crate) fn accept_text(&self, value: &[u8]) -> bool {
        let blank = value.iter().position(|&byte| byte == b' ');
        blank.is_some_and(|blank| self.accept(&value[..blank], &value[blank + 1..]))
    }

    /// SASL PLAIN: authorization identity, user and password between zero bytes (RFC 4616).
    pub(crate) fn accept_plain(&self, data: &[u8]) -> bool {
        let mut parts = data.splitn(3, |&byte| byte == 0);
        match (parts.next(), parts.next(), parts.next()) {
            (Some(_), Some(user), Some(password)) => self.accept(user, password),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_needs_the_right_password_in_every_protocol() {
        let users = Users::parse(b"ada:secret\nbob:with:colon\n\n").unwrap();
        assert!(users.accept_text(b"ada secret"));
        assert!(users.accept_text(b"bob with:colon"));
        assert!(users.accept_plain(b"\0ada\0secret"));
        for wrong in [&b"ada"[..], b"ada ", b"ada secre", b"eve secret", b"", b" "] {
            assert!(!users.accept_text(wrong));
        }
        assert!(!users.accept_plain(b"ada\0secret"));
        assert!(Users::parse(b"no colon").is_none());
        assert!(Users::parse(b"").is_none());
    }
}
