//! A PostgreSQL with a folder and a port of its own, on 127.0.0.1, stopped with the test. I/O.

use std::fs::Permissions;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tollgate_harness::free_port;

use crate::wait_until;

const PASSWORD: &str = "secret-of-the-database";

/// The server.
pub struct Postgres {
    folder: TempDir,
    programs: PathBuf,
    port: u16,
    server: Option<Child>,
    /// Further settings.
    settings: Vec<String>,
}

impl Postgres {
    /// A running server; `None`, told in the output, where PostgreSQL is not installed.
    pub fn start() -> Option<Postgres> {
        let mut postgres = Postgres::stopped()?;
        postgres.begin();
        Some(postgres)
    }

    /// One that does not run yet.
    pub fn stopped() -> Option<Postgres> {
        Postgres::stopped_on(|_| ())
    }

    /// The same, on what is put over its empty folder.
    pub fn stopped_on(prepare: impl FnOnce(&Path)) -> Option<Postgres> {
        let Some(programs) = find_programs() else {
            eprintln!("SKIPPED: PostgreSQL is not installed (postgresql, or postgres, initdb and psql in the path)");
            return None;
        };
        let folder = TempDir::new().expect("a folder for the database");
        prepare(folder.path());
        if let Some((user, group)) = other_user() {
            std::os::unix::fs::chown(folder.path(), Some(user), Some(group)).expect("root gives folders away");
        }
        let postgres = Postgres { folder, programs, port: free_port(), server: None, settings: Vec::new() };
        let password = postgres.folder.path().join("password");
        std::fs::write(&password, PASSWORD).expect("the password is written");
        let made = postgres
            .program("initdb")
            .args(["--no-sync", "--username=tollgate", "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C"])
            .arg("--pwfile")
            .arg(&password)
            .arg("--pgdata")
            .arg(postgres.data())
            .output()
            .expect("initdb runs");
        assert!(made.status.success(), "initdb: {}", String::from_utf8_lossy(&made.stderr));
        Some(postgres)
    }

    /// A running server with this certificate, `NAME.crt` and `NAME.key` of the folder.
    pub fn start_with_tls(certificates: &Path, name: &str) -> Option<Postgres> {
        let mut postgres = Postgres::stopped()?;
        for (setting, extension) in [("ssl_cert_file", "crt"), ("ssl_key_file", "key")] {
            let copy = postgres.folder.path().join(name).with_extension(extension);
            let from = certificates.join(name).with_extension(extension);
            std::fs::copy(&from, &copy).unwrap_or_else(|error| panic!("{}: {error}", from.display()));
            std::fs::set_permissions(&copy, Permissions::from_mode(0o600)).expect("a file of ours");
            if let Some((user, group)) = other_user() {
                std::os::unix::fs::chown(&copy, Some(user), Some(group)).expect("root gives files away");
            }
            postgres.settings.push(format!("{setting}={}", copy.display()));
        }
        postgres.settings.push("ssl=on".to_owned());
        postgres.begin();
        Some(postgres)
    }

    /// Starts it, or starts it again, and waits until it answers.
    pub fn begin(&mut self) {
        let log = std::fs::File::options().create(true).append(true).open(self.log_path()).expect("a file for the log");
        let server = self
            .program("postgres")
            .arg("-D")
            .arg(self.data())
            .args(["-p", &self.port.to_string(), "-c", "listen_addresses=127.0.0.1"])
            .args(["-c", "unix_socket_directories=", "-c", "max_connections=50"])
            .args(self.settings.iter().flat_map(|setting| ["-c", setting]))
            .stdout(Stdio::null())
            .stderr(log)
            // A group of its own: what interrupts the tests is not for it.
            .process_group(0)
            .spawn()
            .expect("postgres starts");
        self.server = Some(server);
        wait_until("an answer of postgres", || self.try_query("SELECT 1").is_ok());
    }

    /// Starts it again if it has ended by itself.
    pub fn begin_if_ended(&mut self) {
        let server = self.server.as_mut().expect("it was started");
        if server.try_wait().expect("a child can be asked").is_some() {
            self.server = None;
            self.begin();
        }
    }

    /// Kills all its processes, as power is lost to them.
    pub fn kill(&mut self) {
        self.end(Signal::KILL);
    }

    /// Stops it; transactions that run are rolled back.
    pub fn stop(&mut self) {
        self.end(Signal::INT);
    }

    fn end(&mut self, signal: Signal) {
        if let Some(mut server) = self.server.take() {
            let parent = i32::try_from(server.id()).ok().and_then(Pid::from_raw).expect("a process id");
            // Each has a group of its own, and memory that all share is in use until the last is gone.
            let workers = children(parent);
            kill_process(parent, signal).expect("the server takes signals");
            if signal == Signal::KILL {
                for worker in &workers {
                    // One that has ended by now does not mind.
                    let _ = kill_process(*worker, signal);
                }
            }
            server.wait().expect("a child can be waited for");
            wait_until("the end of its processes", || workers.iter().all(|worker| has_ended(*worker)));
        }
    }

    pub fn url(&self) -> String {
        self.url_at(self.port)
    }

