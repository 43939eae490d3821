//! TLS to the nodes.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::error::{Error, Result};

/// How connections are encrypted: whom to trust, and who the client is.
///
/// ```no_run
/// use larder_client::{Client, Tls};
///
/// # async fn example() -> Result<(), larder_client::Error> {
/// let tls = Tls::trusting("ca.pem")?.with_certificate("client.pem", "client.key")?;
/// let cache = Client::builder().server("cache1.internal:11211").tls(tls).build()?;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Tls {
    roots: Arc<RootCertStore>,
    config: Arc<ClientConfig>,
    server_name: Option<ServerName<'static>>,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("server_name", &self.server_name).finish_non_exhaustive()
    }
}

impl Tls {
    /// Trusts the authorities whose certificates are in this PEM file, and no others.
    ///
    /// On Debian, `/etc/ssl/certs/ca-certificates.crt` holds those the system trusts.
    ///
    /// # Errors
    /// [`Error::Tls`] where the file cannot be read or holds no certificate.
    pub fn trusting(authorities: impl AsRef<Path>) -> Result<Tls> {
        let mut roots = RootCertStore::empty();
        for certificate in certificates(authorities.as_ref())? {
            roots.add(certificate).map_err(|error| wrong(authorities.as_ref(), error))?;
        }
        let roots = Arc::new(roots);
        let config = ClientConfig::builder().with_root_certificates(roots.clone()).with_no_client_auth();
        Ok(Tls { roots, config: Arc::new(config), server_name: None })
    }

    /// Shows a certificate to nodes that ask for one; both files are PEM.
    ///
    /// # Errors
    /// [`Error::Tls`] where a file cannot be read or the two do not belong together.
    pub fn with_certificate(self, certificate: impl AsRef<Path>, key: impl AsRef<Path>) -> Result<Tls> {
        let (certificate, key) = (certificate.as_ref(), key.as_ref());
        let chain = certificates(certificate)?;
        let private = PrivateKeyDer::from_pem_file(key).map_err(|error| wrong(key, error))?;
        let config = ClientConfig::builder()
            .with_root_certificates(self.roots.clone())
            .with_client_auth_cert(chain, private)
            .map_err(|error| wrong(certificate, error))?;
        Ok(Tls { config: Arc::new(config), ..self })
    }

    /// The name that nodes' certificates must bear, where it is not the host by which each is reached.
    ///
    /// # Errors
    /// [`Error::Tls`] where it is neither a name nor an address.
    pub fn with_server_name(self, name: &str) -> Result<Tls> {
        let server_name = ServerName::try_from(name.to_owned())
            .map_err(|_| Error::Tls(format!("{name:?} is neither a host name nor an address")))?;
        Ok(Tls { server_name: Some(server_name), ..self })
    }

    pub(crate) async fn connect(&self, address: &str, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let name = match &self.server_name {
            Some(name) => name.clone(),
            None => {
                let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
                let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
                ServerName::try_from(host).map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?
            }
        };
        TlsConnector::from(self.config.clone()).connect(name, stream).await
    }
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let read = CertificateDer::pem_file_iter(file).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let certificates = read.map_err(|error| wrong(file, error))?;
    if certificates.is_empty() {
        return Err(wrong(file, "it holds no certificate"));
    }
    Ok(certificates)
}

fn wrong(file: &Path, error: impl fmt::Display) -> Error {
    Error::Tls(format!("{}: {error}", file.display()))
}
