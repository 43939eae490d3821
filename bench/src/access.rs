//! Access to servers that demand TLS, a client certificate or a login.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use larder_client::{Builder, Client, Tls};
use rustls::ClientConfig;

/// The options for access to protected servers.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Access")]
pub struct AccessArgs {
    /// Speak TLS and trust the certificate authorities in this file (PEM)
    #[arg(long, value_name = "FILE")]
    pub tls_ca: Option<PathBuf>,
    /// Name that certificates must have, if it is not the host's
    #[arg(long, value_name = "NAME", requires = "tls_ca")]
    pub tls_name: Option<String>,
    /// Client certificate to present (PEM)
    #[arg(long, value_name = "FILE", requires_all = ["tls_ca", "tls_key"])]
    pub tls_cert: Option<PathBuf>,
    /// Private key of the client certificate (PEM)
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
    /// User to log in as, for servers with -Y, or with -S and --protocol binary
    #[arg(long, value_name = "NAME", requires = "password")]
    pub user: Option<String>,
    /// Password of the user; LARDER_BENCH_PASSWORD keeps it out of the list of processes
    #[arg(long, value_name = "PASSWORD", requires = "user", env = "LARDER_BENCH_PASSWORD", hide_env_values = true)]
    pub password: Option<String>,
}

impl AccessArgs {
    /// Returns user and password; `None` without a login.
    ///
    /// # Errors
    ///
    /// The name or the password holds a character that the login cannot carry.
    pub(crate) fn login(&self) -> Result<Option<(&str, &str)>> {
        let Some(login) = self.user.as_deref().zip(self.password.as_deref()) else { return Ok(None) };
        let is_plain = |word: &str| !word.is_empty() && !word.contains(|c: char| c.is_whitespace() || c.is_control());
        ensure!(is_plain(login.0), "--user: a name has no blanks and no control characters");
        ensure!(is_plain(login.1), "--password: a password has no blanks and no control characters");
        Ok(Some(login))
    }

    /// Returns the TLS settings of raw connections; `None` without TLS.
    ///
    /// # Errors
    ///
    /// A file cannot be read, or certificate and key do not belong together.
    pub(crate) fn tls(&self) -> Result<Option<Arc<ClientConfig>>> {
        Ok(self.client_tls()?.map(|tls| tls.config()))
    }

    fn client_tls(&self) -> Result<Option<Tls>> {
        let Some(authorities) = &self.tls_ca else { return Ok(None) };
        let mut tls = Tls::trusting(authorities).context("--tls-ca")?;
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
    pub(crate) fn client(&self, servers: &[String], timeout: Duration) -> Result<Builder> {
        let mut builder = Client::builder().servers(servers).timeout(timeout);
        if let Some(tls) = self.client_tls()? {
            builder = builder.tls(tls);
        }
        if let Some((user, password)) = self.login()? {
            builder = builder.login(user, password);
        }
        Ok(builder)
    }
}
