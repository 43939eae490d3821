//! The one parser of `host:port`, for the node, the client and the load generator.

use std::net::Ipv6Addr;

/// A host with a port where one is given.
///
/// The forms are those of RFC 3986 section 3.2, and an IPv6 address without brackets where no port follows it:
/// `host`, `host:port`, `[address]`, `[address]:port`, `::1`.
///
/// ```
/// use larder_protocol::HostPort;
///
/// assert_eq!(HostPort::parse("[::1]:11211"), Ok(HostPort { host: "::1", port: Some(11211) }));
/// assert_eq!(HostPort::parse("cache.local"), Ok(HostPort { host: "cache.local", port: None }));
/// assert!(HostPort::parse("cache.local:http").is_err());
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostPort<'a> {
    /// A name or an address, without brackets. Never empty.
    pub host: &'a str,
    /// The port where the text names one; 0 is a port too.
    pub port: Option<u16>,
}

/// Why a text is not a host with a port.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// The host is missing: `""`, `":11211"`, `"[]:11211"`.
    #[error("the host is missing")]
    NoHost,
    /// The port is missing behind its colon, is not a number, or is above 65535.
    #[error("`{0}` is not a port (0 to 65535)")]
    Port(String),
    /// A bracket is unmatched, or something other than `:port` follows the closing one.
    #[error("expected [ADDRESS] or [ADDRESS]:PORT")]
    Brackets,
    /// Several colons in a text that is not an IPv6 address.
    #[error("expected HOST:PORT, or an IPv6 address ([ADDRESS]:PORT with a port)")]
    Colons,
}

impl<'a> HostPort<'a> {
    /// Parses a host with or without a port. Names are not looked up.
    ///
    /// # Errors
    ///
    /// [`AddressError`] says which part of the text is wrong.
    pub fn parse(text: &'a str) -> Result<HostPort<'a>, AddressError> {
        let (host, port) = match text.strip_prefix('[') {
            Some(inner) => {
                let (host, rest) = inner.split_once(']').ok_or(AddressError::Brackets)?;
                match rest.strip_prefix(':') {
                    None if !rest.is_empty() => return Err(AddressError::Brackets),
                    port => (host, port),
                }
            }
            None if is_ipv6(text) => (text, None),
            None => match text.split_once(':') {
                Some((_, port)) if port.contains(':') => return Err(AddressError::Colons),
                Some((host, port)) => (host, Some(port)),
                None => (text, None),
            },
        };
        if host.contains(['[', ']']) {
            return Err(AddressError::Brackets);
        }
        if host.is_empty() {
            return Err(AddressError::NoHost);
        }
        Ok(HostPort { host, port: port.map(parse_port).transpose()? })
    }
}

/// Whether the text is an IPv6 address, perhaps with a zone (`fe80::1%eth0`).
fn is_ipv6(text: &str) -> bool {
    let address = text.split_once('%').map_or(text, |(address, _zone)| address);
    address.parse::<Ipv6Addr>().is_ok()
}

fn parse_port(text: &str) -> Result<u16, AddressError> {
    // `u16::from_str` alone takes a plus sign.
    let number = if text.starts_with('+') { None } else { text.parse().ok() };
    number.ok_or_else(|| AddressError::Port(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_stands_alone_or_before_a_port() {
        let cases = [
            ("h", "h", None),
            ("h:1", "h", Some(1)),
            ("cache-1.local:11211", "cache-1.local", Some(11211)),
            ("10.0.0.1", "10.0.0.1", None),
            ("10.0.0.1:0", "10.0.0.1", Some(0)),
            ("10.0.0.1:65535", "10.0.0.1", Some(65535)),
            ("*:8", "*", Some(8)),
        ];
        for (text, host, port) in cases {
            assert_eq!(HostPort::parse(text), Ok(HostPort { host, port }), "{text}");
        }
    }

    #[test]
    fn an_ipv6_address_needs_brackets_only_before_a_port() {
        let cases = [
            ("::1", "::1", None),
            ("::", "::", None),
            ("2001:db8::8:800", "2001:db8::8:800", None),
            ("::ffff:10.0.0.1", "::ffff:10.0.0.1", None),
            ("fe80::1%eth0", "fe80::1%eth0", None),
            ("[::1]", "::1", None),
            ("[::1]:1", "::1", Some(1)),
            ("[fe80::1%eth0]:1", "fe80::1%eth0", Some(1)),
        ];
        for (text, host, port) in cases {
            assert_eq!(HostPort::parse(text), Ok(HostPort { host, port }), "{text}");
        }
    }

    #[test]
    fn a_text_without_a_host_is_refused() {
        for text in ["", ":", ":1", "[]", "[]:1"] {
            assert_eq!(HostPort::parse(text), Err(AddressError::NoHost), "{text}");
        }
    }

    #[test]
    fn a_port_is_a_number_up_to_65535() {
        let cases = [
            ("h:", ""),
            ("h:http", "http"),
            ("h:65536", "65536"),
            ("h:-1", "-1"),
            ("h:+1", "+1"),
            ("h: 1", " 1"),
            ("h:1 ", "1 "),
            ("[::1]:", ""),
            ("[::1]:x", "x"),
            ("[::1]:1:2", "1:2"),
        ];
        for (text, port) in cases {
            assert_eq!(HostPort::parse(text), Err(AddressError::Port(port.to_owned())), "{text}");
        }
    }

    #[test]
    fn brackets_come_in_a_pair_with_only_a_port_behind_them() {
        for text in ["[::1", "[::1:1", "::1]", "h]:1", "[::1]1", "[::1]x:1", "[[::1]]:1", "x[::1]"] {
            let refused = HostPort::parse(text);
            assert!(matches!(refused, Err(AddressError::Brackets | AddressError::Colons)), "{text}: {refused:?}");
        }
    }

    #[test]
    fn two_ports_are_refused() {
        for text in ["h:1:2", "10.0.0.1:1:2", "h::1", "::1:x", ":1:2:"] {
            assert_eq!(HostPort::parse(text), Err(AddressError::Colons), "{text}");
        }
    }

    #[test]
    fn errors_say_which_part_is_wrong() {
        let message = |text| HostPort::parse(text).unwrap_err().to_string();
        assert_eq!(message(":1"), "the host is missing");
        assert_eq!(message("h:http"), "`http` is not a port (0 to 65535)");
    }
}
