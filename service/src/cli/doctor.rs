//! `fastmap doctor`: what this machine offers for jails and what the service would refuse, each with what to do; and
//! whether the service that the environment names takes the secret there.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use anyhow::{Context, bail};
use fastmap_backends::cloud::{Secret, ServiceUrl, check};
use fastmap_sandbox::jail::{Jail, Limits};
use serde::Serialize;
use serde_json::json;

use super::args::Doctor;
use super::output;
use crate::agent::{InJails, Launch};
use crate::price;

/// What was looked at.
#[derive(Debug, Serialize)]
struct Finding {
    /// Its name, as it stays.
    name: &'static str,
    /// Whether the service (or the client) can do with it.
    good: bool,
    /// What was found.
    found: String,
    /// What to do, where it is not good or could be better.
    #[serde(skip_serializing_if = "Option::is_none")]
    advice: Option<String>,
}

fn good(name: &'static str, found: impl Into<String>) -> Finding {
    Finding { name, good: true, found: found.into(), advice: None }
}

fn bad(name: &'static str, found: impl Into<String>, advice: &str) -> Finding {
    Finding { name, good: false, found: found.into(), advice: Some(advice.to_owned()) }
}

/// Something that works, and could be better.
fn fair(name: &'static str, found: impl Into<String>, advice: &str) -> Finding {
    Finding { advice: Some(advice.to_owned()), ..good(name, found) }
}

pub(crate) fn doctor(command: &Doctor) -> anyhow::Result<()> {
    let mut all = machine();
    all.extend(jails());
    all.extend(service());
    let wrong = all.iter().filter(|finding| !finding.good).count();
    let line = |finding: &Finding| {
        let mark = if finding.good { "ok" } else { "no" };
        let advice =
            finding.advice.as_ref().map(|advice| format!("\n{:21}-> {advice}", "")).unwrap_or_default();
        format!("{mark}  {:16} {}{advice}", finding.name, finding.found)
    };
    let text: Vec<String> = all.iter().map(line).collect();
    output::object(command.json, &json!({ "good": wrong == 0, "findings": all }), &text.join("\n"))?;
    match wrong {
        0 => Ok(()),
        _ => bail!("{wrong} of {} are not as they should be", all.len()),
    }
}

fn read(path: &str) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

/// What any machine has, more or less of it.
fn machine() -> Vec<Finding> {
    let kernel = read("/proc/sys/kernel/osrelease").unwrap_or_else(|| "unknown".to_owned());
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let mut all = vec![
        good("kernel", format!("Linux {kernel}, {}", std::env::consts::ARCH)),
        good("cores", format!("{cores}: so many workers for each run, unless --workers says otherwise")),
        temporary_folder(),
        open_files(),
    ];
    for lack in fastmap_sandbox::lacking() {
        let name = match lack.layer {
            fastmap_sandbox::Layer::Landlock => "landlock",
            fastmap_sandbox::Layer::Seccomp => "seccomp filters",
        };
        let advice = "local workers do without it, and say so; sandbox = Require would be an error";
        all.push(fair(name, format!("not on this kernel: {}", lack.why), advice));
    }
    if let Some(abi) = fastmap_sandbox::landlock_abi() {
        all.push(good("landlock", format!("ABI {abi}")));
    }
    all
}

/// Runs' programs are laid out there, to be started.
fn temporary_folder() -> Finding {
    let path = std::env::temp_dir();
    let shown = path.display().to_string();
    let tried = || -> std::io::Result<bool> {
        let folder = tempfile::tempdir()?;
        let script = folder.path().join("try");
        fs::write(&script, "#!/bin/sh\nexit 0\n")?;
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
        Ok(Command::new(&script).status()?.success())
    };
    match tried() {
        Ok(true) => good("temporary folder", shown),
        Ok(false) => bad("temporary folder", format!("{shown}: a program there fails"), "set TMPDIR"),
        Err(error) => {
            let advice = "set TMPDIR to a folder that can be written to and is not mounted noexec";
            bad("temporary folder", format!("{shown}: {error}"), advice)
        }
    }
}

