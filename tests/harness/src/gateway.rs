//! A gateway as a process, with a config folder and a data folder of its own. Killed when dropped; when a test fails, what
//! it wrote to stderr is shown. I/O.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStdout, Command};

use crate::binary::{binary, is_ours};
use crate::client::{Call, Response};
use crate::{MASTER_KEY, PATIENCE, Value, json, patiently};

/// How a gateway is started.
#[derive(Clone, Debug)]
pub struct Starter {
    files: Vec<(String, String)>,
    arguments: Vec<String>,
    variables: Vec<(String, String)>,
    demo: bool,
}

impl Default for Starter {
    fn default() -> Starter {
        Starter {
            files: Vec::new(),
            arguments: Vec::new(),
            variables: vec![("TOLLGATE_MASTER_KEY".into(), MASTER_KEY.into())],
            demo: false,
        }
    }
}

impl Starter {
    /// Adds a file to the config folder.
    pub fn file(mut self, name: &str, text: impl Into<String>) -> Starter {
        self.files.push((name.to_owned(), text.into()));
        self
    }

    /// Adds arguments of `tollgate serve`.
    pub fn arguments<const N: usize>(mut self, arguments: [&str; N]) -> Starter {
        self.arguments.extend(arguments.map(str::to_owned));
        self
    }

    pub fn variable(mut self, name: &str, value: &str) -> Starter {
        self.variables.retain(|(known, _)| known != name);
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn without_variable(mut self, name: &str) -> Starter {
        self.variables.retain(|(known, _)| known != name);
        self
    }

    /// Without `--config`: what the binary serves when it is given nothing.
    pub fn demo(mut self) -> Starter {
        self.demo = true;
        self
    }

    /// Starts and waits until it is ready.
    ///
    /// # Panics
    /// It does not get ready.
    pub async fn start(self) -> Gateway {
        let config = TempDir::new().expect("a folder for the config");
        let data = TempDir::new().expect("a folder for the data");
        for (name, text) in &self.files {
            std::fs::write(config.path().join(name), text).expect("a config file is written");
        }
        let stderr = data.path().with_extension("stderr");
        let mut gateway = Gateway { starter: self, config, data, stderr, running: None };
        gateway.begin().await;
        gateway
    }
}

/// A process that serves.
struct Running {
    child: Child,
    address: SocketAddr,
    banner: Vec<String>,
    /// Kept open: a gateway whose stdout is gone would fail to write to it.
    _stdout: BufReader<ChildStdout>,
}

/// A gateway.
pub struct Gateway {
    starter: Starter,
    config: TempDir,
    data: TempDir,
    stderr: PathBuf,
    running: Option<Running>,
}

impl Gateway {
    /// A gateway with these documents in one file, `config.yaml`.
    pub async fn start(documents: &str) -> Gateway {
        Starter::default().file("config.yaml", documents).start().await
    }

    async fn begin(&mut self) {
        let mut command = Command::new(binary());
        command.arg("serve");
        if !self.starter.demo {
            command.arg("--config").arg(self.config.path());
        }
        command.args(["--host", "127.0.0.1", "--port", "0", "--data"]).arg(self.data.path());
        if !self.starter.arguments.iter().any(|argument| argument == "--cores") {
            command.args(["--cores", "2"]);
        }
        command.args(&self.starter.arguments);
        for (name, _) in std::env::vars_os() {
            if is_ours(&name.to_string_lossy()) {
                command.env_remove(&name);
            }
        }
        command.envs(self.starter.variables.iter().map(|(name, value)| (name, value)));
        let log = std::fs::OpenOptions::new().create(true).append(true).open(&self.stderr).expect("a file for stderr");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log).kill_on_drop(true);
        let mut child = command.spawn().expect("the gateway starts");
        let mut stdout = BufReader::new(child.stdout.take().expect("stdout is piped"));
        let (address, banner) = patiently("the banner", self.read_banner(&mut stdout)).await;
        self.running = Some(Running { child, address, banner, _stdout: stdout });
        let ready = async {
            while self.get("/health/readiness").send().await.status != 200 {
                tokio::task::yield_now().await;
            }
        };
        patiently("readiness", ready).await;
    }

    /// The banner ends with the second line of the curl example.
    async fn read_banner(&self, stdout: &mut BufReader<ChildStdout>) -> (SocketAddr, Vec<String>) {
        let mut banner = Vec::new();
        loop {
            let mut line = String::new();
            let read = stdout.read_line(&mut line).await.expect("stdout is readable");
            assert!(read > 0, "the gateway ended before it was ready; it wrote:\n{banner:?}\n{}", self.log());
            banner.push(line.trim_end().to_owned());
            if line.trim_start().starts_with("-d ") {
                break;
            }
        }
        let url = banner[0].split("http://").nth(1).and_then(|rest| rest.split_whitespace().next());
        let address = url.and_then(|url| url.parse().ok());
        (address.unwrap_or_else(|| panic!("no address in the banner: {banner:?}")), banner)
    }

    fn running(&self) -> &Running {
        self.running.as_ref().expect("the gateway runs")
    }

