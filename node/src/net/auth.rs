//! Authentication: users and passwords from a file of `user:password` lines, and the requests of connections that have
//! not logged in.

use std::path::{Path, PathBuf};

use larder_protocol::{Command, Decoded, Error, Limits, Outcome, Protocol, Reply, Request, Sasl, Scratch};
use parking_lot::RwLock;
use subtle::ConstantTimeEq;

use crate::config::settings::Settings;
use crate::error::StartError;
use crate::statistics::counters::Counters;

/// Longest line before its end, in bytes.
const LINE_MAX: usize = 2048;

/// Shortest line that gets a reply, in bytes without its end.
const LINE_MIN: usize = 6;

/// Longest user and password together, in bytes.
const TOKEN_MAX: usize = 16 * 1024;

/// Longest name of a SASL mechanism, in bytes.
const MECHANISM_MAX: usize = 32;

/// The users of a file.
#[derive(Debug)]
pub(crate) struct Users {
    file: PathBuf,
    entries: RwLock<Vec<Entry>>,
}

#[derive(Debug, PartialEq, Eq)]
struct Entry {
    user: Vec<u8>,
    password: Vec<u8>,
}

impl Users {
    /// Reads the users of `-Y` or, with `-S`, of MEMCACHED_SASL_PWDB. Returns `None` if the node asks for no login.
    pub(crate) fn of(settings: &Settings) -> Result<Option<Users>, StartError> {
        let file = match (&settings.auth_file, settings.sasl) {
            (Some(path), _) => path.clone(),
            (None, true) => {
                std::env::var_os("MEMCACHED_SASL_PWDB").map(PathBuf::from).ok_or(StartError::NoUsersFile)?
            }
            (None, false) => return Ok(None),
        };
        Ok(Some(Users { entries: RwLock::new(read(&file)?), file }))
    }

    /// Reads the file again. If it cannot be used, the old users stay in force.
    pub(crate) fn reload(&self) -> Result<(), StartError> {
        let entries = read(&self.file)?;
        *self.entries.write() = entries;
        Ok(())
    }

    /// Whether a user has this password. The time does not depend on the answer: every user
    /// is compared in constant time.
    fn accept(&self, user: &[u8], password: &[u8]) -> bool {
        let mut accepted = subtle::Choice::from(0);
        for entry in &*self.entries.read() {
            accepted |= entry.user.as_slice().ct_eq(user) & entry.password.as_slice().ct_eq(password);
        }
        accepted.into()
    }

    /// SASL PLAIN: authorization identity, user and password between zero bytes (RFC 4616).
    fn accept_plain(&self, data: &[u8]) -> bool {
        let mut parts = data.splitn(3, |&byte| byte == 0);
        match (parts.next(), parts.next(), parts.next()) {
            (Some(_), Some(user), Some(password)) => self.accept(user, password),
            _ => false,
        }
    }

    /// Returns the outcome of a SASL command, and whether the connection is now logged in.
    pub(crate) fn sasl(&self, sasl: &Sasl<'_>, counters: &Counters) -> (Outcome<'static>, bool) {
        match sasl {
            Sasl::ListMechanisms => return (Outcome::Line("PLAIN"), false),
            Sasl::Auth { mechanism, .. } | Sasl::Step { mechanism, .. } if mechanism.len() > MECHANISM_MAX => {
                return (Outcome::Error(Error::INVALID_ARGUMENTS), false);
            }
            _ => {}
        }
        counters.auth_cmds.add(1);
        match sasl {
            Sasl::Auth { mechanism: b"PLAIN", data } if self.accept_plain(data) => {
                (Outcome::Line("Authenticated"), true)
            }
            _ => {
                counters.auth_errors.add(1);
                (Outcome::Error(Error::AUTHENTICATION_FAILED), false)
            }
        }
    }

    /// Reads the first request of a connection that is not logged in. Every request but a login is refused.
    pub(crate) fn ask(&self, protocol: Protocol, input: &[u8], counters: &Counters, output: &mut Vec<u8>) -> Asked {
        match protocol {
            Protocol::Text => self.ask_in_text(input, counters, output),
            Protocol::Binary => self.ask_in_binary(input, counters, output),
        }
    }

    /// The text protocol's authentication: `set ANY 0 0 BYTES`, then `user password` (protocol.txt, "Authentication").
    fn ask_in_text(&self, input: &[u8], counters: &Counters, output: &mut Vec<u8>) -> Asked {
        let Some(end) = memchr::memchr(b'\n', input) else {
            return if input.len() > LINE_MAX { Asked::Close } else { Asked::NeedInput };
        };
        if end < LINE_MIN {
            return Asked::Close;
        }
        let mut refuse = |words, consumed| {
            Error::Client(words).encode(output);
            Asked::Answered { consumed, authenticated: false }
        };
        let line = input[..end].strip_suffix(b"\r").unwrap_or(&input[..end]);
        let mut words = line.split(|&byte| byte == b' ').filter(|word| !word.is_empty());
        let is_set = words.next() == Some(b"set");
        let len = words.nth(3).and_then(|len| std::str::from_utf8(len).ok()?.parse::<u32>().ok());
        let Some(len) = len.filter(|_| is_set) else { return refuse("unauthenticated", end + 1) };
        let len = len as usize;
        if len > TOKEN_MAX {
            return refuse("auth token too long", end + 1);
        }
        let body = &input[end + 1..];
        if body.len() < len + 2 {
            return Asked::NeedInput;
        }
        let consumed = end + 1 + len + 2;
        if &body[len..len + 2] != b"\r\n" {
            return refuse("bad command line termination", consumed);
        }
        let Some(blank) = memchr::memchr(b' ', &body[..len]) else {
            return refuse("bad authentication token format", consumed);
        };
        counters.auth_cmds.add(1);
        if !self.accept(&body[..blank], &body[blank + 1..len]) {
            counters.auth_errors.add(1);
            return refuse("authentication failure", consumed);
        }
        output.extend_from_slice(b"STORED\r\n");
        Asked::Answered { consumed, authenticated: true }
    }

