//! TLS by rustls: certificates and their renewal, and a socket with a TLS session.

use std::io::{self, IoSlice, Read, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

use parking_lot::{Mutex, RwLock};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{NoServerSessionStorage, ParsedCertificate, ServerSessionMemoryCache, WebPkiClientVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{
    CertificateError, CipherSuite, ClientConfig, ClientConnection, Connection, DigitallySignedStruct,
    DistinguishedName, HandshakeKind, InconsistentKeys, ProtocolVersion, RootCertStore, ServerConfig, ServerConnection,
    SignatureScheme,
};
use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::TcpStream;

use crate::config::address::ClientCertificate;
use crate::config::options::TlsOptions;
use crate::error::StartError;

/// Number of sessions kept for resumption (`ssl_session_cache`); OpenSSL's default.
const SESSIONS: usize = 20 * 1024;

/// Bytes that a session may hold of its client's bytes, or for its client, without being counted: one read of rustls.
const UNCOUNTED: usize = 4 * 1024;

/// The most bytes that all sessions together hold beyond [`UNCOUNTED`] each: of records and handshakes that are not
/// complete, and of records that clients do not read.
const HELD_MAX: usize = 16 * 1024 * 1024;

/// OpenSSL's names (`ssl_ciphers`) of rustls' cipher suites for TLS 1.2.
const TLS12_CIPHERS: [(&str, CipherSuite); 6] = [
    ("ECDHE-ECDSA-AES256-GCM-SHA384", CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384),
    ("ECDHE-ECDSA-AES128-GCM-SHA256", CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256),
    ("ECDHE-ECDSA-CHACHA20-POLY1305", CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256),
    ("ECDHE-RSA-AES256-GCM-SHA384", CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384),
    ("ECDHE-RSA-AES128-GCM-SHA256", CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256),
    ("ECDHE-RSA-CHACHA20-POLY1305", CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256),
];

/// The certificates in force, and counts of handshakes and errors.
#[derive(Debug)]
pub(crate) struct Tls {
    options: TlsOptions,
    provider: Arc<CryptoProvider>,
    certificates: RwLock<Certificates>,
    /// Full handshakes.
    new_sessions: AtomicU64,
    handshake_errors: AtomicU64,
    /// Errors after the handshake.
    protocol_errors: AtomicU64,
    /// Bytes that sessions hold, but for [`UNCOUNTED`] of each.
    held: AtomicUsize,
}

/// The rustls configurations made from the files, one for each mode of client certificates.
#[derive(Debug)]
struct Certificates {
    not_asked: Arc<ServerConfig>,
    requested: Arc<ServerConfig>,
    required: Arc<ServerConfig>,
    /// For links to other members of a cluster.
    members: Arc<ClientConfig>,
    read: Instant,
}

/// Counts of sessions and errors.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TlsCounts {
    /// Full handshakes.
    pub(crate) new_sessions: u64,
    /// Errors during the handshake.
    pub(crate) handshake_errors: u64,
    /// Errors after the handshake.
    pub(crate) protocol_errors: u64,
    /// Seconds since the certificates were read.
    pub(crate) seconds_since_refresh: u64,
}

impl Tls {
    pub(crate) fn new(options: &TlsOptions) -> Result<Tls, StartError> {
        if options.min_version < 2 {
            tracing::warn!("ssl_min_version: TLS 1.2 is the least that is spoken");
        }
        let provider = Arc::new(provider(options.ciphers.as_deref()));
        Ok(Tls {
            certificates: RwLock::new(read_certificates(options, &provider)?),
            options: options.clone(),
            provider,
            new_sessions: AtomicU64::new(0),
            handshake_errors: AtomicU64::new(0),
            protocol_errors: AtomicU64::new(0),
            held: AtomicUsize::new(0),
        })
    }

    /// Reads the files again, for new connections. If they cannot be used, the old certificates stay in force.
    pub(crate) fn refresh(&self) -> Result<(), StartError> {
        let certificates = read_certificates(&self.options, &self.provider)?;
        *self.certificates.write() = certificates;
        Ok(())
    }

    /// Starts a session with a client that has just connected. The handshake happens in the first reads.
    pub(crate) fn accept(self: &Arc<Self>, stream: TcpStream, client: ClientCertificate) -> io::Result<TlsSocket> {
        let config = {
            let certificates = self.certificates.read();
            match client {
                ClientCertificate::NotAsked => &certificates.not_asked,
                ClientCertificate::Requested => &certificates.requested,
                ClientCertificate::Required => &certificates.required,
            }
            .clone()
        };
        let session = ServerConnection::new(config).map_err(io::Error::other)?;
        Ok(TlsSocket { stream, session: Mutex::new(Session::new(session.into())), tls: Some(self.clone()) })
    }

    /// Starts a session with a member that this node has just connected to.
    pub(crate) fn dial(&self, stream: TcpStream) -> io::Result<TlsSocket> {
        TlsSocket::dial(stream, self.certificates.read().members.clone())
    }

    /// Returns the counts so far.
    pub(crate) fn counts(&self) -> TlsCounts {
        TlsCounts {
            new_sessions: self.new_sessions.load(Ordering::Relaxed),
            handshake_errors: self.handshake_errors.load(Ordering::Relaxed),
            protocol_errors: self.protocol_errors.load(Ordering::Relaxed),
            seconds_since_refresh: self.certificates.read().read.elapsed().as_secs(),
        }
    }

    fn count_error(&self, session: &Connection) {
        let count = if session.is_handshaking() { &self.handshake_errors } else { &self.protocol_errors };
        count.fetch_add(1, Ordering::Relaxed);
    }

    fn count_session(&self, session: &Connection) {
        if session.handshake_kind() != Some(HandshakeKind::Resumed) {
            self.new_sessions.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Returns a provider with the cipher suites of `ciphers`, OpenSSL's list for TLS 1.2. Suites of TLS 1.3 are always on.
fn provider(ciphers: Option<&str>) -> CryptoProvider {
    let mut provider = ring::default_provider();
    let Some(ciphers) = ciphers else { return provider };
    let find = |name: &str| TLS12_CIPHERS.iter().find(|(known, _)| *known == name).map(|(_, suite)| *suite);
    let (known, unknown): (Vec<&str>, Vec<&str>) = ciphers.split(':').partition(|name| find(name).is_some());
    if !unknown.is_empty() {
        tracing::warn!("ssl_ciphers: there is no {}", unknown.join(", "));
    }
    if !known.is_empty() {
        let known: Vec<CipherSuite> = known.into_iter().filter_map(find).collect();
        provider.cipher_suites.retain(|suite| suite.tls13().is_some() || known.contains(&suite.suite()));
    }
    provider
}

fn read_certificates(options: &TlsOptions, provider: &Arc<CryptoProvider>) -> Result<Certificates, StartError> {
    let chain_file = options.chain_cert.as_deref().ok_or(StartError::NoCertificate)?;
    let chain = read_pem(chain_file).map_err(refused("certificate chain", chain_file))?;
    let key_file = options.key.as_deref().unwrap_or(chain_file);
    let key = if options.key_is_der {
        std::fs::read(key_file)
            .map_err(|error| error.to_string())
            .and_then(|der| PrivateKeyDer::try_from(der).map_err(str::to_owned))
    } else {
        PrivateKeyDer::from_pem_file(key_file).map_err(in_words)
    };
    let key = key.map_err(refused("key", key_file))?;
    let key = provider.key_provider.load_private_key(key).map_err(|_| StartError::Key { file: key_file.to_owned() })?;
    let pair = CertifiedKey::new(chain, key);
    match pair.keys_match() {
        Err(rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) => {
            return Err(StartError::OtherKey { key: key_file.to_owned(), certificate: chain_file.to_owned() });
        }
        // It is for clients to say whether they take it: those of OpenSSL do.
        Err(rustls::Error::InvalidCertificate(CertificateError::Other(why))) => tracing::warn!(
            "{}: rustls' clients refuse this certificate ({why}); docs/tls.md shows how to make one that all take",
            chain_file.display()
        ),
        Ok(()) | Err(rustls::Error::InconsistentKeys(_)) => {}
        Err(error) => return Err(error.into()),
    }
    let pair = Arc::new(SingleCertAndKey::from(pair));
    let mut roots = RootCertStore::empty();
    let mut trusted = Vec::new();
    if let Some(file) = &options.ca_cert {
        trusted = read_pem(file).map_err(refused("CA certificate", file))?;
        let add = |root: &CertificateDer<'static>| roots.add(root.clone());
        trusted.iter().try_for_each(add).map_err(|error| error.to_string()).map_err(refused("CA certificate", file))?;
    }
    let (roots, trusted) = (Arc::new(roots), Arc::from(trusted));
    let config = |client| config(options, provider, pair.clone(), verifier(&roots, &trusted, provider, client));
    Ok(Certificates {
        not_asked: config(ClientCertificate::NotAsked)?,
        requested: config(ClientCertificate::Requested)?,
        required: config(ClientCertificate::Required)?,
        members: for_members(roots.clone(), trusted.clone(), provider.clone())?,
        read: Instant::now(),
    })
}

fn refused(what: &'static str, file: &Path) -> impl FnOnce(String) -> StartError {
    move |error| StartError::TlsFile { what, file: file.to_owned(), error }
}

/// The text of an error is all that callers show of it.
fn read_pem(file: impl AsRef<Path>) -> Result<Vec<CertificateDer<'static>>, String> {
    let certificates = CertificateDer::pem_file_iter(file).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    match certificates {
        Ok(certificates) if certificates.is_empty() => Err("there is no certificate in it".to_owned()),
        certificates => certificates.map_err(in_words),
    }
}

fn in_words(error: pem::Error) -> String {
    match error {
        pem::Error::Io(error) => error.to_string(),
        pem::Error::NoItemsFound => "there is none in it, in PEM".to_owned(),
        error => error.to_string(),
    }
}

fn config(
    options: &TlsOptions,
    provider: &Arc<CryptoProvider>,
    pair: Arc<SingleCertAndKey>,
    verifier: Arc<dyn ClientCertVerifier>,
) -> Result<Arc<ServerConfig>, rustls::Error> {
    let versions = if options.min_version == 3 { &[&rustls::version::TLS13][..] } else { rustls::ALL_VERSIONS };
    let mut config = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(versions)?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(pair);
    // Sessions are kept in the server, not in the client's tickets. Each mode of client certificates keeps its own.
    if options.session_cache {
        config.session_storage = ServerSessionMemoryCache::new(SESSIONS);
    } else {
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
    }
    Ok(Arc::new(config))
}

fn verifier(
    roots: &Arc<RootCertStore>,
    trusted: &Arc<[CertificateDer<'static>]>,
    provider: &Arc<CryptoProvider>,
    client: ClientCertificate,
) -> Arc<dyn ClientCertVerifier> {
    let mandatory = client == ClientCertificate::Required;
    if client == ClientCertificate::NotAsked {
        return WebPkiClientVerifier::no_client_auth();
    }
    let builder = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone());
    let builder = if mandatory { builder } else { builder.allow_unauthenticated() };
    match builder.build() {
        Ok(authorities) => Arc::new(Verifier { authorities, trusted: trusted.clone() }),
        // This fails only without roots.
        Err(_) => Arc::new(TrustsNobody { mandatory, provider: provider.clone() }),
    }
}

/// What an operator's program dials members with: it has no files of theirs.
pub(crate) fn for_operators() -> Result<Arc<ClientConfig>, rustls::Error> {
    for_members(Arc::new(RootCertStore::empty()), Arc::from([]), Arc::new(ring::default_provider()))
}

/// Links speak TLS 1.3 alone: what its exporter gives is a session's own, whoever stands between.
fn for_members(
    roots: Arc<RootCertStore>,
    trusted: Arc<[CertificateDer<'static>]>,
    provider: Arc<CryptoProvider>,
) -> Result<Arc<ClientConfig>, rustls::Error> {
    let verifier = Arc::new(MemberVerifier { roots, trusted, provider: provider.clone() });
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    config.enable_sni = false;
    Ok(Arc::new(config))
}

/// Who is a member is proved by the cluster's key, over this session's own secret: the certificate need not say so, and
/// its name is that for clients. Where there is `ssl_ca_cert`, it must be of those authorities, or itself in their file.
#[derive(Debug)]
struct MemberVerifier {
    roots: Arc<RootCertStore>,
    trusted: Arc<[CertificateDer<'static>]>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for MemberVerifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if !self.trusted.is_empty() && !self.trusted.iter().any(|trusted| trusted == certificate) {
            let algorithms = self.provider.signature_verification_algorithms.all;
            let certificate = ParsedCertificate::try_from(certificate)?;
            verify_server_cert_signed_by_trust_anchor(&certificate, &self.roots, chain, now, algorithms)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Accepts what the authorities have signed, and a certificate that is itself in their file: a self-signed one
/// (`openssl req -x509`), which is marked as an authority and refused as a client's otherwise.
#[derive(Debug)]
struct Verifier {
    authorities: Arc<dyn ClientCertVerifier>,
    trusted: Arc<[CertificateDer<'static>]>,
}

impl ClientCertVerifier for Verifier {
    fn client_auth_mandatory(&self) -> bool {
        self.authorities.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.authorities.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        if self.trusted.iter().any(|trusted| trusted == certificate) {
            return Ok(ClientCertVerified::assertion());
        }
        self.authorities.verify_client_cert(certificate, chain, now)
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

/// Without `ssl_ca_cert` no certificate is trusted.
#[derive(Debug)]
struct TrustsNobody {
    mandatory: bool,
    provider: Arc<CryptoProvider>,
}

impl ClientCertVerifier for TrustsNobody {
    fn client_auth_mandatory(&self) -> bool {
        self.mandatory
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Err(CertificateError::UnknownIssuer.into())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verify_tls13_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(CertificateError::UnknownIssuer.into())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// A TCP connection with a TLS session, with the methods of a plain socket.
#[derive(Debug)]
pub(crate) struct TlsSocket {
    stream: TcpStream,
    /// Only the connection's own worker uses it, one call at a time.
    session: Mutex<Session>,
    /// Where sessions, errors and what sessions hold are counted; `None` for a session with a member, which has proved
    /// that it may be trusted.
    tls: Option<Arc<Tls>>,
}

/// A session and what it holds.
#[derive(Debug)]
struct Session {
    rustls: Connection,
    /// Bytes read since the last of them made plaintext or ended the handshake: rustls waits with them, or with fewer.
    received: usize,
    /// Bytes of plaintext that are not read yet.
    plaintext: usize,
    /// Bytes of answers that the socket has not taken yet.
    unsent: usize,
    /// The bytes that are counted in [`Tls::held`].
    counted: usize,
}

impl Session {
    fn new(rustls: Connection) -> Session {
        Session { rustls, received: 0, plaintext: 0, unsent: 0, counted: 0 }
    }

    /// Sets how many bytes rustls takes before they are sent.
    fn set_buffer_limit(&mut self, limit: usize) {
        match &mut self.rustls {
            Connection::Client(session) => session.set_buffer_limit(Some(limit)),
            Connection::Server(session) => session.set_buffer_limit(Some(limit)),
        }
    }

    fn holds(&self) -> usize {
        (self.received + self.plaintext + self.unsent).saturating_sub(UNCOUNTED)
    }

    /// Stops counting what the session no longer holds.
    fn release(&mut self, held: &AtomicUsize) {
        let less = self.counted.saturating_sub(self.holds());
        // Mostly there is nothing, and all workers share this count.
        if less > 0 {
            self.counted -= less;
            held.fetch_sub(less, Ordering::Relaxed);
        }
    }

    /// Counts what the session holds now. Returns `false` if that is more than before, and all sessions together hold
    /// more than they may.
    fn count(&mut self, held: &AtomicUsize) -> bool {
        self.release(held);
        let more = self.holds() - self.counted;
        self.counted += more;
        more == 0 || held.fetch_add(more, Ordering::Relaxed) + more <= HELD_MAX
    }
}

impl TlsSocket {
    /// Starts a session with a server that was just connected to.
    pub(crate) fn dial(stream: TcpStream, config: Arc<ClientConfig>) -> io::Result<TlsSocket> {
        let name = ServerName::from(stream.peer_addr()?.ip());
        let session = ClientConnection::new(config, name).map_err(io::Error::other)?;
        Ok(TlsSocket { stream, session: Mutex::new(Session::new(session.into())), tls: None })
    }

    /// The socket below.
    pub(crate) fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Registers the socket with the runtime of the calling thread.
    pub(crate) fn move_here(&mut self) -> io::Result<()> {
        let stream = SockRef::from(&self.stream).try_clone()?;
        self.stream = TcpStream::from_std(stream.into())?;
        Ok(())
    }

    /// Completes the handshake. Returns bytes that both ends of this session have, and nobody else (RFC 9266).
    pub(crate) async fn handshake(&self) -> io::Result<[u8; 32]> {
        while let Some(waits) = self.handshake_step()? {
            if waits {
                self.readable().await?;
            }
        }
        self.flush().await?;
        let session = &self.session.lock().rustls;
        if session.protocol_version() != Some(ProtocolVersion::TLSv1_3) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "members speak TLS 1.3"));
        }
        session.export_keying_material([0; 32], b"EXPORTER-Channel-Binding", Some(b"")).map_err(io::Error::other)
    }

    /// Goes on with the handshake. Returns whether the other side's turn is awaited; `None`: it is complete.
    fn handshake_step(&self) -> io::Result<Option<bool>> {
        let session = &mut *self.session.lock();
        match self.send(session) {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
            _ if !session.rustls.is_handshaking() => {
                self.count_session(session);
                return Ok(None);
            }
            _ => {}
        }
        match session.rustls.read_tls(&mut Ciphertext(&self.stream)) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) => self.process(session).map(|_| Some(false)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Some(true)),
            Err(error) => Err(error),
        }
    }

    /// Takes in what was read. Returns the bytes of plaintext that are there now, and whether what had to be sent then
    /// could be.
    fn process(&self, session: &mut Session) -> io::Result<(usize, io::Result<()>)> {
        let processed = session.rustls.process_new_packets();
        // The session may have an alert to send. What cannot be sent now is sent before the next wait.
        let sent = self.send(session);
        match processed {
            Ok(state) => Ok((state.plaintext_bytes_to_read(), sent)),
            Err(error) => {
                if let Some(tls) = &self.tls {
                    tls.count_error(&session.rustls);
                }
                Err(io::Error::new(io::ErrorKind::InvalidData, error))
            }
        }
    }

    fn count_session(&self, session: &Session) {
        if let Some(tls) = &self.tls {
            tls.count_session(&session.rustls);
        }
    }

    /// Reads decrypted bytes. It is an error if the session holds more than before, and all together too much.
    pub(crate) fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let session = &mut *self.session.lock();
        let read = self.read(session, buffer);
        if self.tls.as_ref().is_some_and(|tls| !session.count(&tls.held)) {
            return Err(io::Error::new(
                io::ErrorKind::OutOfMemory,
                "unfinished TLS records of all clients are too long",
            ));
        }
        read
    }

    fn read(&self, session: &mut Session, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match session.rustls.reader().read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                read => {
                    session.plaintext = session.plaintext.saturating_sub(*read.as_ref().unwrap_or(&0));
                    return read;
                }
            }
            // A client that closes without a close_notify alert has closed all the same.
            let read = session.rustls.read_tls(&mut Ciphertext(&self.stream))?;
            if read == 0 {
                return Ok(0);
            }
            let handshaking = session.rustls.is_handshaking();
            let (plaintext, sent) = self.process(session)?;
            if sent.is_err_and(|error| error.kind() != io::ErrorKind::WouldBlock) {
                return Ok(0);
            }
            let established = handshaking && !session.rustls.is_handshaking();
            if established {
                self.count_session(session);
            }
            session.plaintext = plaintext;
            session.received = if established || session.plaintext > 0 { read } else { session.received + read };
        }
    }

    /// Sends what the session holds, then takes as much as its buffer has room for. Returns the bytes taken.
    pub(crate) fn try_write_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let session = &mut *self.session.lock();
        self.send(session)?;
        if let Some(tls) = &self.tls {
            let room = tls.options.write_buffer;
            let is_full = tls.held.load(Ordering::Relaxed) >= HELD_MAX;
            session.set_buffer_limit(if is_full { room.min(UNCOUNTED) } else { room });
        }
        let taken = session.rustls.writer().write_vectored(slices)?;
        session.unsent += taken;
        let sent = self.send(session);
        // Answers that are not read close no connection: from now on sessions take fewer of them.
        if let Some(tls) = &self.tls {
            session.count(&tls.held);
        }
        match sent {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
            _ => Ok(taken),
        }
    }

    fn send(&self, session: &mut Session) -> io::Result<()> {
        let sent = loop {
            if !session.rustls.wants_write() {
                session.unsent = 0;
                break Ok(());
            }
            match session.rustls.write_tls(&mut Ciphertext(&self.stream)) {
                Ok(sent) => session.unsent = session.unsent.saturating_sub(sent),
                Err(error) => break Err(error),
            }
        };
        if let Some(tls) = &self.tls {
            session.release(&tls.held);
        }
        sent
    }

    /// Waits until there may be something to read, and sends what the session holds meanwhile.
    pub(crate) async fn readable(&self) -> io::Result<()> {
        while self.session.lock().rustls.wants_write() {
            let ready = self.stream.ready(Interest::READABLE | Interest::WRITABLE).await?;
            if ready.is_writable() {
                match self.send(&mut self.session.lock()) {
                    Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
                    _ => {}
                }
            }
            if ready.is_readable() {
                return Ok(());
            }
        }
        self.stream.readable().await
    }

    pub(crate) async fn writable(&self) -> io::Result<()> {
        self.stream.writable().await
    }

    /// Sends all that the session holds, then a close_notify alert.
    pub(crate) async fn finish(&self) -> io::Result<()> {
        self.session.lock().rustls.send_close_notify();
        self.flush().await
    }

    /// Sends all that the session holds.
    pub(crate) async fn flush(&self) -> io::Result<()> {
        loop {
            match self.send(&mut self.session.lock()) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                sent => return sent,
            }
            self.stream.writable().await?;
        }
    }
}

impl Drop for TlsSocket {
    /// Sends a close_notify alert if the socket takes it at once: some clients treat an end without it as an attack.
    fn drop(&mut self) {
        let mut session = self.session.lock();
        session.rustls.send_close_notify();
        // An error is ignored: the client may be gone.
        let _ = self.send(&mut session);
        if let Some(tls) = &self.tls {
            tls.held.fetch_sub(session.counted, Ordering::Relaxed);
        }
    }
}

/// The socket below a session.
struct Ciphertext<'a>(&'a TcpStream);

impl Read for Ciphertext<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.try_read(buffer)
    }
}

impl Write for Ciphertext<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.try_write_vectored(slices)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