    pub fn address(&self) -> SocketAddr {
        self.running().address
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address())
    }

    /// What it printed when it was ready, line by line.
    pub fn banner(&self) -> &[String] {
        &self.running().banner
    }

    pub fn data(&self) -> &Path {
        self.data.path()
    }

    pub fn config(&self) -> &Path {
        self.config.path()
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.running().child.id().expect("the gateway runs")
    }

    /// Everything written to stderr so far.
    pub fn log(&self) -> String {
        std::fs::read(&self.stderr).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    pub fn call(&self, method: &str, path: &str) -> Call {
        Call::new(self.address(), method, path)
    }

    pub fn get(&self, path: &str) -> Call {
        self.call("GET", path)
    }

    pub fn post(&self, path: &str) -> Call {
        self.call("POST", path)
    }

    /// A chat completion with one user message, asked with [`crate::KEY`].
    pub fn chat(&self, model: &str) -> Call {
        self.post("/v1/chat/completions").key(crate::KEY).json(&chat(model))
    }

    /// The same as a stream.
    pub fn chat_stream(&self, model: &str) -> Call {
        let mut body = chat(model);
        body["stream"] = json!(true);
        self.post("/v1/chat/completions").key(crate::KEY).json(&body)
    }

    /// A message in Anthropic's dialect, asked with [`crate::KEY`].
    pub fn message(&self, model: &str) -> Call {
        let body = json!({"model": model, "max_tokens": 50, "messages": [{"role": "user", "content": "Hello"}]});
        self.post("/v1/messages").header("x-api-key", crate::KEY).header("anthropic-version", "2023-06-01").json(&body)
    }

    /// `/health` as the administrator sees it.
    pub async fn health(&self) -> Value {
        let response = self.get("/health").key(MASTER_KEY).send().await;
        assert_eq!(response.status, 200, "{}", response.text());
        response.json()
    }

    pub async fn metrics(&self) -> String {
        let response = self.get("/metrics").send().await;
        assert_eq!(response.status, 200, "{}", response.text());
        response.text()
    }

    /// The generation that is served.
    pub async fn generation(&self) -> u64 {
        let Response { body, .. } = self.get("/snapshot").send().await;
        let snapshot: Value = serde_json::from_slice(&body).expect("/snapshot is JSON");
        snapshot["generation"].as_u64().expect("/snapshot tells the generation")
    }

    /// Replaces a file of the config folder at once, as `kubectl` and careful editors do.
    pub fn edit(&self, name: &str, text: &str) {
        // Beside the folder, so that the half-written file is never read.
        let partial = self.config.path().with_extension("partial");
        std::fs::write(&partial, text).expect("the new file is written");
        std::fs::rename(partial, self.config.path().join(name)).expect("the new file takes its place");
    }

    /// The config folder is away, as a file system that is not mounted: nothing of it can be read.
    pub fn take_config_away(&self) {
        std::fs::rename(self.config.path(), self.config.path().with_extension("away")).expect("the folder is moved");
    }

    /// The config folder is there again.
    pub fn bring_config_back(&self) {
        std::fs::rename(self.config.path().with_extension("away"), self.config.path()).expect("the folder is moved");
    }

    /// Waits until this generation, or a later one, is served.
    pub async fn wait_for_generation(&self, generation: u64) -> u64 {
        let wait = async {
            loop {
                let now = self.generation().await;
                if now >= generation {
                    return now;
                }
                tokio::time::sleep(std::time::Duration::from_millis(2)).await;
            }
        };
        patiently(&format!("generation {generation}"), wait).await
    }

    /// Edits a file and waits until the edit is served.
    pub async fn edit_and_wait(&self, name: &str, text: &str) {
        let before = self.generation().await;
        self.edit(name, text);
        self.wait_for_generation(before + 1).await;
    }

    fn signal(&self, signal: Signal) {
        let id = i32::try_from(self.id()).ok().and_then(Pid::from_raw).expect("a process id");
        kill_process(id, signal).expect("the gateway takes signals");
    }

    /// SIGTERM, without waiting.
    pub fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// Waits for the end.
    pub async fn wait(&mut self) -> ExitStatus {
        let mut running = self.running.take().expect("the gateway runs");
        match tokio::time::timeout(PATIENCE, running.child.wait()).await {
            Ok(status) => status.expect("a child can be waited for"),
            Err(_) => panic!("the gateway did not stop within {} s:\n{}", PATIENCE.as_secs(), self.log()),
        }
    }

    /// SIGTERM, and waits: streams finish, the ledger is written.
    ///
    /// # Panics
    /// It did not end well.
    pub async fn stop(&mut self) {
        if self.running.is_some() {
            self.terminate();
            let status = self.wait().await;
            assert!(status.success(), "the gateway ended with {status}:\n{}", self.log());
        }
    }

    /// SIGKILL, as power is lost to one process.
    pub async fn kill(&mut self) {
        self.signal(Signal::KILL);
        self.wait().await;
    }

    /// Starts again on the same folders, stopping first if it runs. The port is another one.
    pub async fn restart(&mut self) {
        self.stop().await;
        self.begin().await;
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let tail: Vec<&str> = log.lines().rev().take(60).collect();
            eprintln!("--- the gateway's last words ---");
            for line in tail.into_iter().rev() {
                eprintln!("{line}");
            }
        }
        let _ = std::fs::remove_file(&self.stderr);
    }
}

fn chat(model: &str) -> Value {
    json!({"model": model, "messages": [{"role": "user", "content": "Hello"}]})
}
