//! `tollgate dataplane` as a process, fed by a [`FakeApi`], with a data and a cache folder of its own. Killed when
//! dropped; when a test fails, what it wrote to stderr is shown. I/O.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::watch;

use crate::binary::{binary, is_ours};
use crate::client::{Call, Response};
use crate::kubernetes::FakeApi;
use crate::{KEY, OPERATOR_TOKEN, PATIENCE, Value, json, patiently};

/// How a proxy is started.
#[derive(Clone, Debug)]
pub struct ProxyStarter {
    arguments: Vec<String>,
}

impl Default for ProxyStarter {
    fn default() -> ProxyStarter {
        let usual = ["--gateway", "default/default", "--host", "127.0.0.1", "--status-port", "0", "--allow-loopback"];
        let more = ["--cores", "2", "--drain-delay", "0"];
        ProxyStarter { arguments: usual.iter().chain(&more).map(|one| (*one).to_owned()).collect() }
            .arguments(["--listen", "http=0"])
    }
}

impl ProxyStarter {
    /// Adds arguments.
    pub fn arguments<const N: usize>(mut self, arguments: [&str; N]) -> ProxyStarter {
        self.arguments.extend(arguments.map(str::to_owned));
        self
    }

    /// Replaces the value of an argument.
    pub fn set(mut self, argument: &str, value: &str) -> ProxyStarter {
        let at = self.arguments.iter().position(|known| known == argument).expect("the argument is set");
        self.arguments[at + 1] = value.to_owned();
        self
    }

    /// Takes a flag away.
    pub fn without(mut self, flag: &str) -> ProxyStarter {
        self.arguments.retain(|known| known != flag);
        self
    }

    /// Starts, and waits for the status port only.
    pub async fn start(self, api: &FakeApi) -> Proxy {
        let folder = TempDir::new().expect("a folder");
        std::fs::write(folder.path().join("kubeconfig"), api.kubeconfig()).expect("the kubeconfig is written");
        let stderr = folder.path().join("stderr");
        let mut proxy = Proxy { starter: self, folder, stderr, running: None };
        proxy.begin().await;
        proxy
    }
}

struct Running {
    child: Child,
    /// What it printed, line by line.
    lines: watch::Receiver<Vec<String>>,
}

/// A proxy.
pub struct Proxy {
    starter: ProxyStarter,
    folder: TempDir,
    stderr: PathBuf,
    running: Option<Running>,
}

impl Proxy {
    /// One that is ready.
    pub async fn start(api: &FakeApi) -> Proxy {
        let proxy = ProxyStarter::default().start(api).await;
        proxy.wait_until_ready().await;
        proxy
    }

