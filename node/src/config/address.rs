//! The addresses of `-l`: where to listen, and with which protocol.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};

use larder_protocol::{AddressError, HostPort, Protocol};

/// Which certificate a listener asks its clients for (`ssl_verify_mode`; `btls:` and `mtls:` of `-l`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ClientCertificate {
    /// No certificate.
    NotAsked,
    /// A certificate, checked if the client has one.
    Requested,
    /// A certificate, without which the handshake fails.
    Required,
}

/// The protocol of a listener's connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ListenerProtocol {
    /// `None` takes the protocol from the first byte of each connection.
    pub(crate) protocol: Option<Protocol>,
    /// The certificate asked of clients over TLS; `None` is a plain connection.
    pub(crate) tls: Option<ClientCertificate>,
}

/// One address of `-l`: `[notls:|btls:|mtls:][proto[NAME]:][tag[NAME]:]HOST[:PORT]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Address {
    /// A name or an address; `*` is each address of this machine.
    host: String,
    port: Option<u16>,
    pub(crate) listener: ListenerProtocol,
}

/// Why an address of `-l` is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ListenError {
    /// `btls:`, `mtls:` or `notls:` without TLS.
    #[error("{0} has a meaning only with TLS (-Z)")]
    NeedsTls(&'static str),
    /// `proto[`, `tag[` without its end.
    #[error("{0} has no end")]
    NoEnd(&'static str),
    /// A protocol that listeners do not speak.
    #[error("a protocol is ascii, binary or negotiating")]
    Protocol,
    /// A tag that is empty or too long.
    #[error("a tag has 1 to 8 characters")]
    Tag,
    /// The host or the port.
    #[error(transparent)]
    HostPort(#[from] AddressError),
    /// `-Y` on a listener of the binary protocol.
    #[error("-Y asks for a user in text, and this listener speaks binary")]
    AsksInText,
}

impl Address {
    /// Returns the address of a host, on the port of `-p` or `-U`.
    pub(crate) fn new(host: &str, listener: ListenerProtocol) -> Address {
        Address { host: host.to_owned(), port: None, listener }
    }

    /// Parses an address. What its prefixes leave open is taken from `default`.
    ///
    /// # Errors
    ///
    /// [`ListenError`] says which part of the text is wrong.
    pub(crate) fn parse(text: &str, default: ListenerProtocol) -> Result<Address, ListenError> {
        let mut listener = default;
        let mut rest = text;
        let tls = [
            ("notls:", None),
            ("btls:", Some(ClientCertificate::NotAsked)),
            ("mtls:", Some(ClientCertificate::Required)),
        ];
        for (prefix, tls) in tls {
            if let Some(after) = rest.strip_prefix(prefix) {
                if default.tls.is_none() {
                    return Err(ListenError::NeedsTls(prefix));
                }
                (listener.tls, rest) = (tls, after);
            }
        }
        if let Some(after) = rest.strip_prefix("proto[") {
            let (name, after) = after.split_once("]:").ok_or(ListenError::NoEnd("proto[NAME]:"))?;
            listener.protocol = match name {
                "ascii" => Some(Protocol::Text),
                "binary" => Some(Protocol::Binary),
                "negotiating" => None,
                _ => return Err(ListenError::Protocol),
            };
            rest = after;
        }
        // memcached's proxy distinguishes listeners by tags. This node has no use for them.
        if let Some(after) = rest.strip_prefix("tag[").or_else(|| rest.strip_prefix("tag_")) {
            let end = after.find("]:").or_else(|| after.find("_:")).ok_or(ListenError::NoEnd("tag[NAME]:"))?;
            if !(1..=8).contains(&end) {
                return Err(ListenError::Tag);
            }
            rest = &after[end + 2..];
        }
        let HostPort { host, port } = HostPort::parse(rest)?;
        Ok(Address { host: host.to_owned(), port, listener })
    }

    /// Returns this address with its own port, or else with `port`, for a message.
    pub(crate) fn with_port(&self, port: u16) -> Address {
        Address { port: self.port.or(Some(port)), ..self.clone() }
    }

    /// Resolves the socket addresses of the host. `port` is used if the address names none.
    pub(crate) fn resolve(&self, port: u16) -> io::Result<Vec<SocketAddr>> {
        let port = self.port.unwrap_or(port);
        if self.host == "*" {
            let every = [IpAddr::from(Ipv4Addr::UNSPECIFIED), IpAddr::from(Ipv6Addr::UNSPECIFIED)];
            return Ok(every.into_iter().map(|address| SocketAddr::new(address, port)).collect());
        }
        Ok((self.host.as_str(), port).to_socket_addrs()?.collect())
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.host)?;
        self.port.map_or(Ok(()), |port| write!(f, " port {port}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: ListenerProtocol = ListenerProtocol { protocol: None, tls: None };
    const TLS: ListenerProtocol = ListenerProtocol { protocol: None, tls: Some(ClientCertificate::Requested) };

    #[test]
    fn an_address_has_a_host_and_perhaps_a_port() {
        let cases = [
            ("10.0.0.1", "10.0.0.1", None),
            ("10.0.0.1:8", "10.0.0.1", Some(8)),
            ("::1", "::1", None),
            ("[::1]", "::1", None),
            ("[::1]:8", "::1", Some(8)),
            ("cache.local", "cache.local", None),
            ("notls.local:8", "notls.local", Some(8)),
            ("*:8", "*", Some(8)),
        ];
        for (text, host, port) in cases {
            let address = Address { host: host.to_owned(), port, listener: PLAIN };
            assert_eq!(Address::parse(text, PLAIN), Ok(address), "{text}");
        }
    }

    #[test]
    fn prefixes_choose_tls_and_the_protocol_of_a_listener() {
        let cases = [
            ("10.0.0.1:8", TLS),
            ("notls:10.0.0.1:8", PLAIN),
            ("btls:10.0.0.1:8", ListenerProtocol { tls: Some(ClientCertificate::NotAsked), ..TLS }),
            ("mtls:10.0.0.1:8", ListenerProtocol { tls: Some(ClientCertificate::Required), ..TLS }),
            ("proto[binary]:10.0.0.1:8", ListenerProtocol { protocol: Some(Protocol::Binary), ..TLS }),
            (
                "notls:proto[ascii]:tag[tools]:10.0.0.1:8",
                ListenerProtocol { protocol: Some(Protocol::Text), tls: None },
            ),
            ("tag_tools_:10.0.0.1:8", TLS),
        ];
        for (text, listener) in cases {
            let address = Address { host: "10.0.0.1".to_owned(), port: Some(8), listener };
            assert_eq!(Address::parse(text, TLS), Ok(address), "{text}");
        }
    }

    #[test]
    fn an_address_that_makes_no_sense_is_refused() {
        for text in ["mtls:10.0.0.1", "10.0.0.1:port", "10.0.0.1:65536", "[::1", "proto[http]:x", "tag[toolongname]:x"]
        {
            assert!(Address::parse(text, PLAIN).is_err(), "{text}");
        }
    }
}
