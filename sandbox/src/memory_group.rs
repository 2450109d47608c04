//! What the kernel tells of this process's own control group: the limit of its memory, how many of its processes
//! were killed because there was none left, and how many processes it may have. Asked by the pool when a worker was
//! killed or could not be started; `jail` finds its groups in the same way.

use std::fs;
use std::path::{Path, PathBuf};

/// A kernel without a limit says a number that no machine has.
const NO_LIMIT: u64 = 1 << 60;

/// The control group that this process is in, and that its workers are born into.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryGroup {
    /// `None` where no group can be read: then the whole machine is looked at.
    folder: Option<PathBuf>,
}

impl MemoryGroup {
    /// Of this process.
    pub fn own() -> MemoryGroup {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        MemoryGroup::find(&read("/proc/self/mountinfo"), &read("/proc/self/cgroup"))
    }

    fn find(mounts: &str, own: &str) -> MemoryGroup {
        MemoryGroup { folder: folder(mounts, own, "memory").filter(|folder| kills_in(folder).is_some()) }
    }

    /// How many of its processes the kernel has killed for want of memory; `None` where it does not tell.
    pub fn kills(&self) -> Option<u64> {
        match &self.folder {
            Some(folder) => kills_in(folder),
            None => field(&fs::read_to_string("/proc/vmstat").ok()?, "oom_kill"),
        }
    }

    /// Bytes that it may hold, if that is limited: by itself or by a group that it is in.
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

/// How many processes and threads this process's control group may have, if that is limited: by itself or by a group
/// that it is in.
pub fn most_processes() -> Option<u64> {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let own = folder(&read("/proc/self/mountinfo"), &read("/proc/self/cgroup"), "pids")?;
    let limits = own.ancestors().map_while(|group| fs::read_to_string(group.join("pids.max")).ok());
    limits.filter_map(|text| text.trim().parse().ok()).min()
}

/// The folder of the group for a controller, which is in one of the two versions.
fn folder(mounts: &str, own: &str, controller: &str) -> Option<PathBuf> {
    let of = |name: &str| {
        own.lines().find_map(|line| {
            let mut parts = line.splitn(3, ':');
            let (_, names, path) = (parts.next()?, parts.next()?, parts.next()?);
            names.split(',').any(|found| found == name).then(|| path.to_owned())
        })
    };
    let first = of(controller).and_then(|path| place(mounts, "cgroup", controller, &path));
    first.or_else(|| place(mounts, "cgroup2", "", &of("")?))
}

/// Version 2 has `memory.events`, version 1 the same count elsewhere.
fn kills_in(folder: &Path) -> Option<u64> {
    let files = ["memory.events", "memory.oom_control"];
    files.iter().find_map(|file| field(&fs::read_to_string(folder.join(file)).ok()?, "oom_kill"))
}

/// The number of a line `name number`.
pub(crate) fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

/// Where the group `path` of a hierarchy is to be found: beneath its mount, which may show a part of it only.
pub(crate) fn place(mounts: &str, kind: &str, controller: &str, path: &str) -> Option<PathBuf> {
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
