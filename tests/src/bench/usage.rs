//! What a process uses, as the kernel counts it.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result};

/// CPU time of a process so far, all threads together.
///
/// Taken from the scheduler's nanosecond counters: the ticks of `/proc/PID/stat` are 10 ms, and a thread
/// that runs briefly between two ticks is charged by chance. A thread that has ended is not in the sum, so
/// this is for processes that keep theirs.
pub(crate) fn cpu(pid: u32) -> Result<Duration> {
    let threads = fs::read_dir(format!("/proc/{pid}/task"))
        .with_context(|| format!("process {pid} is gone"))?;
    let mut nanoseconds = 0;
    for thread in threads {
        let path = thread?.path().join("schedstat");
        if let Some(on_cpu) = first_number(&path)? {
            nanoseconds += on_cpu;
        }
    }
    Ok(Duration::from_nanos(nanoseconds))
}

/// Resident memory of a process in megabytes (10⁶ bytes).
pub(crate) fn resident_megabytes(pid: u32) -> Result<f64> {
    let path = PathBuf::from(format!("/proc/{pid}/status"));
    let status = fs::read_to_string(&path).with_context(|| format!("process {pid} is gone"))?;
    let kibibytes: u32 = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .and_then(|rest| rest.split_ascii_whitespace().next())
        .and_then(|number| number.parse().ok())
        .with_context(|| format!("no VmRSS in {}", path.display()))?;
    Ok(f64::from(kibibytes) * 1024.0 / 1e6)
}

/// Time of all processors so far, in ticks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Machine {
    all: u64,
    /// In which something here wanted to run, and the hypervisor ran others.
    stolen: u64,
}

impl Machine {
    /// The share of the time since `before` that was stolen.
    pub(crate) fn stolen_since(self, before: Self) -> f64 {
        let all = self.all.saturating_sub(before.all).max(1);
        self.stolen.saturating_sub(before.stolen) as f64 / all as f64
    }
}

/// How the processors have spent their time.
///
/// Spec: `proc_stat(5)`: user, nice, system, idle, iowait, irq, softirq, steal; guests are counted as users.
pub(crate) fn machine() -> Result<Machine> {
    let stat = fs::read_to_string("/proc/stat").context("cannot read /proc/stat")?;
    parse_machine(&stat).context("no processor times in /proc/stat")
}

fn parse_machine(stat: &str) -> Option<Machine> {
    let words = stat
        .strip_prefix("cpu ")?
        .lines()
        .next()?
        .split_whitespace();
    let ticks: Vec<u64> = words
        .take(8)
        .map(str::parse)
        .collect::<Result<_, _>>()
        .ok()?;
    Some(Machine {
        all: ticks.iter().sum(),
        stolen: *ticks.get(7)?,
    })
}

/// The first number in a file, or nothing if a thread ended while its directory was being read.
fn first_number(path: &Path) -> Result<Option<u64>> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if is_gone(&error) => return Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display()))?,
    };
    let number = text.split_ascii_whitespace().next();
    let number = number.and_then(|number| number.parse().ok());
    number
        .map(Some)
        .with_context(|| format!("no number in {}", path.display()))
}

fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
        || error.raw_os_error() == Some(nix::errno::Errno::ESRCH as i32)
}

#[cfg(test)]
mod tests {
    use std::hint::black_box;

    use super::*;

    #[test]
    fn stolen_time_is_a_share_of_all_time() {
        let before = parse_machine("cpu  10 0 10 10 0 0 0 10 99 99\ncpu0 1 2 3 4\n").unwrap();
        let after = parse_machine("cpu  20 0 20 90 0 0 10 20 99 99\n").unwrap();
        let share = after.stolen_since(before);
        assert!((share - 10.0 / 120.0).abs() < 1e-9, "{share}");
        assert!(after.stolen_since(after) < f64::EPSILON);
        for malformed in ["", "cpu", "cpu  1 2 3", "cpu  1 2 3 4 5 6 7 x", "intr 1"] {
            assert_eq!(parse_machine(malformed), None, "{malformed}");
        }
        machine().unwrap();
    }

    #[test]
    fn cpu_time_grows_with_work_and_memory_is_plausible() {
        let own = std::process::id();
        let before = cpu(own).unwrap();
        black_box((0..20_000_000u64).fold(0, |sum, n| black_box(sum ^ n)));
        let after = cpu(own).unwrap();
        assert!(after > before, "{before:?} {after:?}");
        assert!((0.5..10_000.0).contains(&resident_megabytes(own).unwrap()));
    }

    #[test]
    fn a_process_that_does_not_exist_is_an_error() {
        assert!(cpu(u32::MAX).is_err());
        assert!(resident_megabytes(u32::MAX).is_err());
    }
}
