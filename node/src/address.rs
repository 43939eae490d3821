//! The addresses of `-l`: where to listen, and how to speak there.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};

use larder_protocol::Protocol;

/// What a listener asks of its clients (`ssl_verify_mode`; `btls:` and `mtls:` of `-l`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ClientCertificate {
    NotAsked,
    /// Checked where the client has one.
    Requested,
    Required,
}

/// How connections of a listener speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Speech {
    /// Found by the first byte where there is none.
    pub(crate) protocol: Option<Protocol>,
    /// Over TLS, and what is asked of the client; plain where there is none.
    pub(crate) tls: Option<ClientCertificate>,
}

/// One address of `-l`: `[notls:|btls:|mtls:][proto[NAME]:][tag[NAME]:]HOST[:PORT]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Address {
    /// A name or an address; `*` is every address of this machine.
    host: String,
    port: Option<u16>,
    pub(crate) speech: Speech,
}

impl Address {
    /// This host, on the port of `-p` or `-U`.
    pub(crate) fn new(host: &str, speech: Speech) -> Address {
        Address { host: host.to_owned(), port: None, speech }
    }

    /// Reads an address; what it does not tell is taken from `default`.
    pub(crate) fn parse(text: &str, default: Speech) -> Result<Address, String> {
        let mut speech = default;
        let mut rest = text;
        let tls = [
            ("notls:", None),
            ("btls:", Some(ClientCertificate::NotAsked)),
            ("mtls:", Some(ClientCertificate::Required)),
        ];
        for (prefix, tls) in tls {
            if let Some(after) = rest.strip_prefix(prefix) {
                if default.tls.is_none() {
                    return Err(format!("{text:?}: {prefix} has a meaning only with TLS (-Z)"));
                }
                (speech.tls, rest) = (tls, after);
            }
        }
        if let Some(after) = rest.strip_prefix("proto[") {
            let (name, after) = after.split_once("]:").ok_or_else(|| format!("{text:?}: proto[NAME]: has no end"))?;
            speech.protocol = match name {
                "ascii" => Some(Protocol::Text),
                "binary" => Some(Protocol::Binary),
                "negotiating" => None,
                _ => return Err(format!("{text:?}: a protocol is ascii, binary or negotiating")),
            };
            rest = after;
        }
        // memcached's proxy can tell listeners apart by tags; nothing here does.
        if let Some(after) = rest.strip_prefix("tag[").or_else(|| rest.strip_prefix("tag_")) {
            let end = after.find("]:").or_else(|| after.find("_:"));
            let end = end.ok_or_else(|| format!("{text:?}: tag[NAME]: has no end"))?;
            if !(1..=8).contains(&end) {
                return Err(format!("{text:?}: a tag has 1 to 8 characters"));
            }
            rest = &after[end + 2..];
        }
        let (host, port) = match rest.strip_prefix('[') {
            Some(after) => {
                let (host, after) = after.split_once(']').ok_or_else(|| format!("{text:?}: [ADDRESS] has no end"))?;
                (host, after.strip_prefix(':'))
            }
            None if rest.matches(':').count() == 1 => {
                rest.split_once(':').map_or((rest, None), |(host, port)| (host, Some(port)))
            }
            None => (rest, None),
        };
        let port = port.map(|port| port.parse().map_err(|_| format!("{text:?}: {port:?} is no port")));
        Ok(Address { host: host.to_owned(), port: port.transpose()?, speech })
    }

    /// The socket addresses it stands for; `port` where it names none.
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

    const PLAIN: Speech = Speech { protocol: None, tls: None };
    const TLS: Speech = Speech { protocol: None, tls: Some(ClientCertificate::Requested) };

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
            let address = Address { host: host.to_owned(), port, speech: PLAIN };
            assert_eq!(Address::parse(text, PLAIN), Ok(address), "{text}");
        }
    }

    #[test]
    fn prefixes_choose_tls_and_the_protocol_of_a_listener() {
        let cases = [
            ("10.0.0.1:8", TLS),
            ("notls:10.0.0.1:8", PLAIN),
            ("btls:10.0.0.1:8", Speech { tls: Some(ClientCertificate::NotAsked), ..TLS }),
            ("mtls:10.0.0.1:8", Speech { tls: Some(ClientCertificate::Required), ..TLS }),
            ("proto[binary]:10.0.0.1:8", Speech { protocol: Some(Protocol::Binary), ..TLS }),
            ("notls:proto[ascii]:tag[tools]:10.0.0.1:8", Speech { protocol: Some(Protocol::Text), tls: None }),
            ("tag_tools_:10.0.0.1:8", TLS),
        ];
        for (text, speech) in cases {
            let address = Address { host: "10.0.0.1".to_owned(), port: Some(8), speech };
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
