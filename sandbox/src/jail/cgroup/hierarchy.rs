//! Finds the file systems of control groups, of either version, and reports missing controllers.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::memory_group::group_folder;

/// Leaf group into which a service moves itself under version 2, which allows processes in leaves only.
const SERVICE: &str = "fastmap-service";

/// Root folders in which groups can be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Trees {
    /// One tree.
    V2(PathBuf),
    /// A tree for each controller.
    V1 { memory: PathBuf, pids: PathBuf, cpu: PathBuf, cpuacct: PathBuf },
}

impl Trees {
    pub(super) fn roots(&self) -> Vec<&Path> {
        let mut roots: Vec<&Path> = match self {
            Trees::V2(root) => vec![root],
            Trees::V1 { memory, pids, cpu, cpuacct } => vec![memory, pids, cpu, cpuacct],
        };
        // Controllers may share a tree (`cpu,cpuacct`).
        roots.dedup();
        roots
    }
}

/// Finds the tree of version 2 and enables its controllers.
pub(super) fn v2(mounts: &str, own: &str) -> Result<Trees, String> {
    let path = own.lines().find_map(|line| line.strip_prefix("0::")).ok_or("cgroup v2 is not there")?;
    let mut root = group_folder(mounts, "cgroup2", "", path).ok_or("cgroup v2 is not mounted")?;
    if root.ends_with(SERVICE) {
        root.pop();
    }
    let wanted = ["memory", "pids", "cpu"];
    let missing = |file: &str| -> Vec<&str> {
        let there = fs::read_to_string(root.join(file)).unwrap_or_default();
        wanted.into_iter().filter(|name| !there.split_whitespace().any(|word| word == *name)).collect()
    };
    let lacks = missing("cgroup.controllers");
    if !lacks.is_empty() {
        return Err(format!(
            "cgroup v2 lacks the controllers {} in {} (under systemd: Delegate=yes)",
            lacks.join(", "),
            root.display()
        ));
    }
    if !missing("cgroup.subtree_control").is_empty() {
        let leave = || -> io::Result<()> {
            if fs::write(root.join("cgroup.subtree_control"), "+memory +pids +cpu").is_ok() {
                return Ok(());
            }
            // Version 2 allows no processes in a group with child groups: move to a leaf, as container
            // managers do.
            let leaf = root.join(SERVICE);
            fs::create_dir_all(&leaf)?;
            for process in fs::read_to_string(root.join("cgroup.procs"))?.lines() {
                fs::write(leaf.join("cgroup.procs"), process)?;
            }
            fs::write(root.join("cgroup.subtree_control"), "+memory +pids +cpu")
        };
        leave().map_err(|error| {
            format!(
                "cgroup v2 does not hand its controllers to {} ({error}; under systemd: Delegate=yes)",
                root.display()
            )
        })?;
    }
    Ok(Trees::V2(root))
}

/// Finds the four trees of version 1.
pub(super) fn v1(mounts: &str, own: &str) -> Result<Trees, String> {
    let find = |controller: &str| {
        let path = own.lines().find_map(|line| {
            let mut parts = line.splitn(3, ':');
            let (_, names, path) = (parts.next()?, parts.next()?, parts.next()?);
            names.split(',').any(|name| name == controller).then_some(path)
        });
        path.and_then(|path| group_folder(mounts, "cgroup", controller, path))
            .ok_or_else(|| format!("cgroup v1 lacks the controller {controller}"))
    };
    Ok(Trees::V1 {
        memory: find("memory")?,
        pids: find("pids")?,
        cpu: find("cpu")?,
        cpuacct: find("cpuacct")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
35 25 0:30 / /sys/fs/cgroup ro - tmpfs tmpfs ro
36 35 0:31 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
37 35 0:32 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
38 35 0:33 /docker/1 /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
39 35 0:34 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids";

    #[test]
    fn each_controller_is_found_where_it_is_mounted() {
        let own = "4:memory:/docker/1\n3:cpu,cpuacct:/\n2:pids:/\n0::/";
        let found = v1(MOUNTS, own).expect("all four are there");
        let at = |name: &str| PathBuf::from(format!("/sys/fs/cgroup/{name}"));
        assert_eq!(
            found,
            Trees::V1 {
                memory: at("memory"),
                pids: at("pids"),
                cpu: at("cpu,cpuacct"),
                cpuacct: at("cpu,cpuacct")
            }
        );
        assert_eq!(found.roots().len(), 3);
        assert!(v1(MOUNTS, "2:pids:/").expect_err("no memory").contains("memory"));
    }

    #[test]
    fn a_machine_with_neither_version_is_told_what_is_lacking() {
        assert!(v2("", "0::/").expect_err("nothing is mounted").contains("not mounted"));
        assert!(v2("", "1:name=systemd:/").expect_err("no version 2").contains("not there"));
    }
}
