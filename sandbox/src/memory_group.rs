//! This process's own control group: its memory limit, its count of out-of-memory kills, and its limit of
//! processes. The pool reads it when a worker was killed or could not be started; `jail` uses the same lookup
//! for its groups.

use std::fs;
use std::path::{Path, PathBuf};

/// Without a limit the kernel reports a number above the memory of any machine.
const NO_LIMIT: u64 = 1 << 60;

/// The control group of this process and its workers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryGroup {
    /// `None` if no group can be read: then the counts of the whole machine are used.
    folder: Option<PathBuf>,
}

impl MemoryGroup {
    /// Finds the group of this process.
    pub fn own() -> MemoryGroup {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        MemoryGroup::find(&read("/proc/self/mountinfo"), &read("/proc/self/cgroup"))
    }

    fn find(mounts: &str, own: &str) -> MemoryGroup {
        MemoryGroup { folder: folder(mounts, own, "memory").filter(|folder| kills_in(folder).is_some()) }
    }

    /// Number of its processes that the kernel has killed for lack of memory; `None` if the kernel does not
    /// report it.
    pub fn kills(&self) -> Option<u64> {
        match &self.folder {
            Some(folder) => kills_in(folder),
            None => field(&fs::read_to_string("/proc/vmstat").ok()?, "oom_kill"),
        }
    }

    /// Memory limit in bytes, if this group or an enclosing one has a limit.
    pub fn limit(&self) -> Option<u64> {
        let folder = self.folder.as_ref()?;
        if let Ok(text) = fs::read_to_string(folder.join("memory.stat"))
            && let Some(limit) = field(&text, "hierarchical_memory_limit")
        {
            return Some(limit).filter(|limit| *limit < NO_LIMIT);
        }
        let limits = folder.ancestors().map_while(|group| fs::read_to_string(group.join("memory.max")).ok());
        limits.filter_map(|text| text.trim().parse().ok()).min()
    }
}

/// Limit of processes and threads of this process's control group, if it or an enclosing one has a limit.
pub fn most_processes() -> Option<u64> {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let own = folder(&read("/proc/self/mountinfo"), &read("/proc/self/cgroup"), "pids")?;
    let limits = own.ancestors().map_while(|group| fs::read_to_string(group.join("pids.max")).ok());
    limits.filter_map(|text| text.trim().parse().ok()).min()
}

/// Finds the folder of the group for a controller, which belongs to one of the two versions.
fn folder(mounts: &str, own: &str, controller: &str) -> Option<PathBuf> {
    let of = |name: &str| {
        own.lines().find_map(|line| {
            let mut parts = line.splitn(3, ':');
            let (_, names, path) = (parts.next()?, parts.next()?, parts.next()?);
            names.split(',').any(|found| found == name).then(|| path.to_owned())
        })
    };
    let first = of(controller).and_then(|path| group_folder(mounts, "cgroup", controller, &path));
    first.or_else(|| group_folder(mounts, "cgroup2", "", &of("")?))
}

/// Reads the count of kills, from `memory.events` in version 2 and `memory.oom_control` in version 1.
fn kills_in(folder: &Path) -> Option<u64> {
    let files = ["memory.events", "memory.oom_control"];
    files.iter().find_map(|file| field(&fs::read_to_string(folder.join(file)).ok()?, "oom_kill"))
}

/// Returns the number in a line `name number`.
pub(crate) fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

/// Finds the folder of the group `path` beneath the hierarchy's mount, which may show only a part of the
/// hierarchy.
pub(crate) fn group_folder(mounts: &str, kind: &str, controller: &str, path: &str) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let mut fields = before.split(' ');
        let (root, point) = (fields.nth(3)?, fields.next()?);
        let mut fields = after.split(' ');
        let (found, options) = (fields.next()?, fields.nth(1)?);
        let fits =
            found == kind && (controller.is_empty() || options.split(',').any(|name| name == controller));
        if !fits {
            return None;
        }
        let inside = Path::new(path).strip_prefix(root).unwrap_or(Path::new(path).strip_prefix("/").ok()?);
        let own = Path::new(point).join(inside);
        Some(if own.is_dir() { own } else { point.into() })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_is_read_by_its_whole_name() {
        let events = "low 0\nhigh 3\nmax 17\noom 2\noom_kill 5\noom_group_kill 1\n";
        assert_eq!(field(events, "oom_kill"), Some(5));
        assert_eq!(field("oom_kill_disable 0\nunder_oom 0\noom_kill 7\n", "oom_kill"), Some(7));
        assert_eq!(field("oom_kill_disable 0\n", "oom_kill"), None);
    }

    #[test]
    fn without_a_group_the_machine_is_looked_at() {
        let group = MemoryGroup::find("", "");
        assert_eq!((group.folder.as_ref(), group.limit()), (None, None));
        assert!(group.kills().is_some());
    }
}
