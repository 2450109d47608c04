//! Switches of the system that forbid user namespaces, by name. Whether a jail can be made is tried, never read here: a
//! switch only explains a failure, because the kernel's error is the same for each of them.

use std::fs;
use std::path::Path;

/// A switch below `/proc/sys`, the value that forbids, and whether it forbids them to root as well.
const SWITCHES: [(&str, &str, bool); 3] = [
    ("user/max_user_namespaces", "0", true),
    // Debian's kernels.
    ("kernel/unprivileged_userns_clone", "0", false),
    // Ubuntu's kernels, from 23.10: a namespace is made, and gives no rights.
    ("kernel/apparmor_restrict_unprivileged_userns", "1", false),
];

/// A probable reason why user namespaces are refused, and the remedy. `system` is `/proc/sys`.
pub(crate) fn explain(system: &Path, root: bool) -> String {
    let forbids = |name: &str, value: &str| {
        fs::read_to_string(system.join(name)).is_ok_and(|found| found.trim() == value)
    };
    let forbidding: Vec<String> = SWITCHES
        .iter()
        .filter(|(name, value, of_root)| (*of_root || !root) && forbids(name, value))
        .map(|(name, value, _)| format!("{}={value}", name.replace('/', ".")))
        .collect();
    if forbidding.is_empty() {
        return "are user namespaces allowed? A container's profile, AppArmor and RestrictNamespaces= of systemd can \
                refuse them"
            .to_owned();
    }
    format!(
        "user namespaces are forbidden by {}: change it by sysctl{}",
        forbidding.join(" and "),
        if forbidding.iter().any(|switch| switch.contains("apparmor")) {
            ", or give bwrap an AppArmor profile with `userns,`"
        } else {
            ""
        }
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn switches_that_forbid_are_named_and_those_of_other_users_are_not_told_to_root() {
        let folder = tempfile::tempdir().expect("a folder");
        let set = |name: &str, value: &str| {
            let file = folder.path().join(name);
            fs::create_dir_all(file.parent().expect("it is in a folder")).expect("room");
            fs::write(file, format!("{value}\n")).expect("room");
        };
        assert!(explain(folder.path(), false).starts_with("are user namespaces allowed?"));
        set("user/max_user_namespaces", "95592");
        set("kernel/unprivileged_userns_clone", "1");
        set("kernel/apparmor_restrict_unprivileged_userns", "0");
        assert!(explain(folder.path(), false).starts_with("are user namespaces allowed?"));
        set("kernel/apparmor_restrict_unprivileged_userns", "1");
        let text = explain(folder.path(), false);
        assert!(
            text.contains("kernel.apparmor_restrict_unprivileged_userns=1") && text.contains("`userns,`"),
            "{text}"
        );
        assert!(explain(folder.path(), true).starts_with("are user namespaces allowed?"));
        set("kernel/apparmor_restrict_unprivileged_userns", "0");
        set("kernel/unprivileged_userns_clone", "0");
        set("user/max_user_namespaces", "0");
        let both = "user.max_user_namespaces=0 and kernel.unprivileged_userns_clone=0";
        assert!(explain(folder.path(), false).contains(both));
        assert!(explain(folder.path(), true).contains("by user.max_user_namespaces=0:"));
    }
}
