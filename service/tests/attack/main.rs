//! The attack suite: eight hostile accounts and strangers attack a service of the suite's own, on loopback, while an honest
//! tenant works. `attacks` holds one attack for each kind of harm that was seen, `honest` measures the tenant, `service`
//! reads from the kernel what the service and its jails use. The short form runs with the other tests; `scripts/attack` runs
//! the long one, whose bounds on the honest tenant's speed hold on a machine that does nothing else.

#[allow(dead_code, reason = "shared with the service's other tests")]
#[path = "../service/client.rs"]
mod client;
#[allow(dead_code, reason = "shared with the service's other tests")]
#[path = "../service/server.rs"]
mod server;

mod attacks;
mod honest;
mod service;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use attacks::{ATTACKS, Hostile};
use honest::Honest;
use service::{Billed, Group, Sample};

use crate::server::{Server, until};

/// Hostile accounts.
const ACCOUNTS: usize = 8;
/// What each of them has: enough for hours of work.
const CREDITS: &str = "100000";
/// What the service may hold above its memory when idle.
const MEMORY: u64 = 512 << 20;
/// CPU time of a run that the service does not bill (docs/security.md).
const FREE: Duration = Duration::from_secs(1);

/// The tests of this file measure a machine's load: one at a time.
static ALONE: Mutex<()> = Mutex::new(());

/// A number from the environment: how `scripts/attack` asks for the long form.
fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// A service with jails, where CPU time costs a credit per second and answers cost nothing: what an account has spent is
/// then the CPU time that it was billed.
fn serve(folder: &std::path::Path) -> Server {
    let options = [
        "--workers",
        "2",
        "--price-cpu-hour",
        "3600",
        "--price-result-gb",
        "0",
        "--worker-memory",
        "134217728",
        "--long-poll",
        "5",
        "--lease",
        "10",
        "--batch-cpu",
        "10",
        "--keep-results",
        "5",
        "--log",
        "error",
    ];
    Server::start_jailed_with(&options, &[("TMPDIR", folder.to_owned())])
}

fn hostile_accounts(server: &Server) -> Vec<Hostile> {
    (0..ACCOUNTS).map(|number| Hostile::new(server.tenant(&format!("hostile-{number}"), CREDITS))).collect()
}

/// Runs all attacks until `during` returns: each account's share of them, and those that need no account.
fn under_attack<T>(accounts: &[Hostile], during: impl FnOnce() -> T) -> T {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for (number, attack) in ATTACKS.iter().enumerate() {
            let (hostile, stop) = (&accounts[number % accounts.len()], &stop);
            scope.spawn(move || {
                attacks::yield_to_others();
                while !stop.load(Ordering::Relaxed) {
                    (attack.run)(hostile, stop);
                    attacks::pause(stop, Duration::from_millis(20));
                }
            });
        }
        let value = during();
        stop.store(true, Ordering::Relaxed);
        value
    })
}

#[test]
fn an_honest_tenant_works_on_beside_all_attacks_at_once() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let seconds = number("FASTMAP_ATTACK_SECONDS", 10);
    let long = seconds >= 60;
    let window = Duration::from_secs(if long { 20 } else { 3 });
    let folder = service::temporary_folder();
    let group = Group::new();
    let server = serve(folder.path());
    group.take(server.pid());
    let accounts = hostile_accounts(&server);
    let honest = Honest::new(server.tenant("honest", CREDITS));
    let alone = honest.work(window);
    let idle = Sample::of(server.pid(), server.data(), folder.path());
    println!("alone: {alone}\n{idle}");
    let (beside, most) = under_attack(&accounts, || {
        // The attacks have begun when the first runs are open.
        let most = service::watch(server.pid());
        let beside = honest.work(Duration::from_secs(seconds));
        (beside, most.stop())
    });
    println!(
        "beside all attacks, {seconds} s: {beside}\nmost memory: {} MB above idle",
        most.saturating_sub(idle.memory) >> 20
    );
    let ended = Instant::now();
    for hostile in &accounts {
        hostile.end_all_runs();
    }
    let after = until_level(&server, folder.path(), &idle);
    println!("{after}\nback at the level before after {:.1} s", ended.elapsed().as_secs_f64());
    let alone_again = honest.work(window);
    println!("alone again: {alone_again}");
    for hostile in &accounts {
        hostile.end_all_runs();
    }
    until("no worker is left", || (group.jailed(server.pid()) == 0).then_some(()));
    let billed = Billed::of(&server);
    let used = group.cpu().saturating_sub(service::own_cpu(server.pid()));
    let free = FREE * u32::try_from(billed.runs).expect("not so many");
    println!(
        "jails used {:.1} s of CPU time, {:.1} s were billed to {} runs (free: {:.0} s)",
        used.as_secs_f64(),
        billed.cpu.as_secs_f64(),
        billed.runs,
        free.as_secs_f64()
    );
    server.audit();
    assert_eq!(beside.refused, 0, "{beside}");
    assert!(most < idle.memory + MEMORY, "{most} bytes, {} when idle", idle.memory);
    assert!(used <= billed.cpu + free, "{used:?} used, {:?} billed to {} runs", billed.cpu, billed.runs);
    if long {
        let (slower, share) =
            (beside.p50.as_secs_f64() / alone.p50.as_secs_f64(), beside.per_second / alone.per_second);
        println!("p50 {slower:.2} times, throughput {share:.2} of alone");
        assert!(slower <= 2.0, "p50 {slower:.2} times that of alone");
        assert!(share >= 0.5, "throughput {share:.2} of alone");
    }
}

/// Waits until descriptors, files and memory are back where they were.
fn until_level(server: &Server, folder: &std::path::Path, idle: &Sample) -> Sample {
    let mut last = None;
    let deadline = Instant::now() + Duration::from_secs(120);
    loop {
        let now = Sample::of(server.pid(), server.data(), folder);
        if now.is_back_at(idle) {
            return now;
        }
        assert!(Instant::now() < deadline, "before:\n{idle}\nafter two minutes:\n{}", last.unwrap_or(now));
        last = Some(now);
        std::thread::sleep(Duration::from_millis(200));
    }
}

#[test]
fn a_service_that_is_killed_under_attack_leaves_nothing_after_its_next_start() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let kills = number("FASTMAP_ATTACK_KILLS", 3);
    let folder = service::temporary_folder();
    let group = Group::new();
    let mut server = serve(folder.path());
    let entries = service::entries(folder.path());
    group.take(server.pid());
    let accounts = hostile_accounts(&server);
    let honest = Honest::new(server.tenant("honest", CREDITS));
    for kill in 0..kills {
        under_attack(&accounts, || {
            // Different moments of the attacks, the same in each run of the suite.
            let answered = honest.work(Duration::from_millis(300 + 377 * kill % 1500));
            assert!(kill > 0 || answered.batches > 0, "the honest tenant works before the first kill");
            server.kill();
        });
        server.restart();
        group.take(server.pid());
    }
    for hostile in &accounts {
        hostile.end_all_runs();
    }
    until("no process of a killed service is left", || (group.jailed(server.pid()) == 0).then_some(()));
    until("no group of a killed service is left", || {
        (group.groups_of_others(server.pid()).is_empty()).then_some(())
    });
    until("no folder of a killed service is left", || {
        (service::entries(folder.path()) <= entries).then_some(())
    });
    server.audit();
}