fn open_files() -> Finding {
    let limits = read("/proc/self/limits").unwrap_or_default();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files")).unwrap_or_default();
    let most = line.split_whitespace().next().unwrap_or("unknown");
    let found = format!("at most {most} at a time");
    match most.parse::<u64>() {
        Ok(most) if most < 4096 => {
            fair("open files", found, "for many clients: ulimit -n 65536 (LimitNOFILE=)")
        }
        _ => good("open files", found),
    }
}

/// What jails are made of, each for itself, and then whether one holds.
fn jails() -> Vec<Finding> {
    let root = nix_root();
    let user = if root {
        good("user", "root: each worker gets a user of its own")
    } else {
        fair(
            "user",
            "not root: workers are the service's own user outside of their jails",
            "as root each gets its own; without, control groups must be handed over (systemd: Delegate=yes)",
        )
    };
    let mut all = vec![user];
    for (name, found) in Jail::survey() {
        all.push(match found {
            Ok(found) => good(name, found),
            Err(refusal) => {
                let advice = "without it `fastmap serve` refuses to start (--insecure-no-sandbox: loopback, development)";
                bad(name, refusal.to_string(), advice)
            }
        });
    }
    if all.iter().all(|finding| finding.good) {
        all.push(match InJails::new(Limits::default().memory).and_then(|jails| jails.self_test()) {
            Ok(()) => good("attack", "this program, in a jail, tried to get out and got nowhere"),
            Err(why) => bad("attack", why, "`fastmap serve` refuses to start; please report it"),
        });
    }
    all
}

fn nix_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}

/// Whether the service that the environment names takes the secret there.
fn service() -> Vec<Finding> {
    let (url, secret) = (std::env::var("FASTMAP_CLOUD_URL"), std::env::var("FASTMAP_SECRET"));
    let Ok(url) = url else {
        return vec![good("service", "none is named (FASTMAP_CLOUD_URL): maps run on this machine")];
    };
    let Ok(secret) = secret else {
        let advice = "export the secret that `fastmap token create` has shown";
        return vec![bad("service", format!("{url}, and no FASTMAP_SECRET"), advice)];
    };
    let asked = || -> anyhow::Result<_> {
        let url: ServiceUrl = url.parse()?;
        let secret: Secret = secret.trim().parse().context("FASTMAP_SECRET")?;
        Ok(check(&url, &secret)?)
    };
    let reached = match asked() {
        Ok(reached) => reached,
        Err(error) => {
            let advice = "look at FASTMAP_CLOUD_URL and FASTMAP_SECRET, and whether the service runs";
            return vec![bad("service", format!("{error:#}"), advice)];
        }
    };
    let auth = reached.auth;
    let own = env!("CARGO_PKG_VERSION");
    let ms = reached.took.as_secs_f64() * 1000.0;
    let mut all = vec![
        good("service", format!("{url}, version {} (here {own}), answers in {ms:.0} ms", auth.server)),
        match auth.available > 0 {
            true => good(
                "credits",
                format!(
                    "account {}: {}, of which {} are free",
                    auth.account,
                    price::show(auth.balance),
                    price::show(auth.available)
                ),
            ),
            false => bad("credits", format!("account {} has none left", auth.account), "fastmap credits add"),
        },
    ];
    let off = reached.ahead.abs();
    let clock = format!("the service's is {} s {}", off, if reached.ahead < 0 { "behind" } else { "ahead" });
    all.push(match off {
        0..=5 => good("clock", "the same as the service's"),
        6..=240 => fair("clock", clock, "at 300 s requests are refused: set the clock by NTP"),
        _ => bad("clock", clock, "at 300 s requests are refused: set the clock by NTP"),
    });
    all
}
