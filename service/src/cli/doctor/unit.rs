//! The systemd unit that this process is in, and what becomes of all of it when the kernel kills one of its processes
//! because there is no memory left (`OOMPolicy=`).

use std::fs;
use std::process::{Command, Stdio};

use super::finding::{Finding, fair, good};

const NAME: &str = "systemd";
const ADVICE: &str =
    "OOMPolicy=continue in the unit: then a worker that has no memory left costs its item alone";

/// `None` where no unit is to be seen, or systemd does not show its policy: a container, an old systemd's scope, control
/// groups of version 1, whose deaths systemd does not count.
pub(super) fn look() -> Option<Finding> {
    let unit = Unit::of(&fs::read_to_string("/proc/self/cgroup").ok()?)?;
    let mut command = Command::new("systemctl");
    if unit.of_a_user {
        command.arg("--user");
    }
    let command = command.args(["show", "--property=OOMPolicy", "--value", "--", &unit.name]);
    let output = command.stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    finding(&unit.name, String::from_utf8_lossy(&output.stdout).trim())
}

fn finding(unit: &str, policy: &str) -> Option<Finding> {
    let found = format!("{unit}, OOMPolicy={policy}");
    let ends = |how: &str| {
        let found = format!("{found}: where the kernel kills a worker for want of memory, {how}");
        fair(NAME, found, ADVICE)
    };
    match policy {
        "continue" => Some(good(NAME, found)),
        "stop" => Some(ends("systemd stops all of the unit")),
        "kill" => Some(ends("it kills all of the unit")),
        _ => None,
    }
}

/// A service or scope.
#[derive(Debug, PartialEq, Eq)]
struct Unit {
    name: String,
    /// Of the manager of a user, which answers for its own units.
    of_a_user: bool,
}

impl Unit {
    /// Of a process, by its `/proc/PID/cgroup`.
    fn of(groups: &str) -> Option<Unit> {
        let lines = groups.lines().filter_map(|line| line.split_once(':')?.1.split_once(':'));
        // Under version 1 memory is another tree's.
        if lines.clone().any(|(controllers, _)| controllers.split(',').any(|name| name == "memory")) {
            return None;
        }
        let (_, path) = lines.clone().find(|(controllers, _)| controllers.is_empty())?;
        let is_unit = |name: &&str| [".service", ".scope"].iter().any(|kind| name.ends_with(kind));
        let mut units = path.split('/').filter(is_unit);
        let first = units.next()?;
        let inner = units.next().filter(|_| first.starts_with("user@"));
        Some(Unit { name: inner.unwrap_or(first).to_owned(), of_a_user: inner.is_some() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unit_of_a_process_is_the_one_that_its_manager_knows() {
        let unit = |path: &str| Unit::of(&format!("0::{path}\n")).map(|unit| (unit.name, unit.of_a_user));
        let named = |name: &str, of_a_user| Some((name.to_owned(), of_a_user));
        assert_eq!(unit("/system.slice/fastmap-gateway.service"), named("fastmap-gateway.service", false));
        // Where a service has moved itself.
        assert_eq!(unit("/system.slice/a.service/fastmap-service"), named("a.service", false));
        assert_eq!(unit("/user.slice/user-0.slice/session-3.scope"), named("session-3.scope", false));
        let of_a_user = "/user.slice/user-1000.slice/user@1000.service/app.slice/run-u7.service";
        assert_eq!(unit(of_a_user), named("run-u7.service", true));
        assert_eq!(unit("/"), None);
        assert_eq!(Unit::of("4:memory:/system.slice/a.service\n0::/system.slice/a.service\n"), None);
        assert_eq!(Unit::of(""), None);
    }

    #[test]
    fn a_policy_that_ends_the_unit_is_told_with_what_to_set() {
        let found = |policy: &str| finding("a.service", policy);
        assert!(found("continue").expect("it is known").advice.is_none());
        for (policy, words) in [("stop", "systemd stops all of"), ("kill", "kills all of")] {
            let found = found(policy).expect("it is known");
            assert!(found.good && found.found.contains(words), "{found:?}");
            assert!(found.advice.is_some_and(|advice| advice.contains("OOMPolicy=continue")));
        }
        assert!(found("").is_none(), "a scope of a systemd that has no such policy");
    }
}
