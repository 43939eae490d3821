//! Where the authorities that a client trusts come from.

use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use larder_client::{Client, Error, Tls};
use larder_node::{Server, Settings};

/// A node whose certificate, for `localhost`, is signed by an authority, and the authority's certificate.
struct Signed {
    node: Server,
    folder: tempfile::TempDir,
    authority: rustls::pki_types::CertificateDer<'static>,
}

impl Signed {
    fn start() -> Signed {
        let folder = tempfile::tempdir().unwrap();
        let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let issuer = rcgen::CertifiedIssuer::self_signed(params, rcgen::KeyPair::generate().unwrap()).unwrap();
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &issuer).unwrap();
        std::fs::write(folder.path().join("node.pem"), certificate.pem() + &key.serialize_pem()).unwrap();
        std::fs::write(folder.path().join("ca.pem"), issuer.pem()).unwrap();
        let mut settings = Settings { port: Some(-1), threads: 1, tls: true, ..Settings::default() };
        settings.extended.tls.chain_cert = Some(folder.path().join("node.pem"));
        Signed { node: Server::start(settings).unwrap(), authority: issuer.der().clone(), folder }
    }

    fn authority_file(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    fn address(&self) -> String {
        format!("localhost:{}", self.node.addresses()[0].port())
    }
}

async fn round_trip(address: &str, tls: Tls) -> Result<(), Error> {
    let cache = Client::builder().server(address).tls(tls).timeout(Duration::from_secs(20)).build()?;
    cache.set("k", "v", Duration::from_secs(60)).await?;
    assert_eq!(cache.get("k").await?.as_deref(), Some(&b"v"[..]));
    Ok(())
}

#[tokio::test]
async fn a_configuration_of_rustls_is_used_as_it_is() {
    let signed = Signed::start();
    let config = |roots| {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth()
    };
    let mut roots = rustls::RootCertStore::empty();
    let trusts_nobody = Tls::from_config(config(roots.clone()));
    roots.add(signed.authority.clone()).unwrap();
    round_trip(&signed.address(), Tls::from_config(config(roots))).await.unwrap();
    let refused = round_trip(&signed.address(), trusts_nobody).await;
    assert!(matches!(refused, Err(Error::Down { .. })), "{refused:?}");
}

/// Names the address that the process started below connects to.
const ADDRESS: &str = "LARDER_TEST_TLS_ADDRESS";

#[test]
fn the_systems_authorities_are_trusted() {
    if let Ok(address) = std::env::var(ADDRESS) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(round_trip(&address, Tls::system().unwrap())).unwrap();
        println!("served");
        return;
    }
    let signed = Signed::start();
    // A process of its own: the authorities of the system are those of its environment.
    let served = |authorities: PathBuf| {
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "the_systems_authorities_are_trusted", "--nocapture"])
            .env(ADDRESS, signed.address())
            .env("SSL_CERT_FILE", authorities)
            .env_remove("SSL_CERT_DIR")
            .output()
            .unwrap();
        (String::from_utf8_lossy(&output.stdout).contains("served"), output)
    };
    let (is_served, output) = served(signed.authority_file());
    assert!(is_served, "{output:?}");
    let (is_served, output) = served(Signed::start().authority_file());
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(!is_served && text.contains("Down"), "a node of an unknown authority is refused: {text}");
    let (is_served, output) = served(signed.folder.path().join("missing.pem"));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(!is_served && text.contains("no certificate of an authority"), "{text}");
}
