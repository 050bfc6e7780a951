//! The baseline: nginx with one worker, `proxy_pass` and keep-alive on both legs, everything else as it comes. Owns its
//! configuration; the choices in it are the ones that are fair to nginx.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::ports;
use crate::process::{Cores, Server};

/// One instance with a port for whole replies and one for streams.
pub struct Nginx {
    pub server: Server,
    pub unary: SocketAddr,
    pub stream: SocketAddr,
}

/// Where nginx is.
///
/// # Errors
/// Says how to get it when it is nowhere.
pub fn find() -> Result<PathBuf> {
    let search = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/usr/local/sbin:/usr/local/nginx/sbin";
    let found = search.split(':').map(|folder| Path::new(folder).join("nginx")).find(|path| path.is_file());
    found.context(
        "NGINX IS MISSING, and without the baseline no ratio can be given.\n\
         Install it:  apt-get install nginx-light   (Debian, Ubuntu)   |   apk add nginx   |   dnf install nginx",
    )
}

/// What nginx's allocator does with freed buffers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Malloc {
    /// The process keeps them: fast, and the same in every run.
    Kept,
    /// As glibc comes: the top of the heap is given back and faulted in again with each request or not, by an accident
    /// of each process (70 or 165 us at 200 KB), so two identical instances can differ by a factor of two.
    Stock,
}

impl Malloc {
    pub fn other(self) -> Self {
        match self {
            Self::Kept => Self::Stock,
            Self::Stock => Self::Kept,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Kept => "kept",
            Self::Stock => "stock",
        }
    }

    fn environment(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Kept => &[("MALLOC_MMAP_THRESHOLD_", "4194304"), ("MALLOC_TRIM_THRESHOLD_", "268435456")],
            Self::Stock => &[],
        }
    }
}

/// Starts one instance in `folder` and waits until it accepts.
///
/// # Errors
/// When nginx ends or does not listen in time; its own words are in the message.
pub fn start(folder: &Path, upstream: SocketAddr, cores: Cores, malloc: Malloc) -> Result<Nginx> {
    let program = find()?;
    fs::create_dir_all(folder)?;
    let [unary, stream] = ports::free()?;
    let configuration = folder.join("nginx.conf");
    fs::write(&configuration, text(folder, upstream, unary, stream))?;
    let mut command = Command::new(program);
    command.arg("-p").arg(folder).arg("-c").arg(&configuration).arg("-e").arg(folder.join("error.log"));
    command.envs(malloc.environment().iter().copied());
    let log = folder.join("output.log");
    let mut server = Server::start(command, cores, &log)?;
    if !ports::wait_for(unary, || !server.has_ended()) {
        let said = fs::read_to_string(&log).unwrap_or_default()
            + &fs::read_to_string(folder.join("error.log")).unwrap_or_default();
        bail!("nginx did not start: {said}");
    }
    Ok(Nginx { server, unary, stream })
}

fn text(folder: &Path, upstream: SocketAddr, unary: SocketAddr, stream: SocketAddr) -> String {
    // A root master would hand its worker to a user who cannot write here.
    let user = if rustix::process::geteuid().is_root() { "user root;\n" } else { "" };
    let folder = folder.display();
    format!(
        "{user}daemon off;
worker_processes 1;
worker_rlimit_nofile 65536;
pid {folder}/nginx.pid;
error_log {folder}/error.log crit;
events {{ worker_connections 32768; }}
http {{
    access_log off;
    keepalive_timeout 1h;
    keepalive_requests 1000000000;
    client_max_body_size 0;
    client_body_buffer_size 4m;  # a prompt never touches the disk
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    proxy_http_version 1.1;
    proxy_set_header Connection \"\";
    proxy_read_timeout 10m;
    upstream provider {{
        server {upstream};
        keepalive 4096;
        keepalive_requests 1000000000;
        keepalive_timeout 1h;
    }}
    server {{
        listen {unary} backlog=4096;
        location / {{ proxy_pass http://provider; }}
    }}
    server {{
        listen {stream} backlog=4096;
        location / {{ proxy_pass http://provider; proxy_buffering off; }}  # else events wait for a full buffer
    }}
}}
"
    )
}
