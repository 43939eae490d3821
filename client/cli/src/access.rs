//! Access to servers that demand TLS, a client certificate or a login.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use larder_client::{Builder, Client, Tls};

/// The options for access to protected servers.
///
/// Which of them belong together is checked here and not by clap: it looks at options before a command, at those behind
/// it and at variables each by themselves.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Access")]
pub struct AccessArgs {
    /// Speak TLS and trust the certificate authorities of the system
    #[arg(long, group = "authorities")]
    pub tls: bool,
    /// Speak TLS and trust the certificate authorities in this file (PEM)
    #[arg(long, value_name = "FILE", group = "authorities")]
    pub tls_ca: Option<PathBuf>,
    /// Name that certificates must have, if it is not the host's
    #[arg(long, value_name = "NAME")]
    pub tls_name: Option<String>,
    /// Client certificate to present (PEM)
    #[arg(long, value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,
    /// Private key of the client certificate (PEM)
    #[arg(long, value_name = "FILE")]
    pub tls_key: Option<PathBuf>,
    /// User to log in as, at servers with -Y; those with -S need --sasl, or a load in the binary protocol
    #[arg(long, value_name = "NAME", env = "LARDER_USER")]
    pub user: Option<String>,
    /// Password of the user; the variable keeps it out of the list of processes
    #[arg(long, value_name = "PASSWORD", env = "LARDER_PASSWORD", hide_env_values = true)]
    pub password: Option<String>,
    /// Log in by SASL PLAIN: for servers with -S that speak text after it, as larder-node does and memcached does not
    #[arg(long)]
    pub sasl: bool,
}

impl AccessArgs {
    /// Returns user and password; `None` without a login.
    ///
    /// # Errors
    ///
    /// The name or the password is missing, or holds a character that the login cannot carry.
    pub fn login(&self) -> Result<Option<(&str, &str)>> {
        let login = match (self.user.as_deref(), self.password.as_deref()) {
            (Some(user), Some(password)) => (user, password),
            (Some(_), None) => bail!("--user needs --password, or the variable LARDER_PASSWORD"),
            (None, Some(_)) => bail!("--password needs --user, or the variable LARDER_USER"),
            (None, None) if self.sasl => bail!("--sasl needs --user and --password"),
            (None, None) => return Ok(None),
        };
        let is_plain = |word: &str| !word.is_empty() && !word.contains(|c: char| c.is_whitespace() || c.is_control());
        ensure!(is_plain(login.0), "--user: a name has no blanks and no control characters");
        ensure!(is_plain(login.1), "--password: a password has no blanks and no control characters");
        Ok(Some(login))
    }

    /// Returns whether connections are encrypted.
    pub fn speaks_tls(&self) -> bool {
        self.tls || self.tls_ca.is_some()
    }

    /// Returns the TLS settings; `None` without TLS.
    ///
    /// # Errors
    ///
    /// A file cannot be read, certificate and key do not belong together, or an option that this one needs is missing.
    pub fn tls(&self) -> Result<Option<Tls>> {
        ensure!(self.tls_cert.is_some() == self.tls_key.is_some(), "--tls-cert and --tls-key need one another");
        let mut tls = match &self.tls_ca {
            Some(authorities) => Tls::trusting(authorities).context("--tls-ca")?,
            None if self.tls => Tls::system().context("--tls")?,
            None if self.tls_name.is_some() || self.tls_cert.is_some() => {
                bail!("--tls-name and --tls-cert need --tls, or --tls-ca FILE")
            }
            None => return Ok(None),
        };
        if let Some((certificate, key)) = self.tls_cert.as_deref().zip(self.tls_key.as_deref()) {
            tls = tls.with_certificate(certificate, key).context("--tls-cert, --tls-key")?;
        }
        if let Some(name) = &self.tls_name {
            tls = tls.with_server_name(name).context("--tls-name")?;
        }
        Ok(Some(tls))
    }

    /// Returns the builder of a client with this access to `servers`.
    ///
    /// # Errors
    ///
    /// A file cannot be read, or the login cannot be carried.
    pub fn client(&self, servers: &[String], timeout: Duration) -> Result<Builder> {
        let mut builder = Client::builder().servers(servers).timeout(timeout);
        if let Some(tls) = self.tls()? {
            builder = builder.tls(tls);
        }
        if let Some((user, password)) = self.login()? {
            builder = if self.sasl { builder.sasl_login(user, password) } else { builder.login(user, password) };
        }
        Ok(builder)
    }
}
