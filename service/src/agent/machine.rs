//! Description of an agent's machine, in words for the operator's page.

use std::fs;

fn read(path: &str) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

/// The machine's name, as a token of a subject.
pub fn host() -> String {
    let name = read("/proc/sys/kernel/hostname").unwrap_or_default();
    let plain = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '-' | '_') { c } else { '-' };
    let name: String = name.chars().map(plain).collect();
    if name.is_empty() { "agent".to_owned() } else { name }
}

/// Processors, memory, kernel, and what confines its workers.
pub fn describe(jail: &str) -> String {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let processors = read("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| {
        let line = processors.lines().find(|line| line.starts_with(name))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    // Arm's kernels name parts by number alone.
    let kind = field("model name").or_else(|| field("CPU part").map(|part| format!("part {part}")));
    let kind = kind.unwrap_or_else(|| std::env::consts::ARCH.to_owned());
    let memory = read("/proc/meminfo").unwrap_or_default();
    let memory = memory.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let memory = memory.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0);
    let kernel = read("/proc/sys/kernel/osrelease").unwrap_or_else(|| "unknown".to_owned());
    format!("{cores} x {kind}, {} GiB, Linux {kernel}, {jail}", memory >> 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_has_a_name_and_processors() {
        assert!(host().bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_')));
        let described = describe("no jail");
        assert!(described.contains(" x ") && described.ends_with("no jail"), "{described}");
    }
}
