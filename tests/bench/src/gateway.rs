//! Tollgate under test: the folder of resources that it is configured with, starting it, and the plain HTTP questions
//! asked of it outside the measured load. The folder is what a busy installation has: 10,000 keys, all features used.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use sha2::{Digest, Sha256};

use crate::client::Picks;
use crate::http::{Decoder, Side};
use crate::ports;
use crate::process::{Cores, Server};
use crate::script::{PROVIDER_KEY, PROVIDER_MODEL_PREFIX};

pub const TEAMS: usize = 20;
pub const MODELS: usize = 200;
const MODELS_OF_A_TEAM: usize = MODELS / TEAMS;
/// Models that each key lists, out of those of its team.
const MODELS_OF_A_KEY: usize = 4;
const KEYS_OF_A_FILE: usize = 500;
/// Length of every public model name, so that all requests of a cell are equally long.
pub const MODEL_NAME_LEN: usize = "model-000".len();
const MASTER_KEY: &str = "sk-bench-master-0123456789abcdef";
/// Exponent of the popularity of keys; near 1 as most measured traffic is.
const ZIPF: f64 = 1.0;
const PICKS: usize = 1 << 16;

/// How the budgets of keys and teams are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Enforcement {
    Hard,
    Soft,
    /// There are none, and no limits of rates either.
    None,
}

impl Enforcement {
    pub fn name(self) -> &'static str {
        match self {
            Self::Hard => "Hard",
            Self::Soft => "Soft",
            Self::None => "None",
        }
    }
}

fn key(number: usize) -> String {
    format!("sk-bench-{number:05}-abcdefghijklmnopqrstuvwxyz")
}

fn public_model(number: usize) -> String {
    format!("model-{number:03}")
}

fn models_of_key(number: usize) -> impl Iterator<Item = usize> {
    let (team, first) = (number % TEAMS, number / TEAMS);
    (0..MODELS_OF_A_KEY).map(move |offset| team * MODELS_OF_A_TEAM + (first + offset) % MODELS_OF_A_TEAM)
}

/// The sequence of keys (zipf) and models that clients use; the same in every run.
pub fn picks(keys: usize) -> Picks {
    let mut random = fastrand::Rng::with_seed(7);
    let mut reach = 0.0;
    let reaches: Vec<f64> = (1..=keys)
        .map(|rank| {
            reach += (rank as f64).powf(-ZIPF);
            reach
        })
        .collect();
    let sequence = (0..PICKS)
        .map(|_| {
            let point = random.f64() * reach;
            let key = reaches.partition_point(|reach| *reach < point).min(keys - 1);
            let model = models_of_key(key).nth(random.usize(..MODELS_OF_A_KEY)).unwrap_or(0);
            (key as u32, model as u32)
        })
        .collect();
    Picks { keys: (0..keys).map(key).collect(), models: (0..MODELS).map(public_model).collect(), sequence }
}

