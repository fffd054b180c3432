//! How much memory this process has and had.

use std::fs;

/// Bytes that are resident now, and the most that ever were; `None` where `/proc` does not tell.
pub(crate) fn resident() -> Option<[u64; 2]> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib << 10)
    };
    Some([field("VmRSS:")?, field("VmHWM:")?])
}
