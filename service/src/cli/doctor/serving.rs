//! Findings about jails on a machine that is to be a service. A machine that only maps needs no jails; the findings are
//! shown there as well.

use std::fs;
use std::os::unix::fs::MetadataExt;

use fastmap_sandbox::jail::{Jail, Limits};

use super::finding::{Finding, bad, fair, good};
use crate::agent::{JailLauncher, Launch};

/// What jails are made of, each for itself, and then whether one holds. `serve`: what is missing is an error.
pub(super) fn look(serve: bool) -> Vec<Finding> {
    let mut all = Vec::new();
    let mut whole = true;
    for (name, found) in Jail::survey() {
        whole &= found.is_ok();
        all.push(match found {
            Ok(found) => good(name, found),
            Err(refusal) if serve => {
                let advice =
                    "without it `fastmap serve` refuses to start (--insecure-no-sandbox: loopback, development)";
                bad(name, refusal.to_string(), advice)
            }
            Err(refusal) => {
                fair(name, refusal.to_string(), "only a service of your own needs it; maps do without")
            }
        });
    }
    if !serve {
        return all;
    }
    all.insert(
        0,
        match fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0) {
            true => good("user", "root: each worker gets a user of its own"),
            false => fair(
                "user",
                "not root: workers are the service's own user outside of their jails",
                "as root each gets its own; without, control groups must be handed over (systemd: Delegate=yes)",
            ),
        },
    );
    if whole {
        all.push(
            match JailLauncher::new(Limits::default().memory, Limits::default().memory)
                .and_then(|jails| jails.self_test())
            {
                Ok(()) => good("attack", "this program, in a jail, tried to get out and got nowhere"),
                Err(why) => bad("attack", why, "`fastmap serve` refuses to start; please report it"),
            },
        );
    }
    all
}
