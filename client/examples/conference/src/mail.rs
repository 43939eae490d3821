//! Confirmation mails: into a folder, or to a mail server.

use anyhow::Context;
use lettre::message::Mailbox;
use lettre::{AsyncFileTransport, AsyncSmtpTransport, AsyncTransport, Message, Tokio1Executor};
use serde::Deserialize;
use sha2::{Digest, Sha256};

/// Where mails go.
pub(crate) enum Mailer {
    Folder(AsyncFileTransport<Tokio1Executor>),
    Server(AsyncSmtpTransport<Tokio1Executor>),
}

/// A confirmation of a registration.
#[derive(Debug, Deserialize)]
pub(crate) struct Confirmation {
    /// Which registration: `conference:profile@version`.
    pub(crate) registration: String,
    pub(crate) to: String,
    pub(crate) conference: String,
}

impl Mailer {
    /// `smtp://host:port` is a relay on this network, without TLS; anything else is a folder.
    pub(crate) fn new(to: &str) -> anyhow::Result<Mailer> {
        if let Some(relay) = to.strip_prefix("smtp://") {
            let (host, port) = relay.rsplit_once(':').context("a relay is smtp://host:port")?;
            let relay = AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(host);
            return Ok(Mailer::Server(relay.port(port.parse()?).build()));
        }
        std::fs::create_dir_all(to)?;
        Ok(Mailer::Folder(AsyncFileTransport::new(to)))
    }

    /// Sends a confirmation. All mails of one registration have one Message-ID, so that a repeated one can be told.
    pub(crate) async fn send(&self, confirmation: &Confirmation) -> anyhow::Result<()> {
        let id: String = Sha256::digest(&confirmation.registration)[..16].iter().map(|b| format!("{b:02x}")).collect();
        let message = Message::builder()
            .message_id(Some(format!("<{id}@conference.example>")))
            .from("Conference central <noreply@conference.example>".parse::<Mailbox>()?)
            .to(confirmation.to.parse()?)
            .subject("You are registered")
            .body(format!("You have a seat at {}.\n", confirmation.conference))?;
        match self {
            Mailer::Folder(folder) => drop(folder.send(message).await?),
            Mailer::Server(server) => drop(server.send(message).await?),
        }
        Ok(())
    }
}
