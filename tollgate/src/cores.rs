//! I/O: how many threads should serve: as many as the processors that this process may use, and no more than its share
//! of time in a container pays for. Threads above a quota only make it stop all at once.

use std::path::{Path, PathBuf};

/// One for each processor, or for each begun processor of the quota where that is less.
pub fn usable() -> usize {
    let allowed = rustix::thread::sched_getaffinity(None).map(|set| set.count() as usize);
    // What cannot be asked is taken from the standard library, which knows other ways.
    let machine = allowed.unwrap_or_else(|_| std::thread::available_parallelism().map_or(1, usize::from));
    within(machine, quota())
}

fn within(machine: usize, quota: Option<usize>) -> usize {
    quota.map_or(machine, |quota| machine.min(quota)).max(1)
}

/// Processors of the tightest quota on this process, rounded up.
fn quota() -> Option<usize> {
    let groups = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    let read = |path: &Path| std::fs::read_to_string(path).ok();
    tightest(&groups, &read)
}

/// `groups`: text of `/proc/self/cgroup`. A quota binds all groups below, so every group above is looked at too.
fn tightest(groups: &str, read: &dyn Fn(&Path) -> Option<String>) -> Option<usize> {
    let mut tightest = None;
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next()) else { continue };
        let is_v2 = controllers.is_empty();
        if !is_v2 && !controllers.split(',').any(|controller| controller == "cpu") {
            continue;
        }
        let root = Path::new(if is_v2 { "/sys/fs/cgroup" } else { "/sys/fs/cgroup/cpu" });
        // In a container the path may be one of the host, which is not there: its own root is looked at last.
        let mut relative = PathBuf::from(path.trim_start_matches('/'));
        loop {
            let folder = root.join(&relative);
            let quota = if is_v2 {
                read(&folder.join("cpu.max")).and_then(|text| parse_v2(&text))
            } else {
                let number = |name: &str| read(&folder.join(name))?.trim().parse::<i64>().ok();
                number("cpu.cfs_quota_us")
                    .zip(number("cpu.cfs_period_us"))
                    .and_then(|(quota, period)| processors(u64::try_from(quota).ok()?, u64::try_from(period).ok()?))
            };
            tightest = match (tightest, quota) {
                (Some(one), Some(other)) => Some(std::cmp::min::<usize>(one, other)),
                (one, other) => one.or(other),
            };
            if !relative.pop() {
                break;
            }
        }
    }
    tightest
}

/// `QUOTA PERIOD` in microseconds; `max` is none.
fn parse_v2(text: &str) -> Option<usize> {
    let (quota, period) = text.trim().split_once(' ')?;
    processors(quota.parse().ok()?, period.parse().ok()?)
}

fn processors(quota: u64, period: u64) -> Option<usize> {
    (quota > 0 && period > 0).then(|| quota.div_ceil(period) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quota_is_rounded_up_and_never_above_the_machine() {
        for (text, machine, cores) in [
            ("max 100000", 8, 8),
            ("150000 100000", 8, 2),
            ("200000 100000\n", 8, 2),
            ("10000 100000", 8, 1),
            ("1600000 100000", 8, 8),
            ("nonsense", 4, 4),
        ] {
            assert_eq!(within(machine, parse_v2(text)), cores, "{text}");
        }
    }

    #[test]
    fn the_tightest_group_above_counts() {
        let files = |path: &Path| {
            let text = match path.to_str()? {
                "/sys/fs/cgroup/pods/a/b/cpu.max" => "max 100000",
                "/sys/fs/cgroup/pods/a/cpu.max" => "250000 100000",
                "/sys/fs/cgroup/pods/cpu.max" => "800000 100000",
                "/sys/fs/cgroup/cpu/x/cpu.cfs_quota_us" => "50000",
                "/sys/fs/cgroup/cpu/x/cpu.cfs_period_us" => "100000",
                "/sys/fs/cgroup/cpu/cpu.cfs_quota_us" => "-1",
                "/sys/fs/cgroup/cpu/cpu.cfs_period_us" => "100000",
                _ => return None,
            };
            Some(text.to_owned())
        };
        assert_eq!(tightest("0::/pods/a/b\n", &files), Some(3));
        assert_eq!(tightest("0::/elsewhere\n", &files), None);
        assert_eq!(tightest("4:cpu,cpuacct:/x\n2:memory:/y\n", &files), Some(1));
    }
}
