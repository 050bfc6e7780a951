//! Where the server is: `redis://` or `rediss://` (TLS), user, password, one host or several with commas between them,
//! port and database; or `unix:` and a path. A value of it never shows the password.

use std::fmt;

/// A server, or some nodes of a cluster.
#[derive(Clone, PartialEq, Eq)]
pub struct Address {
    /// One URL for each host, with credentials.
    urls: Vec<String>,
    /// For people.
    shown: String,
}

/// Why a text is no address. Holds nothing of the text: there may be a password in it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct AddressError(&'static str);

impl Address {
    /// Reads a URL.
    ///
    /// # Errors
    /// It is none of a Redis server.
    pub fn parse(text: &str) -> Result<Address, AddressError> {
        let text = text.trim();
        if text.starts_with("unix:") || text.starts_with("redis+unix:") {
            redis::parse_redis_url(text).ok_or(AddressError("the URL of the socket is not understood"))?;
            let shown = text.split('?').next().unwrap_or_default().to_owned();
            return Ok(Address { urls: vec![text.to_owned()], shown });
        }
        let wrong = AddressError("write redis://HOST:6379, or rediss://HOST:6379 for TLS");
        let (scheme, rest) = text.split_once("://").ok_or(wrong.clone())?;
        if !matches!(scheme, "redis" | "rediss" | "valkey" | "valkeys") {
            return Err(wrong);
        }
        let (authority, path) = rest.split_once('/').map_or((rest, ""), |(authority, path)| (authority, path));
        let (user, hosts) = authority.rsplit_once('@').map_or(("", authority), |(user, hosts)| (user, hosts));
        let at = if user.is_empty() { "" } else { "@" };
        let scheme = if scheme.ends_with('s') && scheme != "redis" { "rediss" } else { "redis" };
        let mut urls = Vec::new();
        for host in hosts.split(',').map(str::trim) {
            let url = format!("{scheme}://{user}{at}{host}/{path}");
            if host.is_empty() || redis::parse_redis_url(&url).is_none() {
                return Err(wrong);
            }
            if redis::Client::open(url.as_str()).is_err() {
                return Err(AddressError("the URL of the server is not understood: host, port or database are wrong"));
            }
            urls.push(url);
        }
        Ok(Address { urls, shown: format!("{scheme}://{hosts}") })
    }

    pub(crate) fn urls(&self) -> &[String] {
        &self.urls
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Address({})", self.shown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_of_servers_clusters_and_sockets_are_understood_and_never_show_the_password() {
        for (text, shown, hosts) in [
            ("redis://cache", "redis://cache", 1),
            ("redis://:secret@cache:6380/3\n", "redis://cache:6380", 1),
            ("rediss://me:secret@a:1,b:2,c:3", "rediss://a:1,b:2,c:3", 3),
            ("valkeys://me:secret@a", "rediss://a", 1),
            ("unix:///run/redis.sock?pass=secret", "unix:///run/redis.sock", 1),
        ] {
            let address = Address::parse(text).unwrap();
            assert_eq!((address.to_string().as_str(), address.urls().len()), (shown, hosts), "{text}");
            assert!(!format!("{address:?} {address}").contains("secret"));
        }
        for text in ["", "cache:6379", "http://cache", "redis://", "redis://a,,b", "redis://a:99999", "redis://a/x"] {
            assert!(Address::parse(text).is_err(), "{text}");
        }
    }
}