    fn ask_in_binary(&self, input: &[u8], counters: &Counters, output: &mut Vec<u8>) -> Asked {
        let mut scratch = Scratch::new();
        let limits = Limits { item_size_max: TOKEN_MAX, ..Limits::default() };
        match Protocol::Binary.decode(input, &limits, &mut scratch) {
            Decoded::Incomplete { .. } => Asked::NeedInput,
            Decoded::Request { request: Request { command, reply }, consumed } => {
                let (outcome, authenticated) = match &command {
                    Command::Sasl(sasl) => self.sasl(sasl, counters),
                    Command::Version => (Outcome::Version(crate::version::VERSION), false),
                    _ => return close(&reply, output),
                };
                reply.outcome(&outcome, output);
                Asked::Answered { consumed, authenticated }
            }
            Decoded::Error { reply, .. } => close(&reply, output),
            Decoded::Part { .. } | Decoded::Close => Asked::Close,
        }
    }
}

/// Closes the connection after a binary command other than SASL or version, as memcached does.
fn close(reply: &Reply<'_>, output: &mut Vec<u8>) -> Asked {
    reply.outcome(&Outcome::Error(Error::UNAUTHENTICATED), output);
    Asked::Close
}

/// The result of a request on a connection that is not logged in.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    /// More bytes must come.
    NeedInput,
    /// The reply to the first `consumed` bytes has been written.
    Answered { consumed: usize, authenticated: bool },
    /// The connection ends when the replies are sent.
    Close,
}

fn read(file: &Path) -> Result<Vec<Entry>, StartError> {
    let text = std::fs::read(file).map_err(|error| StartError::UsersFile { file: file.to_owned(), error })?;
    parse(&text).map_err(|line| StartError::Users { file: file.to_owned(), line })
}

/// Parses users, one a line.
///
/// # Errors
///
/// The number of the first line that is not a user, from 1; `None` if there are no users.
fn parse(text: &[u8]) -> Result<Vec<Entry>, Option<usize>> {
    let lines = text.split(|&byte| byte == b'\n').map(<[u8]>::trim_ascii_end).zip(1..);
    let entries = lines.filter(|(line, _)| !line.is_empty()).map(|(line, number)| {
        let colon = memchr::memchr(b':', line).filter(|&colon| colon > 0).ok_or(Some(number))?;
        Ok(Entry { user: line[..colon].to_vec(), password: line[colon + 1..].to_vec() })
    });
    let entries = entries.collect::<Result<Vec<_>, Option<usize>>>()?;
    if entries.is_empty() { Err(None) } else { Ok(entries) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn users(text: &[u8]) -> Users {
        Users { file: PathBuf::new(), entries: RwLock::new(parse(text).unwrap()) }
    }

    #[test]
    fn a_user_needs_the_right_password() {
        let users = users(b"ada:secret\r\nbob:with:colon\n\n");
        assert!(users.accept(b"ada", b"secret"));
        assert!(users.accept(b"bob", b"with:colon"));
        assert!(users.accept_plain(b"\0ada\0secret"));
        for (user, password) in [(&b"ada"[..], &b""[..]), (b"ada", b"secre"), (b"eve", b"secret"), (b"", b"")] {
            assert!(!users.accept(user, password));
        }
        assert!(!users.accept_plain(b"ada\0secret"));
        assert_eq!(parse(b"a:b\n\nno colon"), Err(Some(3)));
        assert_eq!(parse(b""), Err(None));
    }

    #[test]
    fn before_authentication_text_gets_memcacheds_words_and_nothing_else() {
        let users = users(b"ada:secret");
        let long = [b"get ".as_slice(), &b"key ".repeat(LINE_MAX)].concat();
        let refused = |consumed| Asked::Answered { consumed, authenticated: false };
        let cases: [(&[u8], Asked, &str); 13] = [
            (b"set any 0 0 10\r\nada secret\r\n", Asked::Answered { consumed: 28, authenticated: true }, "STORED\r\n"),
            (b"set any 0 0 9\r\nada wrong\r\n", refused(26), "CLIENT_ERROR authentication failure\r\n"),
            (b"set any 0 0 3\r\nada\r\n", refused(20), "CLIENT_ERROR bad authentication token format\r\n"),
            (b"set any 0 0 3\r\nada secret\r\n", refused(20), "CLIENT_ERROR bad command line termination\r\n"),
            (b"set any 0 0 16385\r\nada", refused(19), "CLIENT_ERROR auth token too long\r\n"),
            (b"set any 0 0 -1\r\n", refused(16), "CLIENT_ERROR unauthenticated\r\n"),
            (b"get any\r\nget", refused(9), "CLIENT_ERROR unauthenticated\r\n"),
            (b"no such command\r\n", refused(17), "CLIENT_ERROR unauthenticated\r\n"),
            (b"set any 0 0 10\r\nada", Asked::NeedInput, ""),
            (b"set any 0", Asked::NeedInput, ""),
            (b"mn\r\n", Asked::Close, ""),
            (b"", Asked::NeedInput, ""),
            (&long, Asked::Close, ""),
        ];
        for (input, expected, answer) in cases {
            let (counters, mut output) = (Counters::default(), Vec::new());
            let asked = users.ask(Protocol::Text, input, &counters, &mut output);
            let text = String::from_utf8_lossy(input);
            assert_eq!((asked, String::from_utf8(output).unwrap().as_str()), (expected, answer), "{text}");
        }
    }
}