    /// With another host and parameters.
    pub fn url_with(&self, host: &str, parameters: &str) -> String {
        format!("postgres://tollgate:{PASSWORD}@{host}:{}/postgres?{parameters}", self.port)
    }

    /// The same through another port.
    pub fn url_at(&self, port: u16) -> String {
        format!("postgres://tollgate:{PASSWORD}@127.0.0.1:{port}/postgres?sslmode=disable")
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Rows of a query, a text for each column.
    ///
    /// # Panics
    /// The server refuses it.
    pub fn query(&self, sql: &str) -> Vec<Vec<String>> {
        self.try_query(sql).unwrap_or_else(|error| panic!("{sql}: {error}"))
    }

    /// The one value of a query.
    pub fn value(&self, sql: &str) -> String {
        let rows = self.query(sql);
        rows.first().and_then(|row| row.first()).unwrap_or_else(|| panic!("{sql} gives nothing")).clone()
    }

    /// Number of rows, 0 before there is a table.
    pub fn rows(&self) -> u64 {
        self.try_query("SELECT count(*) FROM tollgate.attempts").map_or(0, |rows| rows[0][0].parse().expect("a count"))
    }

    fn try_query(&self, sql: &str) -> Result<Vec<Vec<String>>, String> {
        let output = self.psql().args(["-c", sql]).output().expect("psql runs");
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into_owned());
        }
        let text = String::from_utf8(output.stdout).expect("psql writes UTF-8");
        Ok(text.lines().map(|line| line.split('\x1f').map(str::to_owned).collect()).collect())
    }

    fn psql(&self) -> Command {
        // Not Debian's wrapper, where there is a choice: it takes longer than the query.
        let own = self.programs.join("psql");
        let mut psql = Command::new(if own.exists() { own } else { "psql".into() });
        psql.args(["--no-psqlrc", "-q", "-A", "-t", "-F", "\x1f", "-v", "ON_ERROR_STOP=1", &self.url()]);
        psql
    }

    /// A session that stays open, for locks.
    pub fn session(&self) -> Session {
        let mut psql = self.psql();
        let mut child = psql.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("psql runs");
        let stdin = child.stdin.take().expect("stdin is piped");
        let stdout = BufReader::new(child.stdout.take().expect("stdout is piped"));
        Session { child, stdin, stdout }
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn log_path(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    /// A program of PostgreSQL, which refuses to run as root.
    fn program(&self, name: &str) -> Command {
        let mut command = Command::new(self.programs.join(name));
        command.current_dir(self.folder.path()).stdin(Stdio::null());
        if let Some((user, group)) = other_user() {
            command.uid(user).gid(group);
        }
        command
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.log_path()).unwrap_or_default();
            let tail: Vec<&str> = log.lines().rev().take(40).collect();
            eprintln!("--- the last words of postgres ---");
            tail.into_iter().rev().for_each(|line| eprintln!("{line}"));
        }
        if let Some(server) = &mut self.server {
            let group = i32::try_from(server.id()).ok().and_then(Pid::from_raw);
            let _ = group.map(|group| kill_process(group, Signal::KILL));
            let _ = server.wait();
        }
    }
}

/// A client that stays connected.
pub struct Session {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Session {
    /// Runs statements, and waits for them.
    ///
    /// # Panics
    /// One fails.
    pub fn run(&mut self, sql: &str) {
        writeln!(self.stdin, "{sql};\n\\echo done").expect("psql listens");
        self.stdin.flush().expect("psql listens");
        let mut line = String::new();
        while line.trim_end() != "done" {
            line.clear();
            assert!(self.stdout.read_line(&mut line).expect("psql answers") > 0, "psql ended at {sql}");
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The folder with `postgres` and `initdb`.
fn find_programs() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let mut folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    folders.iter().find(|folder| folder.join("psql").exists())?;
    // Where Debian has them.
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    folders.extend(versions.map(|version| version.path().join("bin")));
    folders.into_iter().find(|folder| folder.join("postgres").exists() && folder.join("initdb").exists())
}

/// Whom PostgreSQL runs as if we are root: user and group.
fn other_user() -> Option<(u32, u32)> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let users = std::fs::read_to_string(Path::new("/etc/passwd")).expect("there are users");
    let nobody = users.lines().find(|line| line.starts_with("nobody:")).expect("there is a user `nobody`");
    let numbers: Vec<u32> = nobody.split(':').skip(2).take(2).filter_map(|number| number.parse().ok()).collect();
    Some((numbers[0], numbers[1]))
}

/// State and parent of a process; `None` if there is none of this id.
fn stat(id: i32) -> Option<(char, i32)> {
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    // Behind the name, which may hold anything.
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    Some((fields.next()?.chars().next()?, fields.next()?.parse().ok()?))
}

fn children(parent: Pid) -> Vec<Pid> {
    let entries = std::fs::read_dir("/proc").expect("the kernel shows processes");
    let ids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
    let of_parent = |id: &i32| stat(*id).is_some_and(|(_, above)| above == parent.as_raw_nonzero().get());
    ids.filter(of_parent).filter_map(Pid::from_raw).collect()
}

fn has_ended(process: Pid) -> bool {
    stat(process.as_raw_nonzero().get()).is_none_or(|(state, _)| matches!(state, 'Z' | 'X'))
}
