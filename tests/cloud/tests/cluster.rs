//! Many machines, and what dies among them while a map runs: its results are whole and in order, each batch is charged once, and
//! who uses it is told nothing worse than a warning. `FASTMAP_TEST_LONG=1` makes 5,000 batches of it, with cables out for ten
//! seconds, and prints how long each trouble held the map up (docs/operations.md has the table; `scripts/chaos-cluster`).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fastmap_test_cloud::{Cluster, Settings};
use fastmap_test_programs::Running;
use fastmap_test_programs::skipped;

const SERVICE: &str = env!("CARGO_BIN_EXE_cloud-service");
const HOST: &str = env!("CARGO_BIN_EXE_cloud-host");

/// A result, when it came.
#[derive(Clone, Copy, Debug)]
struct Told {
    results: u64,
    /// Items of the input that were read by then.
    read: u64,
    /// Since 1970.
    at: Duration,
}

/// A map and its results so far.
struct Map {
    running: Running,
    told: Vec<Told>,
}

impl Map {
    /// Waits for the next result.
    fn next(&mut self) -> Told {
        let line = self.running.line("told ");
        let mut numbers = line.split(' ').map(|number| number.parse::<u64>().expect("a number"));
        let mut number = || numbers.next().expect("three numbers");
        let told = Told { results: number(), read: number(), at: Duration::from_millis(number()) };
        let results = self.told.last().map_or(0, |last| last.results);
        assert_eq!(told.results, results + 1, "in order, and each once");
        self.told.push(told);
        told
    }

    fn until(&mut self, results: u64) {
        while self.told.last().is_none_or(|last| last.results < results) {
            self.next();
        }
    }

    /// Makes trouble and waits until all that was under way then has been answered. Tells how long that took, and how long
    /// the user waited for a next result at most.
    fn trouble(&mut self, what: &str, make: impl FnOnce()) {
        let begun = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is later than 1970");
        make();
        while self.next().at < begun {}
        let before = self.told.iter().rev().find(|told| told.at < begun).expect("results came before");
        let (first, under_way) = (before.results as usize - 1, before.read);
        self.until(under_way);
        let since = &self.told[first..];
        let longest = since.windows(2).map(|pair| pair[1].at.saturating_sub(pair[0].at.max(begun))).max();
        let over = self.told[under_way as usize - 1].at.saturating_sub(begun);
        println!("| {what} | {:.1} | {:.1} |", over.as_secs_f64(), longest.unwrap_or_default().as_secs_f64());
        // Whatever it was is not only over, work goes on.
        self.until(under_way + 100);
    }
}

#[test]
fn a_map_outlives_what_dies_in_a_cluster() {
    let long = std::env::var_os("FASTMAP_TEST_LONG").is_some();
    let (items, lease, cut) = if long { (12_000, 15, 10) } else { (3_000, 3, 3) };
    let settings = Settings { agents: 3, workers: 8, lease };
    let Some(mut cluster) = Cluster::start(SERVICE, settings) else {
        skipped("only root may make network namespaces");
        return;
    };
    let cut = Duration::from_secs(cut);
    let account = cluster.account("a", "1000");
    // The map lasts until all troubles are over, however slow the machine is.
    let mut program = account.program(HOST, &["watched", "1000000", "200"]);
    let mut map = Map { running: cluster.client(&mut program), told: Vec::new() };
    map.until(100);
    println!(
        "| what | all that was under way is answered after, s | longest wait for a result, s |\n|---|---|---|"
    );
    map.trouble("nothing", || {});
    map.trouble("an agent is killed", || cluster.kill_agent(0));
    cluster.new_agent(0);
    let leader = cluster.nats_leader();
    map.trouble("the leading NATS server is killed", || cluster.kill_nats(leader));
    cluster.new_nats(leader);
    map.trouble("a gateway is killed", || cluster.kill_gateway(0));
    cluster.new_gateway(0);
    map.trouble("an agent's cable is out", || cluster.cut_agent(1, cut));
    map.trouble("a gateway's cable is out", || cluster.cut_gateway(1, cut));
    map.trouble("both gateways are replaced, one after the other", || {
        cluster.replace_gateway(0);
        cluster.replace_gateway(1);
    });
    map.until(items);
    map.running.say("enough");
    let ended = map.running.finish();
    let items = ended.stdout.iter().filter(|line| line.starts_with("told ")).count() as u64;
    assert!(ended.status.success(), "{ended:#?}");
    println!("{}", ended.stderr);
    let bad = |line: &str| !line.starts_with("fastmap: ") || line.to_lowercase().contains("error");
    assert!(!ended.stderr.lines().filter(|line| !line.is_empty()).any(bad), "{}", ended.stderr);

    let run = cluster.ask(&["runs", "list", "a"])[0].clone();
    println!("{run}");
    let batches = run["batches"].as_u64().expect("a number");
    assert!(batches >= if long { 5_000 } else { 500 }, "{run}");
    assert_eq!((run["items_answered"].as_u64(), run["held"].as_u64()), (Some(items), Some(0)), "{run}");
    // Every balance follows from the ledger, in which a batch can stand but once.
    cluster.ask(&["credits", "audit"]);
}
