//! Where and when something was measured.

use std::fs;
use std::process::Command;

/// One line: date, processor, cores, memory, commit.
pub(crate) fn describe() -> String {
    let file = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let field = |text: &str, name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name).map(str::to_owned));
        line.map(|rest| rest.trim_start_matches([':', ' ', '\t']).trim().to_owned())
    };
    let processor =
        field(&file("/proc/cpuinfo"), "model name").unwrap_or_else(|| "unknown processor".to_owned());
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let memory = field(&file("/proc/meminfo"), "MemTotal")
        .and_then(|text| text.strip_suffix(" kB")?.parse::<u64>().ok())
        .map_or_else(String::new, |kib| format!(", {} GiB", kib >> 20));
    let said = |program: &str, arguments: &[&str]| {
        let output =
            Command::new(program).args(arguments).output().ok().filter(|output| output.status.success())?;
        Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let date = said("date", &["-u", "+%Y-%m-%d"]).unwrap_or_else(|| "unknown date".to_owned());
    let commit =
        said("git", &["log", "-1", "--format=%h \"%s\""]).unwrap_or_else(|| "unknown commit".to_owned());
    let changed = said("git", &["status", "--porcelain", "--untracked-files=no"])
        .is_some_and(|changes| !changes.is_empty());
    let changed = if changed { " with changes" } else { "" };
    let gpu = said("nvidia-smi", &["--query-gpu=name", "--format=csv,noheader"]);
    let gpu = gpu.map_or_else(String::new, |gpu| format!(", {gpu}"));
    format!("{date}, {processor}, {cores} cores{memory}{gpu}, commit {commit}{changed}")
}
