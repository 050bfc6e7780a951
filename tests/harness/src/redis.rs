//! A real Redis (or Valkey) server on a loopback port, in a folder of its own. Killed when dropped. I/O.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::{PATIENCE, free_port};

/// A server.
pub struct RedisServer {
    program: PathBuf,
    arguments: Vec<String>,
    folder: TempDir,
    address: SocketAddr,
    child: Option<Child>,
}

impl RedisServer {
    /// Starts one that keeps nothing on disk, with more arguments. `None`, and a line that says so, where no server is
    /// installed: `TOLLGATE_TEST_REDIS` names one, else `redis-server` or `valkey-server` is looked for.
    ///
    /// # Panics
    /// It is installed and does not start.
    pub fn start<const N: usize>(arguments: [&str; N]) -> Option<RedisServer> {
        let Some(program) = program() else {
            eprintln!("SKIPPED: neither redis-server nor valkey-server is installed");
            return None;
        };
        let folder = TempDir::new().expect("a folder");
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let arguments = arguments.map(str::to_owned).to_vec();
        let mut server = RedisServer { program, arguments, folder, address, child: None };
        server.begin();
        Some(server)
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn url(&self) -> String {
        format!("redis://{}", self.address)
    }

    /// `SIGKILL`. What was not on disk is gone.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("it can be killed");
            child.wait().expect("it ends");
        }
    }

    /// Starts it again, with the same port, folder and arguments.
    pub fn restart(&mut self) {
        self.kill();
        self.begin();
    }

    /// It is there and answers nothing, until [`RedisServer::resume`].
    pub fn pause(&self) {
        self.signal(Signal::STOP);
    }

    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    /// Sends a command as a line, and gives what is answered, up to a moment of silence.
    ///
    /// # Panics
    /// The server does not answer.
    pub fn command(&self, line: &str) -> String {
        self.try_command(line).unwrap_or_else(|error| panic!("`{line}`: {error}"))
    }

    /// Waits until what a command answers has a text in it.
    ///
    /// # Panics
    /// It does not come.
    pub fn wait_for(&self, line: &str, text: &str) {
        let begun = Instant::now();
        let mut last = String::new();
        while begun.elapsed() < PATIENCE {
            match self.try_command(line) {
                Ok(answer) if answer.contains(text) => return,
                Ok(answer) => last = answer,
                Err(error) => last = error.to_string(),
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("`{line}` did not answer `{text}`, but: {last}");
    }

    fn try_command(&self, line: &str) -> std::io::Result<String> {
        let mut stream = TcpStream::connect(self.address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        // The last answer ends the connection, so that all of the first is read.
        stream.write_all(format!("{line}\r\nQUIT\r\n").as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    }

    fn begin(&mut self) {
        let log = self.folder.path().join("log");
        let mut command = Command::new(&self.program);
        command.args(["--bind", "127.0.0.1", "--port", &self.address.port().to_string()]);
        command.arg("--dir").arg(self.folder.path()).arg("--logfile").arg(&log);
        command.args(["--save", "", "--repl-diskless-sync-delay", "0"]).args(&self.arguments);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        self.child = Some(command.spawn().expect("the server starts"));
        let begun = Instant::now();
        while !self.try_command("PING").is_ok_and(|answer| answer.contains("PONG")) {
            let child = self.child.as_mut().expect("it was started");
            if child.try_wait().expect("it can be asked").is_some() || begun.elapsed() > PATIENCE {
                panic!("the server does not answer: {}", std::fs::read_to_string(&log).unwrap_or_default());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn signal(&self, signal: Signal) {
        let child = self.child.as_ref().expect("it runs");
        let pid = Pid::from_raw(child.id() as i32).expect("it has a process");
        kill_process(pid, signal).expect("the signal is sent");
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.kill();
    }
}

fn program() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("TOLLGATE_TEST_REDIS") {
        return Some(path.into());
    }
    let folders = std::env::var_os("PATH").unwrap_or_default();
    ["redis-server", "valkey-server"]
        .iter()
        .flat_map(|name| std::env::split_paths(&folders).map(move |folder| folder.join(name)))
        .find(|path| path.is_file())
}
