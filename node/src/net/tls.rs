//! TLS by rustls: certificates and their renewal, and a socket with a TLS session.

use std::io::{self, IoSlice};
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
use rustls::server::{
    NoServerSessionStorage, ParsedCertificate, ServerSessionMemoryCache, StoresServerSessions, WebPkiClientVerifier,
};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{
    CertificateError, CipherSuite, ClientConfig, ClientConnection, DigitallySignedStruct, DistinguishedName,
    InconsistentKeys, RootCertStore, ServerConfig, ServerConnection, SignatureScheme,
};
use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::TcpStream;

use crate::config::address::ClientCertificate;
use crate::config::options::TlsOptions;
use crate::error::StartError;
use crate::net::tls_session::{ClientSession, MemberSession};

/// Number of sessions kept for resumption (`ssl_session_cache`); OpenSSL's default.
const SESSIONS: usize = 20 * 1024;

/// The longest of them. Beyond the secret there is little in one but the server's name.
const SESSION_MAX: usize = 256;

/// The same of sessions with clients that may show certificates, which stand in them.
const SESSIONS_WITH_CERTIFICATES: usize = 1024;
const SESSION_WITH_CERTIFICATES_MAX: usize = 4 * 1024;

/// Bytes that a session may hold of its client's bytes, or for its client, without being counted.
const UNCOUNTED: usize = 2 * 1024;

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
        let session = ClientSession::new(config).map_err(io::Error::other)?;
        let client = Counted { session, tls: self.clone(), counted: 0 };
        Ok(TlsSocket { stream, session: Mutex::new(Session::Client(Box::new(client))) })
    }

    /// Starts a session with a member that has just connected. Returns what [`MemberSession::handshake`] does, too.
    pub(crate) async fn accept_member(&self, stream: TcpStream) -> io::Result<(TlsSocket, [u8; 32])> {
        let config = self.certificates.read().not_asked.clone();
        let session = ServerConnection::new(config).map_err(io::Error::other)?;
        TlsSocket::of_member(stream, MemberSession::new(session)).await
    }

    /// Starts a session with a member that this node has just connected to, as [`dial`] does.
    pub(crate) async fn dial(&self, stream: TcpStream) -> io::Result<(TlsSocket, [u8; 32])> {
        let config = self.certificates.read().members.clone();
        dial(stream, config).await
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
    let config = |client| config(options, provider, pair.clone(), client, verifier(&roots, &trusted, provider, client));
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
    client: ClientCertificate,
    verifier: Arc<dyn ClientCertVerifier>,
) -> Result<Arc<ServerConfig>, rustls::Error> {
    let versions = if options.min_version == 3 { &[&rustls::version::TLS13][..] } else { rustls::ALL_VERSIONS };
    let mut config = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(versions)?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(pair);
    // Sessions are kept in the server, not in the client's tickets. Each mode of client certificates keeps its own.
    if options.session_cache {
        let (most, longest) = match client {
            ClientCertificate::NotAsked => (SESSIONS, SESSION_MAX),
            _ => (SESSIONS_WITH_CERTIFICATES, SESSION_WITH_CERTIFICATES_MAX),
        };
        config.session_storage = Arc::new(Sessions { cache: ServerSessionMemoryCache::new(most), longest });
    } else {
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
    }
    Ok(Arc::new(config))
}

/// Sessions for resumption in bounded memory: long ones are not kept.
#[derive(Debug)]
struct Sessions {
    cache: Arc<ServerSessionMemoryCache>,
    longest: usize,
}

impl StoresServerSessions for Sessions {
    fn put(&self, key: Vec<u8>, value: Vec<u8>) -> bool {
        value.len() <= self.longest && self.cache.put(key, value)
    }

    fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.cache.get(key)
    }

    fn take(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.cache.take(key)
    }

    fn can_cache(&self) -> bool {
        true
    }
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

