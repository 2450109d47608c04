//! The attack suite: eight hostile accounts and strangers attack a service of the suite's own, on loopback, while an honest
//! tenant works. `attacks` holds one attack for each kind of harm that was seen, `hostile` an account that attacks, `honest` measures the tenant, `service`
//! reads from the kernel what the service and its jails use. The short form runs with the other tests; `scripts/attack` runs
//! the long one, whose bounds on the honest tenant's speed hold on a machine that does nothing else.
//!
//! The attackers are a process of their own (this program again, see [`attacks::ROLE`]) to which the kernel gives little, because
//! strangers' machines take neither CPU time nor locks of the honest tenant's.

#[allow(dead_code, reason = "shared with the service's other tests")]
#[path = "../service/client.rs"]
mod client;
#[allow(dead_code, reason = "shared with the service's other tests")]
#[path = "../service/server.rs"]
mod server;

mod attacks;
mod honest;
mod hostile;
mod service;

use std::time::{Duration, Instant};

use attacks::{ATTACKS, Attackers};
use honest::Honest;
use hostile::Hostile;
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

/// How long the long form looks at each attack by itself.
const EACH: Duration = Duration::from_secs(5);

/// A number from the environment: how `scripts/attack` asks for the long form.
fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// A service with jails, where CPU time costs a credit per second and answers cost nothing: what an account has spent is
/// then the CPU time that it was billed.
fn serve(group: &Group, folder: &std::path::Path) -> Server {
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
    group.serve(&options, folder)
}

fn hostile_accounts(server: &Server) -> Vec<Hostile> {
    (0..ACCOUNTS).map(|number| Hostile::new(server.tenant(&format!("hostile-{number}"), CREDITS))).collect()
}

fn main() {
    if attacks::was_started_to_attack() {
        return;
    }
    fastmap_test_jails::machine::leave_out_without_jails();
    // As of any test: words without a dash choose some of them.
    let words: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let tests: [(&str, fn()); 2] = [
        (
            "an_honest_tenant_works_on_beside_all_attacks_at_once",
            an_honest_tenant_works_on_beside_all_attacks_at_once,
        ),
        (
            "a_service_that_is_killed_under_attack_leaves_nothing_after_its_next_start",
            a_service_that_is_killed_under_attack_leaves_nothing_after_its_next_start,
        ),
    ];
    let wanted = |name: &str| words.is_empty() || words.iter().any(|word| name.contains(word.as_str()));
    let mut passed = 0;
    for (name, test) in tests.into_iter().filter(|(name, _)| wanted(name)) {
        println!("test {name}");
        test();
        passed += 1;
    }
    println!("{passed} passed, 0 failed");
}

fn an_honest_tenant_works_on_beside_all_attacks_at_once() {
    let seconds = number("FASTMAP_ATTACK_SECONDS", 10);
    let long = seconds >= 60;
    let window = Duration::from_secs(if long { 20 } else { 3 });
    let folder = service::temporary_folder();
    let group = Group::new();
    let server = serve(&group, folder.path());
    let accounts = hostile_accounts(&server);
    let honest = Honest::new(server.tenant("honest", CREDITS));
    let alone = honest.work(window);
    let idle = Sample::of(server.pid(), server.data(), folder.path());
    println!("alone: {alone}\n{idle}");
    if long {
        for attack in &ATTACKS {
            let attackers = Attackers::start(&accounts, Some(attack.name));
            let one = honest.work(EACH);
            drop(attackers);
            println!("beside {}: {one}", attack.name);
        }
    }
    let (attackers, most) = (Attackers::start(&accounts, None), service::watch(server.pid()));
    let beside = honest.work(Duration::from_secs(seconds));
    let most = most.stop();
    drop(attackers);
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
    let deadline = Instant::now() + Duration::from_mins(2);
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

fn a_service_that_is_killed_under_attack_leaves_nothing_after_its_next_start() {
    let kills = number("FASTMAP_ATTACK_KILLS", 3);
    let folder = service::temporary_folder();
    let group = Group::new();
    let mut server = serve(&group, folder.path());
    let entries = service::entries(folder.path());
    let accounts = hostile_accounts(&server);
    let honest = Honest::new(server.tenant("honest", CREDITS));
    for kill in 0..kills {
        let attackers = Attackers::start(&accounts, None);
        // Different moments of the attacks, the same in each run of the suite.
        let answered = honest.work(Duration::from_millis(300 + 377 * kill % 1500));
        assert!(kill > 0 || answered.batches > 0, "the honest tenant works before the first kill");
        server.kill();
        drop(attackers);
        server.restart();
    }
    for hostile in &accounts {
        hostile.end_all_runs();
    }
    until("no process of a killed service is left", || (group.jailed(server.pid()) == 0).then_some(()));
    until("no group but the service's is left", || (group.names().len() == 1).then_some(()));
    until("no folder of a killed service is left", || {
        (service::entries(folder.path()) <= entries).then_some(())
    });
    server.audit();
}