fn sha256_hex(text: &str) -> String {
    Sha256::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Writes the folder of resources.
///
/// # Errors
/// When it cannot be written.
pub fn write_configuration(
    folder: &Path,
    upstream: SocketAddr,
    keys: usize,
    enforcement: Enforcement,
) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    let held_to = |limit: &str| match enforcement {
        Enforcement::None => String::new(),
        _ => format!(
            "  budget: {{limit: \"{limit}\", period: {{calendar: Month}}, enforcement: {}}}
  limits: {{requestsPerMinute: 1000000000, tokensPerMinute: 2000000000}}
",
            enforcement.name()
        ),
    };
    let mut gateway = format!(
        "apiVersion: v1
kind: Namespace
metadata: {{name: bench}}
---
apiVersion: v1
kind: Secret
metadata: {{name: master, namespace: bench}}
stringData: {{key: {MASTER_KEY}}}
---
apiVersion: v1
kind: Secret
metadata: {{name: provider, namespace: bench}}
stringData: {{api-key: {PROVIDER_KEY}}}
---
apiVersion: tollgate.dev/v1alpha1
kind: LLMGateway
metadata: {{name: default, namespace: bench}}
spec:
  default: true
  allowedNamespaces: {{from: All}}
  listeners: [{{name: http, port: 4000}}]
  masterKey: {{secretRef: {{name: master, key: key}}}}
  defaults: {{unpriced: Deny, maxOutputTokens: 4096, timeouts: {{total: 10m}}}}
  egress: {{allowedHosts: [\"*\"]}}
"
    );
    for team in 0..TEAMS {
        let models: Vec<String> =
            (0..MODELS_OF_A_TEAM).map(|offset| public_model(team * MODELS_OF_A_TEAM + offset)).collect();
        gateway.push_str(&format!(
            "---
apiVersion: tollgate.dev/v1alpha1
kind: Team
metadata: {{name: team-{team:02}, namespace: bench}}
spec:
  models: [{}, \"swap-*\"]
{}",
            models.join(", "),
            held_to("100000000")
        ));
    }
    fs::write(folder.join("gateway.yaml"), gateway)?;

    let mut deployments = String::new();
    for model in 0..MODELS {
        for target in ["a", "b"] {
            deployments.push_str(&deployment(
                &format!("deployment-{model:03}-{target}"),
                &public_model(model),
                upstream,
            ));
        }
    }
    fs::write(folder.join("models.yaml"), deployments)?;
    fs::write(folder.join("swap.yaml"), swapped(0, upstream))?;

    for (file, first) in (0..keys).step_by(KEYS_OF_A_FILE).enumerate() {
        let mut text = String::new();
        for number in first..(first + KEYS_OF_A_FILE).min(keys) {
            let models: Vec<String> = models_of_key(number).map(public_model).collect();
            // The probe of configuration swaps asks with the first key.
            let swap = if number == 0 { ", \"swap-*\"" } else { "" };
            text.push_str(&format!(
                "---
apiVersion: tollgate.dev/v1alpha1
kind: VirtualKey
metadata: {{name: key-{number:05}, namespace: bench}}
spec:
  teamRef: {{name: team-{:02}}}
  models: [{}{swap}]
  keyHash: \"sha256:{}\"
{}",
                number % TEAMS,
                models.join(", "),
                sha256_hex(&key(number)),
                held_to("1000000")
            ));
        }
        fs::write(folder.join(format!("keys-{file:02}.yaml")), text)?;
    }
    Ok(())
}

fn deployment(name: &str, public: &str, upstream: SocketAddr) -> String {
    format!(
        "---
apiVersion: tollgate.dev/v1alpha1
kind: ModelDeployment
metadata: {{name: {name}, namespace: bench}}
spec:
  provider: openai-compatible
  endpoint: {{baseURL: \"http://{upstream}/v1\"}}
  model: {PROVIDER_MODEL_PREFIX}{name}
  modelNames: [{public}]
  credential: {{secretRef: {{name: provider, key: api-key}}}}
  pricing: {{perMillionTokens: {{input: \"0.10\", output: \"0.30\", cacheRead: \"0.01\"}}}}
"
    )
}

fn swapped(generation: u64, upstream: SocketAddr) -> String {
    deployment("swapped", &format!("swap-{generation}"), upstream)
}

/// Changes the folder: the model `swap-<generation>` takes the place of the one before it.
///
/// # Errors
/// When the file cannot be replaced.
pub fn swap(folder: &Path, generation: u64, upstream: SocketAddr) -> io::Result<()> {
    let draft = folder.join(".swap.yaml.draft");
    fs::write(&draft, swapped(generation, upstream))?;
    fs::rename(draft, folder.join("swap.yaml"))
}

/// Whether the model `swap-<generation>` is offered.
pub fn sees_swap(address: SocketAddr, generation: u64) -> bool {
    get(address, &format!("/v1/models/swap-{generation}"), Some(&key(0))).is_ok_and(|status| status == 200)
}

/// One running gateway.
pub struct Gateway {
    pub server: Server,
    pub address: SocketAddr,
    /// From before exec to the first 200 of /health/readiness.
    pub ready: Duration,
    /// From before exec to the first completion that a key was answered.
    pub first_answer: Duration,
}

/// Starts `binary` on the folder and waits for its first answer, asking again and again in a tight loop. Something else
/// must serve the upstream meanwhile.
///
/// # Errors
/// When it ends, or gives no answer in time; its log is in the message.
pub fn start(binary: &Path, folder: &Path, data: &Path, log: &Path, cores: Cores) -> Result<Gateway> {
    /// More than any start that is worth measuring.
    const PATIENCE: Duration = Duration::from_secs(60);
    fs::create_dir_all(data)?;
    let [address] = ports::free()?;
    let mut command = Command::new(binary);
    command.arg("serve").arg("--config").arg(folder).arg("--host").arg("127.0.0.1");
    command.arg("--port").arg(address.port().to_string()).arg("--data").arg(data);
    let begin = Instant::now();
    let mut server = Server::start(command, cores, log)?;
    let mut poll = |mut succeeded: Box<dyn FnMut() -> io::Result<u16>>, what: &str| -> Result<Duration> {
        let mut last = String::new();
        loop {
            match succeeded() {
                Ok(200) => return Ok(begin.elapsed()),
                Ok(status) => last = format!("status {status}"),
                Err(error) if last.is_empty() => last = error.to_string(),
                Err(_) => {}
            }
            if server.has_ended() || begin.elapsed() > PATIENCE {
                let said = fs::read_to_string(log).unwrap_or_default();
                let from = said.char_indices().rev().nth(2000).map_or(0, |(index, _)| index);
                bail!("{what} of tollgate did not come ({last}); it said:\n{}", &said[from..]);
            }
            std::thread::yield_now();
        }
    };
    let ready = poll(Box::new(move || get(address, "/health/readiness", None)), "readiness")?;
    let first_answer = poll(Box::new(move || complete(address)), "the first completion")?;
    Ok(Gateway { server, address, ready, first_answer })
}

/// Asks for `path` on a connection of its own.
///
/// # Errors
/// When nobody answers.
pub fn get(address: SocketAddr, path: &str, key: Option<&str>) -> io::Result<u16> {
    let authorization = key.map(|key| format!("Authorization: Bearer {key}\r\n")).unwrap_or_default();
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n{authorization}\r\n");
    exchange(address, request.as_bytes())
}

fn complete(address: SocketAddr) -> io::Result<u16> {
    let model = models_of_key(0).next().map(public_model).unwrap_or_default();
    let body = format!(r#"{{"model":"{model}","messages":[{{"role":"user","content":"hi"}}],"max_tokens":16}}"#);
    let request = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {}\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        key(0),
        body.len()
    );
    exchange(address, request.as_bytes())
}

fn exchange(address: SocketAddr, request: &[u8]) -> io::Result<u16> {
    let mut socket = TcpStream::connect(address)?;
    socket.set_nodelay(true)?;
    socket.set_read_timeout(Some(Duration::from_secs(5)))?;
    socket.write_all(request)?;
    let mut decoder = Decoder::new(Side::Response);
    let mut body = Vec::new();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let count = socket.read(&mut buffer)?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let done = decoder.feed(&buffer[..count], &mut body).map_err(|error| io::Error::other(format!("{error:?}")))?;
        if done {
            return Ok(decoder.status());
        }
    }
}

/// Where the gateway is: `TOLLGATE_BIN`, else beside this program.
///
/// # Errors
/// When there is none.
pub fn find() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("TOLLGATE_BIN") {
        return Ok(path.into());
    }
    let beside = std::env::current_exe()?.with_file_name("tollgate");
    if beside.is_file() {
        return Ok(beside);
    }
    bail!("no gateway: set TOLLGATE_BIN, or use tests/bench/run, which builds it (looked at {})", beside.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pick_names_a_model_that_the_key_may_use() {
        let picks = picks(1000);
        assert!(picks.sequence.iter().all(|&(key, model)| models_of_key(key as usize).any(|m| m == model as usize)));
        assert!(picks.models.iter().all(|name| name.len() == MODEL_NAME_LEN));
    }

    #[test]
    fn the_first_keys_are_used_most_and_many_are_used() {
        let picks = picks(10_000);
        let first = picks.sequence.iter().filter(|(key, _)| *key == 0).count();
        let different: std::collections::HashSet<u32> = picks.sequence.iter().map(|(key, _)| *key).collect();
        assert!(first > PICKS / 20 && different.len() > 5000, "{first} {}", different.len());
    }

    #[test]
    fn the_folder_holds_every_key_once() {
        let folder = tempfile::tempdir().unwrap();
        write_configuration(folder.path(), "127.0.0.1:1".parse().unwrap(), 1200, Enforcement::Soft).unwrap();
        let text: String =
            (0..3).map(|n| fs::read_to_string(folder.path().join(format!("keys-{n:02}.yaml"))).unwrap()).collect();
        assert_eq!(text.matches("kind: VirtualKey").count(), 1200);
        assert_eq!(text.matches("enforcement: Soft").count(), 1200);
        assert!(text.contains(&sha256_hex(&key(1199))));
    }
}
