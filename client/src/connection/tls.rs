//! TLS to the nodes.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::error::{Error, Result};

/// Settings of TLS: the trusted authorities, and the client's certificate.
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
    config: Arc<ClientConfig>,
    server_name: Option<ServerName<'static>>,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("server_name", &self.server_name).finish_non_exhaustive()
    }
}

impl Tls {
    /// Trusts the authorities whose certificates are in this PEM file, and no others. A self-signed certificate of a
    /// node may be in the file too.
    ///
    /// # Errors
    /// [`Error::Tls`] if the file cannot be read or has no certificate.
    pub fn trusting(authorities: impl AsRef<Path>) -> Result<Tls> {
        let mut roots = RootCertStore::empty();
        let file = authorities.as_ref();
        let trusted = certificates(file)?;
        for certificate in &trusted {
            roots.add(certificate.clone()).map_err(|error| wrong(file, error))?;
        }
        trusting(roots, trusted.into())
    }

    /// Trusts the authorities that the system trusts. The variables `SSL_CERT_FILE` and `SSL_CERT_DIR` name others, as
    /// they do for OpenSSL.
    ///
    /// ```no_run
    /// use larder_client::{Client, Tls};
    ///
    /// # async fn example() -> Result<(), larder_client::Error> {
    /// let cache = Client::builder().server("cache1.example.com:11211").tls(Tls::system()?).build()?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`Error::Tls`] if the system has no certificate that can be used.
    pub fn system() -> Result<Tls> {
        let found = rustls_native_certs::load_native_certs();
        let mut roots = RootCertStore::empty();
        // Stores of systems hold certificates that rustls does not take; the others are enough.
        let (added, _) = roots.add_parsable_certificates(found.certs);
        if added == 0 {
            let reasons: Vec<String> = found.errors.iter().map(ToString::to_string).collect();
            let reasons = if reasons.is_empty() { "the store is empty".to_owned() } else { reasons.join("; ") };
            return Err(Error::Tls(format!("the system has no certificate of an authority: {reasons}")));
        }
        trusting(roots, Arc::default())
    }

    /// Uses a configuration of [rustls](https://docs.rs/rustls/0.23) 0.23 as it is: its versions, suites, roots, client
    /// certificate and provider of cryptography.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use larder_client::Tls;
    ///
    /// # let roots = rustls::RootCertStore::empty();
    /// let provider = Arc::new(rustls::crypto::ring::default_provider());
    /// let config = rustls::ClientConfig::builder_with_provider(provider)
    ///     .with_protocol_versions(&[&rustls::version::TLS13])
    ///     .expect("ring has suites for TLS 1.3")
    ///     .with_root_certificates(roots)
    ///     .with_no_client_auth();
    /// let tls = Tls::from_config(config);
    /// # let _ = tls;
    /// ```
    pub fn from_config(config: ClientConfig) -> Tls {
        Tls { config: Arc::new(config), server_name: None }
    }

    /// Returns the configuration of rustls, for connections of one's own.
    pub fn config(&self) -> Arc<ClientConfig> {
        self.config.clone()
    }

    /// Sets the certificate for nodes that request one. Both files are PEM. The key is RSA, Ed25519, or ECDSA on P-256
    /// or P-384.
    ///
    /// # Errors
    /// [`Error::Tls`] if a file cannot be read, or the key does not belong to the certificate.
    pub fn with_certificate(self, certificate: impl AsRef<Path>, key: impl AsRef<Path>) -> Result<Tls> {
        let (certificate, key) = (certificate.as_ref(), key.as_ref());
        let chain = certificates(certificate)?;
        let private = PrivateKeyDer::from_pem_file(key).map_err(|error| wrong(key, error))?;
        let pair = CertifiedKey::from_der(chain, private, self.config.crypto_provider()).map_err(|error| {
            let advice = "keys are RSA, Ed25519, or ECDSA on the curves P-256 and P-384, and belong to the certificate";
            wrong(key, format!("{error} ({advice})"))
        })?;
        let mut config = ClientConfig::clone(&self.config);
        config.client_auth_cert_resolver = Arc::new(SingleCertAndKey::from(pair));
        Ok(Tls { config: Arc::new(config), ..self })
    }

    /// Sets the name that all nodes' certificates must be for. Without it, each must be for the node's host.
    ///
    /// # Errors
    /// [`Error::Tls`] if it is neither a name nor an address.
    pub fn with_server_name(self, name: &str) -> Result<Tls> {
        let server_name = ServerName::try_from(name.to_owned())
            .map_err(|_| Error::Tls(format!("{name:?} is neither a host name nor an address")))?;
        Ok(Tls { server_name: Some(server_name), ..self })
    }

    /// Encrypts a connection to a node whose certificate must be for `host`.
    pub(crate) async fn connect(&self, host: &str, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let name = match &self.server_name {
            Some(name) => name.clone(),
            None => ServerName::try_from(host.to_owned())
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?,
        };
        TlsConnector::from(self.config.clone()).connect(name, stream).await.map_err(Tls::explain)
    }

    /// Adds to the error of a handshake what to change, where a set-up that OpenSSL takes is the cause: for connections
    /// of one's own, with [`Tls::config`].
    pub fn explain(error: io::Error) -> io::Error {
        let text = error.to_string();
        let advice = if text.contains("UnsupportedCertVersion") {
            "the node's certificate is of X.509 version 1: sign it again with extensions (openssl x509 -req -extfile \
             FILE, with a line subjectAltName=DNS:NAME)"
        } else if text.contains("CaUsedAsEndEntity") {
            "the node shows the certificate of an authority: list that very certificate in the file of trusted ones, \
             or sign one for the node with it"
        } else if text.contains("HandshakeFailure") {
            "no common cipher suite or signature: a key on curve P-521 is not supported, use P-256 or P-384"
        } else {
            return error;
        };
        io::Error::new(error.kind(), format!("{text}: {advice}"))
    }
}

/// Returns the settings that trust `roots`, and the certificates `trusted` as they are.
fn trusting(roots: RootCertStore, trusted: Arc<[CertificateDer<'static>]>) -> Result<Tls> {
    // The process's provider, if it has chosen one. Without the choice, rustls panics where another crate of the
    // program has enabled a second provider.
    let provider = CryptoProvider::get_default().cloned().unwrap_or_else(|| Arc::new(ring::default_provider()));
    let authorities = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .build()
        .map_err(|error| Error::Tls(error.to_string()))?;
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::Tls(error.to_string()))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Verifier { authorities, trusted }))
        .with_no_client_auth();
    Ok(Tls::from_config(config))
}

/// Accepts what the authorities have signed, and a certificate that is itself in the list of those trusted: a
/// self-signed one (`openssl req -x509`), which is marked as an authority and therefore refused as a server's
/// otherwise.
#[derive(Debug)]
struct Verifier {
    authorities: Arc<WebPkiServerVerifier>,
    trusted: Arc<[CertificateDer<'static>]>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if self.trusted.iter().any(|trusted| trusted == certificate) {
            // The file that the operator chose vouches for it. Whether it is for this node is checked all the same.
            verify_server_name(&ParsedCertificate::try_from(certificate)?, name)?;
            return Ok(ServerCertVerified::assertion());
        }
        self.authorities.verify_server_cert(certificate, chain, name, ocsp, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.authorities.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.authorities.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.authorities.supported_verify_schemes()
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
