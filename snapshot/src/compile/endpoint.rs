//! Addresses of upstreams: read from URLs, and judged by what they say. The data plane judges again what a name resolves
//! to when it connects; here only what is written can be refused.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::input::Mode;
use crate::model::{Endpoint, Name};

/// An address from a URL: `http` or `https`, a host, perhaps a port and a path.
///
/// # Errors
/// What is wrong with the URL, for people. Never repeats a password that stands in it.
pub(super) fn parse(url: &str) -> Result<Endpoint, String> {
    let (tls, rest) = match url.split_once("://") {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("https") => (true, rest),
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => (false, rest),
        _ => return Err("the address must begin with http:// or https://".to_owned()),
    };
    let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    if authority.contains('@') {
        return Err(
            "the address must not contain a user name or password; a credential belongs into a Secret".to_owned()
        );
    }
    if path.contains(['?', '#']) {
        return Err("the address must end with its path; write no `?` or `#`".to_owned());
    }
    if !path.bytes().all(|byte| byte.is_ascii_graphic() && !b"\\\"<>^`{|}".contains(&byte)) {
        return Err("the path has characters that no URL may have".to_owned());
    }
    let (host, port) = split_port(authority)?;
    let port = match port {
        Some(port) => port.parse().ok().filter(|port| *port != 0).ok_or_else(|| format!("`{port}` is not a port"))?,
        None if tls => 443,
        None => 80,
    };
    Ok(Endpoint { tls, host: check_host(host)?, port, path: path.trim_end_matches('/').into() })
}

fn split_port(authority: &str) -> Result<(&str, Option<&str>), String> {
    if let Some(rest) = authority.strip_prefix('[') {
        let (host, rest) = rest.split_once(']').ok_or("`]` is missing after the address")?;
        if host.parse::<Ipv6Addr>().is_err() {
            return Err(format!("`{host}` is not an IPv6 address"));
        }
        return match rest.strip_prefix(':') {
            Some(port) => Ok((host, Some(port))),
            None if rest.is_empty() => Ok((host, None)),
            None => Err("a port must follow a `:`".to_owned()),
        };
    }
    match authority.split_once(':') {
        Some((_, rest)) if rest.contains(':') => Err("an IPv6 address must stand in brackets".to_owned()),
        Some((host, port)) => Ok((host, Some(port))),
        None => Ok((authority, None)),
    }
}

/// In lower case. Refuses numbers that resolvers would read as addresses in odd ways (`127.1`, `0x7f000001`).
fn check_host(host: &str) -> Result<Name, String> {
    if host.parse::<Ipv6Addr>().is_ok() {
        return Ok(host.to_ascii_lowercase().into());
    }
    let known = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    if host.is_empty() || host.len() > 253 || !host.bytes().all(known) {
        return Err(format!("`{host}` is not a host"));
    }
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    let last = host.rsplit('.').next().unwrap_or_default();
    let numeric = last.bytes().all(|byte| byte.is_ascii_digit()) || last.starts_with("0x");
    if numeric && host.parse::<Ipv4Addr>().is_err() {
        return Err(format!("`{host}` is neither a name nor an address"));
    }
    Ok(host.into())
}

/// Why this host may not be called, judged by its text; `None`: it may.
pub(super) fn refusal(host: &str, mode: Mode) -> Option<&'static str> {
    let loopback = match host.parse::<IpAddr>().map(|address| address.to_canonical()) {
        Ok(address) if is_never_allowed(address) => {
            return Some("link-local, multicast and unspecified addresses are never called");
        }
        Ok(address) => address.is_loopback(),
        Err(_) => host == "localhost" || host.ends_with(".localhost"),
    };
    (loopback && mode == Mode::Cluster)
        .then_some("the proxy's own machine is called standalone only, never in a cluster")
}

