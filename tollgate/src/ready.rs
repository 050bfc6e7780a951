//! `tollgate ready URL`: asks a URL and says by its exit code whether it answers well. For health checks of containers and
//! for `helm test`: the image has neither a shell nor curl.

use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

/// Between two tries.
const PAUSE: Duration = Duration::from_millis(500);

/// How much of an answer is read: enough for the status and a message.
const ANSWER: u64 = 4 << 10;

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// What is asked. Example: http://127.0.0.1:4000/readyz.
    #[arg(value_name = "URL")]
    url: String,

    /// Seconds that one try may take.
    #[arg(long, default_value_t = 5, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    timeout: u64,

    /// Seconds to go on trying until the answer is good. Default: one try.
    #[arg(long, default_value_t = 0, value_name = "SECONDS")]
    wait: u64,
}

/// Asks until the answer is 200 to 299 or the time is over; then 1.
///
/// # Errors
/// The URL is not one that can be asked.
pub fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let target = Target::parse(&arguments.url)?;
    // Not a flag: other users of a machine can read a process's arguments.
    let key = std::env::var("TOLLGATE_KEY").ok().filter(|key| !key.is_empty());
    let deadline = Instant::now() + Duration::from_secs(arguments.wait);
    loop {
        match target.ask(key.as_deref(), Duration::from_secs(arguments.timeout)) {
            Ok(answer) if answer.is_good() => {
                println!("{}: {}", arguments.url, answer.status);
                return Ok(ExitCode::SUCCESS);
            }
            failed if Instant::now() + PAUSE >= deadline => {
                match failed {
                    Ok(answer) => eprintln!("tollgate: {}: {} {}", arguments.url, answer.status, answer.body),
                    Err(error) => eprintln!("tollgate: {}: {error:#}", arguments.url),
                }
                return Ok(ExitCode::FAILURE);
            }
            _ => std::thread::sleep(PAUSE),
        }
    }
}

/// A parsed URL.
#[derive(Debug, PartialEq, Eq)]
struct Target {
    /// Host and port, as the header names them.
    authority: String,
    /// Host and port, to connect to.
    address: String,
    path: String,
}

/// An answer, as far as it was read.
#[derive(Debug)]
struct Answer {
    status: u16,
    body: String,
}

impl Answer {
    fn is_good(&self) -> bool {
        (200..300).contains(&self.status)
    }
}

impl Target {
    fn parse(url: &str) -> anyhow::Result<Target> {
        let Some(rest) = url.strip_prefix("http://") else { bail!("`{url}` must begin with http://") };
        let (authority, path) = match rest.find('/') {
            Some(slash) => rest.split_at(slash),
            None => (rest, "/"),
        };
        let odd = |text: &str| text.chars().any(|one| one.is_control() || one == ' ');
        if authority.is_empty() || authority.contains('@') || odd(authority) || odd(path) {
            bail!("`{url}` has no host, or characters that do not belong there");
        }
        // The colons of `[::1]` are before its bracket.
        let has_port = authority.rsplit(']').next().is_some_and(|end| end.contains(':'));
        let address = if has_port { authority.to_owned() } else { format!("{authority}:80") };
        Ok(Target { authority: authority.to_owned(), address, path: path.to_owned() })
    }

    fn ask(&self, key: Option<&str>, timeout: Duration) -> anyhow::Result<Answer> {
        let mut stream = self.connect(timeout)?;
        stream.set_read_timeout(Some(timeout))?;
        stream.set_write_timeout(Some(timeout))?;
        let mut request = format!("GET {} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n", self.path, self.authority);
        if let Some(key) = key {
            request.push_str(&format!("authorization: Bearer {key}\r\n"));
        }
        request.push_str("\r\n");
        stream.write_all(request.as_bytes()).context("cannot send")?;
        let mut answer = Vec::new();
        stream.take(ANSWER).read_to_end(&mut answer).context("cannot read the answer")?;
        let text = String::from_utf8_lossy(&answer);
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).context("not an answer of HTTP")?;
        Ok(Answer { status, body: body.trim().to_owned() })
    }

    /// A connection to the first address that takes one.
    fn connect(&self, timeout: Duration) -> anyhow::Result<TcpStream> {
        let addresses = self.address.to_socket_addrs().with_context(|| format!("cannot find `{}`", self.address))?;
        let mut last = None;
        for address in addresses {
            match TcpStream::connect_timeout(&address, timeout) {
                Ok(stream) => return Ok(stream),
                Err(error) => last = Some(error),
            }
        }
        match last {
            Some(error) => Err(error).with_context(|| format!("cannot connect to `{}`", self.address)),
            None => bail!("`{}` has no address", self.address),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    fn target(authority: &str, address: &str, path: &str) -> Target {
        Target { authority: authority.to_owned(), address: address.to_owned(), path: path.to_owned() }
    }

    #[test]
    fn urls_are_split() {
        let parse = |url| Target::parse(url).expect("a URL");
        assert_eq!(parse("http://gateway"), target("gateway", "gateway:80", "/"));
        assert_eq!(
            parse("http://gateway:4000/v1/models?a=b"),
            target("gateway:4000", "gateway:4000", "/v1/models?a=b")
        );
        assert_eq!(parse("http://[::1]/readyz"), target("[::1]", "[::1]:80", "/readyz"));
        assert_eq!(parse("http://[::1]:8081/"), target("[::1]:8081", "[::1]:8081", "/"));
        for bad in [
            "https://gateway",
            "gateway:80",
            "http://",
            "http:///x",
            "http://a b/",
            "http://u:p@host/",
            "http://h/\r\nx",
        ] {
            assert!(Target::parse(bad).is_err(), "{bad}");
        }
    }

    /// Answers one request; gives what was asked.
    fn answer_once(answer: &'static str) -> (Target, std::thread::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("it is bound").port();
        let served = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a connection");
            let mut asked = vec![0; 1024];
            let length = stream.read(&mut asked).expect("a request");
            stream.write_all(answer.as_bytes()).expect("the client reads");
            String::from_utf8_lossy(&asked[..length]).into_owned()
        });
        (Target::parse(&format!("http://127.0.0.1:{port}/readyz")).expect("a URL"), served)
    }

    #[test]
    fn an_answer_is_judged_by_its_status() {
        let timeout = Duration::from_secs(10);
        let (good, served) = answer_once("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
        let answer = good.ask(Some("sk-1"), timeout).expect("an answer");
        assert!(answer.is_good() && answer.body == "ok", "{answer:?}");
        let asked = served.join().expect("no panic");
        assert!(
            asked.starts_with("GET /readyz HTTP/1.1\r\n") && asked.contains("authorization: Bearer sk-1\r\n"),
            "{asked}"
        );

        let (bad, served) = answer_once("HTTP/1.1 503 Service Unavailable\r\n\r\nno snapshot");
        let answer = bad.ask(None, timeout).expect("an answer");
        assert!(!answer.is_good() && answer.status == 503 && answer.body == "no snapshot", "{answer:?}");
        assert!(!served.join().expect("no panic").contains("authorization"));

        let (odd, served) = answer_once("SSH-2.0-x\r\n");
        assert!(odd.ask(None, timeout).is_err());
        served.join().expect("no panic");
    }
}