    async fn begin(&mut self) {
        let path = |name: &str| self.folder.path().join(name);
        let mut command = Command::new(binary());
        command.arg("dataplane").args(&self.starter.arguments);
        command.arg("--data").arg(path("data")).arg("--cache").arg(path("cache"));
        command.arg("--kubeconfig").arg(path("kubeconfig"));
        for (name, _) in std::env::vars_os() {
            if is_ours(&name.to_string_lossy()) {
                command.env_remove(&name);
            }
        }
        let log = std::fs::OpenOptions::new().create(true).append(true).open(&self.stderr).expect("a file for stderr");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log).kill_on_drop(true);
        let mut child = command.spawn().expect("the proxy starts");
        let mut stdout = BufReader::new(child.stdout.take().expect("stdout is piped")).lines();
        let (told, lines) = watch::channel(Vec::new());
        tokio::spawn(async move {
            while let Ok(Some(line)) = stdout.next_line().await {
                told.send_modify(|lines| lines.push(line));
            }
        });
        self.running = Some(Running { child, lines });
        self.address("status").await;
    }

    fn running(&self) -> &Running {
        self.running.as_ref().expect("the proxy runs")
    }

    /// Where a listener listens, or the status port: waits until it is told.
    pub async fn address(&self, name: &str) -> SocketAddr {
        let mut lines = self.running().lines.clone();
        let find = |lines: &Vec<String>| {
            let url = lines.iter().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))?;
            url.split("://").nth(1)?.parse().ok()
        };
        let found = patiently("an address", lines.wait_for(|lines| find(lines).is_some())).await;
        let found = found.unwrap_or_else(|_| panic!("the proxy ended early:\n{}", self.log()));
        find(&found).expect("it was found")
    }

    /// Waits until it is ready.
    pub async fn wait_until_ready(&self) {
        let ready = async {
            while self.status("/health/readiness").await.status != 200 {
                tokio::task::yield_now().await;
            }
        };
        patiently("readiness", ready).await;
    }

    /// Waits until it serves this generation, and tells how long it took.
    pub async fn wait_for_generation(&self, generation: u64) -> std::time::Duration {
        let begun = std::time::Instant::now();
        let reached = async {
            while self.snapshot().await["generation"] != generation {
                tokio::task::yield_now().await;
            }
        };
        patiently("a generation", reached).await;
        begun.elapsed()
    }

    /// Waits until `/snapshot` tells of an error with this text.
    pub async fn wait_for_error(&self, text: &str) {
        let told = async {
            while !self.snapshot().await["error"].as_str().is_some_and(|error| error.contains(text)) {
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        };
        patiently(&format!("the error `{text}`"), told).await;
    }

    /// Waits until it says that nothing is wrong with its tables.
    pub async fn wait_for_no_error(&self) {
        let told = async {
            while !self.snapshot().await["error"].is_null() {
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        };
        patiently("no error", told).await;
    }

    /// GET of the status port.
    pub async fn status(&self, path: &str) -> Response {
        Call::new(self.address("status").await, "GET", path).send().await
    }

    /// `/snapshot` of the status port.
    pub async fn snapshot(&self) -> Value {
        self.status("/snapshot").await.expect(200).json()
    }

    /// What the operator asks.
    pub async fn operator(&self, method: &str, path: &str) -> Call {
        Call::new(self.address("status").await, method, path).key(OPERATOR_TOKEN)
    }

    /// The verdict of a probe.
    pub async fn probe(&self, deployment: &str) -> Value {
        let call = self.operator("POST", "/operator/probe").await;
        call.json(&json!({"deployment": deployment})).send().await.expect(200).json()
    }

    /// A chat completion at the first listener, asked with [`KEY`].
    pub async fn chat(&self, model: &str) -> Call {
        let body = json!({"model": model, "messages": [{"role": "user", "content": "Hello"}]});
        Call::new(self.address("http").await, "POST", "/v1/chat/completions").key(KEY).json(&body)
    }

    /// The same as a stream.
    pub async fn chat_stream(&self, model: &str) -> Call {
        let body = json!({"model": model, "stream": true, "messages": [{"role": "user", "content": "Hello"}]});
        self.chat(model).await.json(&body)
    }

    pub fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    pub fn cache(&self) -> PathBuf {
        self.folder.path().join("cache")
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.running().child.id().expect("the proxy runs")
    }

    /// Everything written to stderr so far.
    pub fn log(&self) -> String {
        std::fs::read(&self.stderr).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    fn signal(&self, signal: Signal) {
        let id = i32::try_from(self.id()).ok().and_then(Pid::from_raw).expect("a process id");
        kill_process(id, signal).expect("the proxy takes signals");
    }

    /// SIGTERM, without waiting.
    pub fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// Waits for the end.
    pub async fn wait(&mut self) -> ExitStatus {
        let mut running = self.running.take().expect("the proxy runs");
        match tokio::time::timeout(PATIENCE, running.child.wait()).await {
            Ok(status) => status.expect("a child can be waited for"),
            Err(_) => panic!("the proxy did not stop within {} s:\n{}", PATIENCE.as_secs(), self.log()),
        }
    }

    /// SIGTERM, and waits for a good end.
    ///
    /// # Panics
    /// It did not end well.
    pub async fn stop(&mut self) {
        if self.running.is_some() {
            self.terminate();
            let status = self.wait().await;
            assert!(status.success(), "the proxy ended with {status}:\n{}", self.log());
        }
    }

    /// Starts again on the same folders, stopping first if it runs. Waits for the status port only.
    pub async fn restart(&mut self) {
        self.stop().await;
        self.begin().await;
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let tail: Vec<&str> = log.lines().rev().take(60).collect();
            eprintln!("--- the proxy's last words ---");
            for line in tail.into_iter().rev() {
                eprintln!("{line}");
            }
        }
    }
}
