//! The reasons why a node does not start, or does not read its files again.

use std::io;
use std::path::{Path, PathBuf};

use crate::config::address::ListenError;
use crate::store;

/// Why a node does not start, or refuses a file that it reads again.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// Two flags contradict each other.
    #[error("{0}")]
    Flags(&'static str),
    /// An address of `-l` makes no sense.
    #[error("{address}: {error}")]
    Address {
        /// The address, as it was given.
        address: String,
        /// Which part of it is wrong.
        error: ListenError,
    },
    /// An address cannot be listened on.
    #[error("failed to listen on {transport} {address}: {error}")]
    Listen {
        /// `TCP`, `UDP` or `unix socket`.
        transport: &'static str,
        /// The address with its port, or the path of the unix socket.
        address: String,
        /// The system's error.
        error: io::Error,
    },
    /// A descriptor that systemd passed (sd_listen_fds(3)) is not a socket that a node serves.
    #[error("LISTEN_FDS: descriptor {0} is no TCP, UDP or unix socket")]
    Inherited(usize),
    /// The file of users (`-Y`, or MEMCACHED_SASL_PWDB with `-S`) cannot be read.
    #[error("reading the users in {}: {error}", file.display())]
    UsersFile {
        /// The file.
        file: PathBuf,
        /// The system's error.
        error: io::Error,
    },
    /// The file of users has no users, or a line without a colon behind a name.
    #[error("{}", in_users_file(file, *line))]
    Users {
        /// The file.
        file: PathBuf,
        /// The number of the line, from 1; `None` if the file has no users.
        line: Option<usize>,
    },
    /// `-S` without a file of users.
    #[error("-S needs MEMCACHED_SASL_PWDB to name a file of user:password lines")]
    NoUsersFile,
    /// `-Z` without a certificate.
    #[error("TLS (-Z) needs a certificate: -o ssl_chain_cert=FILE")]
    NoCertificate,
    /// A file of TLS cannot be read, or its contents make no sense.
    #[error("Error loading the {what} {}: {error}", file.display())]
    TlsFile {
        /// `certificate chain`, `key` or `CA certificate`.
        what: &'static str,
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        error: String,
    },
    /// The key is of a kind that TLS is not spoken with here.
    #[error(
        "the key {} is not supported: it is RSA, Ed25519, or ECDSA on the curve P-256 or P-384 (openssl genpkey \
         -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out KEY)",
        file.display()
    )]
    Key {
        /// The file of the key.
        file: PathBuf,
    },
    /// The key is not that of the certificate.
    #[error("the key {} does not belong to the certificate {}: it is that of another one", key.display(), certificate.display())]
    OtherKey {
        /// The file of the key.
        key: PathBuf,
        /// The file of the certificate.
        certificate: PathBuf,
    },
    /// The certificate cannot be used.
    #[error("Error validating the certificate: {0}")]
    Certificate(#[from] rustls::Error),
    /// The user of `-u` does not exist.
    #[error("-u: there is no user {0:?}")]
    NoUser(String),
    /// The process cannot do what a flag asks of it.
    #[error("{doing}: {error}")]
    Process {
        /// What was done, with the flag.
        doing: String,
        /// The system's error.
        error: io::Error,
    },
    /// The memory for items is too small, or is not to be had.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// The system refused a thread, a descriptor or a file.
    #[error(transparent)]
    System(#[from] io::Error),
}

fn in_users_file(file: &Path, line: Option<usize>) -> String {
    let file = file.display();
    match line {
        Some(line) => format!("{file}, line {line}: a line is user:password"),
        None => format!("{file} is empty: it needs lines of user:password"),
    }
}