/// Starts a session with a member that was just connected to. Returns what [`MemberSession::handshake`] does, too.
pub(crate) async fn dial(stream: TcpStream, config: Arc<ClientConfig>) -> io::Result<(TlsSocket, [u8; 32])> {
    let name = ServerName::from(stream.peer_addr()?.ip());
    let session = ClientConnection::new(config, name).map_err(io::Error::other)?;
    TlsSocket::of_member(stream, MemberSession::new(session)).await
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
pub(crate) struct TlsSocket {
    stream: TcpStream,
    /// Only the connection's own worker uses it, one call at a time.
    session: Mutex<Session>,
}

enum Session {
    Client(Box<Counted>),
    /// A member proves that it may be trusted.
    Member(MemberSession),
}

impl Session {
    fn has_unsent(&self) -> bool {
        match self {
            Session::Client(client) => client.session.has_unsent(),
            Session::Member(session) => session.has_unsent(),
        }
    }

    fn flush(&mut self, stream: &TcpStream) -> io::Result<()> {
        match self {
            Session::Client(client) => {
                let sent = client.session.flush(stream);
                client.release();
                sent
            }
            Session::Member(session) => session.flush(stream),
        }
    }

    fn end(&mut self) {
        match self {
            Session::Client(client) => client.session.end(),
            Session::Member(session) => session.end(),
        }
    }
}

/// A client's session, where it and what it holds are counted.
struct Counted {
    session: ClientSession,
    tls: Arc<Tls>,
    /// The bytes that are counted in [`Tls::held`].
    counted: usize,
}

impl Counted {
    fn holds(&self) -> usize {
        self.session.holds().saturating_sub(UNCOUNTED)
    }

    /// Stops counting what the session no longer holds.
    fn release(&mut self) {
        let less = self.counted.saturating_sub(self.holds());
        // Mostly there is nothing, and all workers share this count.
        if less > 0 {
            self.counted -= less;
            self.tls.held.fetch_sub(less, Ordering::Relaxed);
        }
    }

    /// Counts what the session holds now. Returns `false` if that is more than before, and all sessions together hold
    /// more than they may.
    fn count(&mut self) -> bool {
        self.release();
        let more = self.holds() - self.counted;
        self.counted += more;
        more == 0 || self.tls.held.fetch_add(more, Ordering::Relaxed) + more <= HELD_MAX
    }

    fn read(&mut self, stream: &TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
        let handshaking = self.session.is_handshaking();
        let read = self.session.read(stream, buffer);
        if read.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::InvalidData) {
            let count = if handshaking { &self.tls.handshake_errors } else { &self.tls.protocol_errors };
            count.fetch_add(1, Ordering::Relaxed);
        }
        if handshaking && !self.session.is_handshaking() && !self.session.is_resumed() {
            self.tls.new_sessions.fetch_add(1, Ordering::Relaxed);
        }
        if !self.count() {
            let words = "unfinished TLS records of all clients are too long";
            return Err(io::Error::new(io::ErrorKind::OutOfMemory, words));
        }
        read
    }

    fn write(&mut self, stream: &TcpStream, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let room = self.tls.options.write_buffer;
        let is_full = self.tls.held.load(Ordering::Relaxed) >= HELD_MAX;
        let taken = self.session.write(stream, slices, if is_full { room.min(UNCOUNTED) } else { room });
        // Answers that are not read close no connection: from now on sessions take fewer of them.
        self.count();
        taken
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.tls.held.fetch_sub(self.counted, Ordering::Relaxed);
    }
}

impl TlsSocket {
    async fn of_member(stream: TcpStream, mut session: MemberSession) -> io::Result<(TlsSocket, [u8; 32])> {
        let secret = session.handshake(&stream).await?;
        Ok((TlsSocket { stream, session: Mutex::new(Session::Member(session)) }, secret))
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

    /// Reads decrypted bytes. It is an error if the session holds more than before, and all together too much.
    pub(crate) fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut *self.session.lock() {
            Session::Client(client) => client.read(&self.stream, buffer),
            Session::Member(session) => session.read(&self.stream, buffer),
        }
    }

    /// Sends what the session holds, then takes some of these bytes. Returns how many.
    pub(crate) fn try_write_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match &mut *self.session.lock() {
            Session::Client(client) => client.write(&self.stream, slices),
            Session::Member(session) => session.write(&self.stream, slices),
        }
    }

    /// Waits until there may be something to read, and sends what the session holds meanwhile.
    pub(crate) async fn readable(&self) -> io::Result<()> {
        while self.session.lock().has_unsent() {
            let ready = self.stream.ready(Interest::READABLE | Interest::WRITABLE).await?;
            if ready.is_writable() {
                match self.session.lock().flush(&self.stream) {
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
        self.session.lock().end();
        self.flush().await
    }

    /// Sends all that the session holds.
    pub(crate) async fn flush(&self) -> io::Result<()> {
        loop {
            match self.session.lock().flush(&self.stream) {
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
        let session = self.session.get_mut();
        session.end();
        // An error is ignored: the client may be gone.
        let _ = session.flush(&self.stream);
    }
}
