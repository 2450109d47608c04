//! Bubblewrap's arguments for a jail's root. Beside the program and its socket, the root has the loader, the
//! libraries and their data, harmless devices, the link `/proc/self/exe`, and an empty `/tmp` and `/dev/shm`.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use super::Executable;
use crate::jail::spec::PROGRAM;
use crate::readable_files;

/// Folders that are links into `/usr` on most systems.
const LINKS: [&str; 2] = ["/lib", "/lib64"];

/// Returns the arguments for a jail of this executable. `zone` is the local time zone. `memory` is the memory
/// limit of its processes; each of the two writable folders may hold half of it, because the kernel charges
/// their files to the group.
pub(super) fn arguments(executable: &Executable, zone: Option<&str>, memory: u64) -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> = Vec::new();
    let mut add = |option: &str, arguments: [&Path; 2]| {
        all.push(option.into());
        all.extend(arguments.map(Path::to_owned));
    };
    for device in readable_files::DEVICES {
        add("--dev-bind", [device.as_ref(), device.as_ref()]);
    }
    for link in LINKS {
        if let Ok(target) = fs::read_link(link) {
            // bubblewrap would resolve an absolute target in the machine's root.
            add("--symlink", [target.strip_prefix("/").unwrap_or(&target), link.as_ref()]);
        }
    }
    let shown: Vec<PathBuf> = readable_files::readable().into_iter().filter(|path| path.exists()).collect();
    for path in &shown {
        add("--ro-bind-try", [path, path]);
    }
    for file in
        executable.files().iter().filter_map(|file| outside_shown(file, &shown)).collect::<BTreeSet<_>>()
    {
        add("--ro-bind", [&file, &file]);
    }
    add("--symlink", [PROGRAM.as_ref(), "/proc/self/exe".as_ref()]);
    if let Some(zone) = zone.filter(|zone| readable_files::is_zone(zone)) {
        let file = Path::new("/usr/share/zoneinfo").join(zone);
        add("--symlink", [&file, "/etc/localtime".as_ref()]);
    }
    add("--symlink", ["/tmp".as_ref(), "/var/tmp".as_ref()]);
    let size = (memory / 2).max(1).to_string();
    for folder in ["/tmp", "/dev/shm"] {
        let words = ["--perms", "1777", "--size", &size, "--tmpfs", folder];
        all.extend(words.map(PathBuf::from));
    }
    all
}

/// Returns the path at which a library must be bound, or `None` if it is in one of the `shown` folders. Links
/// in such a folder may lead out of it.
fn outside_shown(file: &Path, shown: &[PathBuf]) -> Option<PathBuf> {
    let mut path = real_folder(file);
    // The kernel's own limit of links in a path.
    for _ in 0..40 {
        if !shown.iter().any(|folder| path.starts_with(folder)) {
            return Some(path);
        }
        let target = fs::read_link(&path).ok()?;
        path = real_folder(&path.parent()?.join(target));
    }
    None
}

/// Resolves the links in the folder's path, but not the file itself.
fn real_folder(path: &Path) -> PathBuf {
    let folder = path.parent().and_then(|folder| fs::canonicalize(folder).ok());
    folder.map_or_else(|| path.to_owned(), |folder| folder.join(path.file_name().unwrap_or(OsStr::new(""))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_library_is_put_where_links_of_the_shown_folders_lead() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| fs::canonicalize(folder.path()).expect("it is there").join(name);
        for name in ["shown", "beside"] {
            fs::create_dir(at(name)).expect("a new folder");
            fs::write(at(name).join("real"), "").expect("a new file");
        }
        let link = |target: &str, name: &str| {
            std::os::unix::fs::symlink(target, at("shown").join(name)).expect("a new link");
        };
        link("real", "inside");
        link("outside", "two");
        link("../beside/real", "outside");
        let shown = [at("shown")];
        assert_eq!(outside_shown(&at("shown/real"), &shown), None);
        assert_eq!(outside_shown(&at("shown/inside"), &shown), None);
        assert_eq!(outside_shown(&at("shown/two"), &shown), Some(at("beside/real")));
        assert_eq!(outside_shown(&at("beside/real"), &shown), Some(at("beside/real")));
    }
}
