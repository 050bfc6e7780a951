//! Processes under test as the kernel sees them: started on one core, their CPU time in nanoseconds, their memory.
//! Reads /proc only; knows nothing of HTTP.

use std::collections::HashMap;
use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::thread::CpuSet;

/// Which core serves what.
#[derive(Clone, Copy, Debug)]
pub struct Cores {
    /// Scripted upstream and load generator.
    pub load: usize,
    /// The proxy under test.
    pub proxy: usize,
}

impl Cores {
    /// The first two cores that this process may use; the same one twice where there is only one.
    ///
    /// # Errors
    /// When the kernel does not tell the affinity.
    pub fn choose() -> Result<Self> {
        let allowed = rustix::thread::sched_getaffinity(None)?;
        let mut cores = (0..CpuSet::MAX_CPU).filter(|core| allowed.is_set(*core));
        let load = cores.next().context("no core may be used")?;
        Ok(Self { load, proxy: cores.next().unwrap_or(load) })
    }
}

/// Pins the calling thread; threads and processes that it starts inherit this.
///
/// # Errors
/// When the core may not be used.
pub fn pin(core: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(core);
    rustix::thread::sched_setaffinity(None, &set).with_context(|| format!("pin to core {core}"))
}

/// Lets this process and its children open as many sockets as the system allows it.
pub fn raise_file_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // Where this is refused, only the cells with thousands of sockets fail, and they say so.
    let _ = setrlimit(Resource::Nofile, limit);
}

/// A child that ends with this value.
pub struct Server {
    child: Child,
}

impl Server {
    /// Starts `command` on `cores.proxy`, its output in `log`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(mut command: Command, cores: Cores, log: &Path) -> Result<Self> {
        let log = File::options().create(true).append(true).open(log)?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        pin(cores.proxy)?;
        let child = command.spawn().with_context(|| format!("start {:?}", command.get_program()));
        pin(cores.load)?;
        Ok(Self { child: child? })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it has ended by itself.
    pub fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // nginx's master would leave its worker behind if it were killed; both kinds end on SIGTERM.
        if let Some(pid) = rustix::process::Pid::from_raw(self.child.id() as i32) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        for _ in 0..200 {
            if self.has_ended() {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A process and its descendants, now.
///
/// # Errors
/// When /proc cannot be read.
pub fn family(root: u32) -> Result<Vec<u32>> {
    let mut parents = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { continue };
        // The command in parentheses may hold blanks; the state and the parent follow it.
        let parent = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(1)?.parse::<u32>().ok());
        parents.push((pid, parent.unwrap_or(0)));
    }
    let mut family = vec![root];
    let mut next = 0;
    while next < family.len() {
        let current = family[next];
        family.extend(parents.iter().filter(|(_, parent)| *parent == current).map(|(pid, _)| *pid));
        next += 1;
    }
    Ok(family)
}

/// CPU time of a set of processes, user and system, from each thread's run time in nanoseconds (`schedstat`; the ticks
/// of `stat` are 10 ms). A thread that has ended keeps the last value that was seen.
#[derive(Debug)]
pub struct CpuClock {
    pids: Vec<u32>,
    seen: HashMap<(u32, u32), u64>,
}

impl CpuClock {
    pub fn new(pids: Vec<u32>) -> Self {
        Self { pids, seen: HashMap::new() }
    }

    pub fn pids(&self) -> &[u32] {
        &self.pids
    }

    /// Nanoseconds since the processes started.
    ///
    /// # Errors
    /// When a process is gone, or the kernel keeps no scheduler statistics.
    pub fn read(&mut self) -> Result<u64> {
        for &pid in &self.pids {
            let tasks = fs::read_dir(format!("/proc/{pid}/task")).with_context(|| format!("process {pid} is gone"))?;
            for task in tasks {
                let Some(tid) = task?.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
                let Ok(text) = fs::read_to_string(format!("/proc/{pid}/task/{tid}/schedstat")) else { continue };
                let nanos = text.split_whitespace().next().and_then(|first| first.parse().ok());
                self.seen.insert((pid, tid), nanos.context("the kernel keeps no schedstat")?);
            }
        }
        let total = self.seen.values().sum();
        ensure!(total > 0, "the kernel keeps no schedstat");
        Ok(total)
    }
}

/// Resident memory of processes in bytes. Pages that they share count once per process, as in every published figure.
///
/// # Errors
/// When a process is gone.
pub fn resident(pids: &[u32]) -> Result<u64> {
    let mut total = 0;
    for pid in pids {
        let status =
            fs::read_to_string(format!("/proc/{pid}/status")).with_context(|| format!("process {pid} is gone"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        let kib: u64 = line.trim().trim_end_matches(" kB").parse().context("VmRSS")?;
        total += kib * 1024;
    }
    Ok(total)
}

/// Watches the greatest resident memory while something else runs.
pub struct ResidentPeak {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<u64>,
}

impl ResidentPeak {
    pub fn watch(pids: Vec<u32>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut peak = 0;
            while !stopped.load(Ordering::Relaxed) {
                peak = peak.max(resident(&pids).unwrap_or(0));
                std::thread::sleep(Duration::from_millis(50));
            }
            peak
        });
        Self { stop, thread }
    }

    /// Bytes at the highest point.
    pub fn finish(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap_or(0)
    }
}

/// Keeps a core out of its sleep states with idle-class work, which runs only when nobody else wants the core. Without
/// it, latency at one connection measures how fast the processor wakes.
pub struct Spinner {
    child: Option<Child>,
}

impl Spinner {
    /// Does nothing where `chrt` (util-linux) is missing.
    pub fn start(core: usize, back_to: usize) -> Result<Self> {
        let program = std::env::current_exe()?;
        pin(core)?;
        let child = Command::new("chrt").args(["--idle", "0"]).arg(program).arg("spin").spawn().ok();
        pin(back_to)?;
        Ok(Self { child })
    }

    pub fn is_running(&self) -> bool {
        self.child.is_some()
    }
}

impl Drop for Spinner {
    fn drop(&mut self) {
        if let Some(child) = self.child.as_mut() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_counts_the_work_of_this_process() {
        let mut clock = CpuClock::new(vec![std::process::id()]);
        let before = clock.read().unwrap();
        let begin = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
        let spent = || {
            let now = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
            (now.tv_sec - begin.tv_sec) * 1_000_000_000 + i64::from(now.tv_nsec as i32)
                - i64::from(begin.tv_nsec as i32)
        };
        while spent() < 50_000_000 {
            std::hint::spin_loop();
        }
        std::thread::sleep(Duration::from_millis(1));
        let counted = clock.read().unwrap() - before;
        assert!(counted > 20_000_000, "only {counted} ns of 50 ms were seen");
    }

    #[test]
    fn memory_of_this_process_is_known() {
        assert!(resident(&[std::process::id()]).unwrap() > 100_000);
    }

    #[test]
    fn a_family_begins_with_its_root() {
        assert_eq!(family(std::process::id()).unwrap()[0], std::process::id());
    }
}
