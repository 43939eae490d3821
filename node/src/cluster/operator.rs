//! What an operator's program asks of members, over the port between nodes and with their key.

use std::io;
use std::path::Path;

use larder_protocol::peer::{Message, Purpose, Status, View};
use ring::hmac;

use super::link::{Encryption, Identity, Incoming, Outgoing, random};
use crate::net::tls;

/// The longest answer to an operator, in bytes.
const ANSWER_MAX: usize = 4 << 20;

/// A link of an operator's program to a member.
#[allow(missing_debug_implementations, reason = "it has nothing to show")]
pub struct Operator {
    incoming: Incoming,
    write: Outgoing,
    /// What the member knows of the cluster.
    pub view: View,
    /// The member's id.
    pub id: String,
}

impl Operator {
    /// Connects to the member at `address`, its port for members. `tls`: members are started with -Z.
    ///
    /// # Errors
    /// Where it does not answer, is in another cluster, has another key, or speaks TLS against expectation or does not.
    pub async fn connect(address: &str, cluster: &str, key_file: Option<&Path>, tls: bool) -> io::Result<Operator> {
        let key = key_file.map_or(Ok(Vec::new()), std::fs::read)?;
        let identity = Identity {
            cluster: cluster.to_owned(),
            id: "operator".to_owned(),
            process: random()?,
            settings: String::new(),
            key: hmac::Key::new(hmac::HMAC_SHA256, key.trim_ascii_end()),
            encryption: match tls {
                true => Encryption::Dialler(tls::for_operators().map_err(io::Error::other)?),
                false => Encryption::None,
            },
            payload_max: ANSWER_MAX,
        };
        let (incoming, write, remote) = identity.dial(address, Purpose::Operator).await?;
        let mut operator = Operator { incoming, write, view: View::default(), id: remote.id };
        operator.view = loop {
            match operator.incoming.next()?.map(|frame| frame.message) {
                Some(Message::View(view)) => break view,
                Some(_) => {}
                None => operator.incoming.fill().await?,
            }
        };
        Ok(operator)
    }

    async fn ask(&mut self, message: Message<'_>) -> io::Result<Result<Status, String>> {
        let mut out = Vec::new();
        message.encode(1, &mut out);
        self.write.write_all(&out).await?;
        loop {
            match self.incoming.next()?.map(|frame| frame.message) {
                Some(Message::Pong(status)) => return Ok(Ok(status)),
                Some(Message::Told(words)) => return Ok(Err(words.to_owned())),
                Some(_) => {}
                None => self.incoming.fill().await?,
            }
        }
    }

    /// How the member is.
    ///
    /// # Errors
    /// Where it does not answer.
    pub async fn status(&mut self) -> io::Result<Status> {
        self.ask(Message::Ping(Status::default())).await?.map_err(io::Error::other)
    }

    /// Declares a member dead: its keys go to others. Returns what the member says to it.
    ///
    /// # Errors
    /// Where it does not answer.
    pub async fn forget(&mut self, id: &str) -> io::Result<String> {
        self.ask(Message::Forget { id }).await?.err().ok_or(io::ErrorKind::InvalidData.into())
    }

    /// Asks the member to leave, handing its items on. Returns what it says to it.
    ///
    /// # Errors
    /// Where it does not answer.
    pub async fn drain(&mut self) -> io::Result<String> {
        self.ask(Message::Drain).await?.err().ok_or(io::ErrorKind::InvalidData.into())
    }
}