fn is_never_allowed(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => {
            let this_network = address.octets()[0] == 0;
            this_network || address.is_link_local() || address.is_multicast() || address.is_broadcast()
        }
        IpAddr::V6(address) => address.is_unspecified() || address.is_unicast_link_local() || address.is_multicast(),
    }
}

/// Whether one of the patterns names the host: `*` all, `*.example.com` what is below `example.com`.
pub(super) fn is_listed<'p>(patterns: impl IntoIterator<Item = &'p str>, host: &str) -> bool {
    patterns.into_iter().any(|pattern| {
        let pattern = pattern.trim();
        match pattern.strip_prefix('*') {
            Some("") => true,
            Some(suffix) if suffix.starts_with('.') => {
                let at = host.len().saturating_sub(suffix.len());
                at > 0 && host.is_char_boundary(at) && host[at..].eq_ignore_ascii_case(suffix)
            }
            Some(_) | None => pattern.eq_ignore_ascii_case(host),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_people_write_them() {
        let cases = [
            ("https://api.openai.com/v1", (true, "api.openai.com", 443, "/v1")),
            ("https://api.openai.com/v1/", (true, "api.openai.com", 443, "/v1")),
            ("HTTP://10.0.0.7:8000", (false, "10.0.0.7", 8000, "")),
            ("http://[fd00::1]:8000/v1", (false, "fd00::1", 8000, "/v1")),
            ("https://Example.OpenAI.azure.com.", (true, "example.openai.azure.com", 443, "")),
        ];
        for (url, (tls, host, port, path)) in cases {
            let endpoint = Endpoint { tls, host: host.into(), port, path: path.into() };
            assert_eq!(parse(url), Ok(endpoint), "{url}");
        }
    }

    #[test]
    fn what_is_no_plain_address_is_refused() {
        for url in [
            "",
            "api.openai.com",
            "ftp://a",
            "https://",
            "https:///v1",
            "https://user:secret@a/v1",
            "https://a/v1?key=1",
            "https://a/#x",
            "https://a:0",
            "https://a:99999",
            "https://a:b",
            "https://a b",
            "https://::1",
            "https://[::1",
            "https://[zz]",
            "http://127.1",
            "http://2130706433",
            "http://0x7f000001",
            "http://0177.0.0.1.",
            "https://a/ b",
            "https://ä.example",
            "https://a/\u{7f}",
            "https://[::1]x",
        ] {
            assert!(parse(url).is_err(), "{url}");
        }
        assert!(!parse("https://user:secret@a/v1").unwrap_err().contains("secret"));
    }

    #[test]
    fn link_local_is_never_called_and_loopback_only_standalone() {
        for (host, standalone, cluster) in [
            ("api.openai.com", true, true),
            ("10.0.0.7", true, true),
            ("fd00::1", true, true),
            ("127.0.0.1", true, false),
            ("::1", true, false),
            ("::ffff:127.0.0.1", true, false),
            ("localhost", true, false),
            ("a.localhost", true, false),
            ("169.254.169.254", false, false),
            ("::ffff:169.254.169.254", false, false),
            ("fe80::1", false, false),
            ("0.0.0.0", false, false),
            ("::", false, false),
            ("224.0.0.1", false, false),
            ("ff02::1", false, false),
            ("255.255.255.255", false, false),
        ] {
            assert_eq!(refusal(host, Mode::Standalone).is_none(), standalone, "{host} standalone");
            assert_eq!(refusal(host, Mode::Cluster).is_none(), cluster, "{host} in a cluster");
        }
    }

    #[test]
    fn patterns_name_hosts() {
        for (pattern, host, listed) in [
            ("*", "a", true),
            ("a.example", "A.example", true),
            ("*.example", "a.example", true),
            ("*.example", "a.b.example", true),
            ("*.example", "example", false),
            ("*.example", ".example", false),
            ("*.example", "aexample", false),
            ("*example", "aexample", false),
            (" a ", "a", true),
        ] {
            assert_eq!(is_listed([pattern], host), listed, "{pattern} {host}");
        }
    }
}
