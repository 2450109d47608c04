//! The ledger against a model: whatever is done in whatever order, balances are sums, nothing is negative, nothing is
//! charged twice, and what was reserved comes back.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use fastmap_backends::cloud::{FunctionName, OpenRun, RunState};
use proptest::prelude::*;

use crate::answer_files::Position;
use crate::pricing;
use crate::pricing::{CREDIT, Microcredits, Work};
use crate::store::testing::{Fresh, Kind, run};
use crate::store::{NewRun, Reserve, Reserved, Settle, Settled, Store, Stored};

const ACCOUNTS: i64 = 2;
const RUNS: usize = 3;

#[derive(Clone, Debug)]
enum Step {
    Grant(usize, Microcredits),
    Reserve { run: usize, seq: i64, cpu_ms: u64, group: bool },
    Settle { run: usize, seq: i64, charge: Microcredits },
    Release { run: usize, seq: i64 },
    End(usize),
    Acknowledge { run: usize, seq: i64 },
    Use { run: usize, cpu_ms: u64 },
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    let run = || 0..RUNS;
    let seq = || 0..4i64;
    prop_oneof![
        1 => (0..ACCOUNTS as usize, -CREDIT..CREDIT).prop_map(|(account, amount)| Step::Grant(account, amount)),
        6 => (run(), seq(), 0..2_000_000u64, any::<bool>())
            .prop_map(|(run, seq, cpu_ms, group)| Step::Reserve { run, seq, cpu_ms, group }),
        5 => (run(), seq(), 0..2 * CREDIT).prop_map(|(run, seq, charge)| Step::Settle { run, seq, charge }),
        2 => (run(), seq()).prop_map(|(run, seq)| Step::Release { run, seq }),
        1 => run().prop_map(Step::End),
        1 => (run(), seq()).prop_map(|(run, seq)| Step::Acknowledge { run, seq }),
        3 => (run(), 0..1_000_000u64).prop_map(|(run, cpu_ms)| Step::Use { run, cpu_ms }),
        1 => Just(Step::Restart),
    ]
}

pub(super) async fn store(fresh: &Fresh, balance: Microcredits, cap: Option<Microcredits>) -> Store {
    let store = fresh.open().await;
    for account in 1..=ACCOUNTS {
        let made = store.create_account(&format!("a{account}"), balance).await.expect("a new account");
        assert_eq!(made.id, account);
    }
    for run in 0..RUNS {
        let request = OpenRun {
            key: format!("{run:032x}"),
            executable: String::new(),
            function: FunctionName { offset: 0, name: String::new() },
            context: None,
            label: None,
            items: None,
            item_timeout_ms: None,
            max_credits: cap,
            locale: None,
        };
        let id = &format!("run{run}");
        let (account, digest) = (account_of(run), "");
        let new = NewRun { account, id, digest, request: &request, most_open: 9, lease_until_ms: 0 };
        store.open_run(&new).await.expect("a new run");
    }
    store
}

fn account_of(run: usize) -> i64 {
    run as i64 % ACCOUNTS + 1
}

pub(super) fn reserve(run: usize, seq: i64, cpu_ms: u64) -> Reserve {
    Reserve {
        account: account_of(run),
        run: format!("run{run}"),
        seq,
        digest: format!("{seq}"),
        wanted: Work { cpu: Duration::from_millis(cpu_ms), bytes: 1000 },
        prices: pricing::DEFAULT,
        most_kept: u64::MAX,
    }
}

pub(super) fn settle(run: usize, seq: i64, charge: Microcredits) -> Settle {
    Settle {
        run: format!("run{run}"),
        seq,
        status: 200,
        charge,
        cpu: Duration::from_millis(1),
        bytes: 10,
        items: 1,
        answer: Stored {
            digest: "answer".to_owned(),
            place: Position { file: 1, at: seq.unsigned_abs(), length: run as u64 },
        },
    }
}

#[allow(clippy::too_many_lines, reason = "one arm for each kind of step")]
async fn follow(kind: Kind, steps: &[Step], balance: Microcredits, cap: Option<Microcredits>) {
    let fresh = Fresh::new(kind).await;
    let mut store = store(&fresh, balance, cap).await;
    let mut committer = crate::store::Committer::start(store.clone());
    let mut holds: HashMap<(usize, i64), Microcredits> = HashMap::new();
    let mut answered: HashSet<(usize, i64)> = HashSet::new();
    let mut charged: HashMap<i64, Microcredits> = HashMap::new();
    let mut granted: HashMap<i64, Microcredits> = (1..=ACCOUNTS).map(|account| (account, balance)).collect();
    let mut ended = HashSet::new();
    for step in steps {
        match *step {
            Step::Grant(account, amount) => {
                let account = account as i64 + 1;
                let reserved: Microcredits = holds
                    .iter()
                    .filter(|((run, _), _)| account_of(*run) == account)
                    .map(|(_, hold)| hold)
                    .sum();
                let left = granted[&account] - charged.get(&account).copied().unwrap_or(0) - reserved;
                let done = store.adjust(account, amount, None).await;
                assert_eq!(done.is_ok(), left + amount >= 0, "{left} {amount} {done:?}");
                if done.is_ok() {
                    *granted.get_mut(&account).expect("it is there") += amount;
                }
            }
            Step::Reserve { run, seq, cpu_ms, group } => {
                // Two at once share a transaction, and get the same.
                let ask = || committer.reserve(reserve(run, seq, cpu_ms));
                let got = if group {
                    let (one, two) = tokio::join!(ask(), ask());
                    let (one, two) = (one.expect("no failure"), two.expect("no failure"));
                    assert_eq!(one, two);
                    one
                } else {
                    ask().await.expect("no failure")
                };
                match got {
                    Reserved::Granted(grant) => {
                        assert!(!answered.contains(&(run, seq)));
                        let before = holds.insert((run, seq), grant.hold);
                        assert!(before.is_some() || !ended.contains(&run));
                        assert!(before.is_none_or(|before| before == grant.hold));
                    }
                    Reserved::Answered(status, stored) => {
                        assert!(answered.contains(&(run, seq)));
                        assert_eq!((status, stored), (200, settle(run, seq, 0).answer));
                    }
                    Reserved::Acknowledged => assert!(answered.contains(&(run, seq))),
                    Reserved::Ended(..) => assert!(ended.contains(&run)),
                    Reserved::CapReached { cap: known, spent, least } => {
                        assert!(cap == Some(known) && known - spent < least);
                    }
                    Reserved::OutOfCredits | Reserved::CreditsOnHold => {}
                    other @ (Reserved::Conflict
                    | Reserved::NoRun
                    | Reserved::OwnedByOther
                    | Reserved::Full(_)) => {
                        panic!("{other:?}")
                    }
                }
            }
            Step::Settle { run, seq, charge } => {
                let got = committer.settle(settle(run, seq, charge)).await.expect("no failure");
                match holds.remove(&(run, seq)) {
                    Some(hold) => {
                        assert_eq!(got, Settled::Charged);
                        assert!(answered.insert((run, seq)));
                        *charged.entry(account_of(run)).or_default() += charge.min(hold);
                    }
                    None => assert_eq!(got, Settled::NotHeld),
                }
            }
            Step::Release { run, seq } => {
                store.release(&format!("run{run}"), seq).await.expect("no failure");
                holds.remove(&(run, seq));
            }
            Step::End(run) => {
                let done =
                    store.end_run(&format!("run{run}"), RunState::Done, None).await.expect("no failure");
                assert_eq!(done, ended.insert(run));
                holds.retain(|(of, _), _| *of != run);
            }
            Step::Acknowledge { run, seq } => {
                let kept = store.acknowledge(&format!("run{run}"), &[seq as u64]).await.expect("no failure");
                assert!(kept.is_empty() || answered.contains(&(run, seq)));
            }
            Step::Use { run, cpu_ms } => {
                let cpu = Duration::from_millis(cpu_ms);
                let used = store.charge_use(&format!("run{run}"), cpu, &pricing::DEFAULT).await;
                let used = used.expect("no failure").expect("there is such a run");
                assert_eq!(used.open, !ended.contains(&run));
                *charged.entry(account_of(run)).or_default() += used.taken;
            }
            Step::Restart => {
                drop(committer);
                drop(store);
                store = fresh.open().await;
                committer = crate::store::Committer::start(store.clone());
                assert_eq!(store.recover().await.expect("no failure"), holds.len() as u64);
                holds.clear();
            }
        }
        assert_eq!(store.audit().await.expect("no failure"), Vec::<String>::new(), "{step:?}");
        for account in 1..=ACCOUNTS {
            let (balance, held) = store.balance(account).await.expect("no failure");
            let holds =
                holds.iter().filter(|((run, _), _)| account_of(*run) == account).map(|(_, hold)| *hold);
            assert_eq!(held, holds.sum::<Microcredits>(), "{step:?}");
            assert_eq!(balance, granted[&account] - charged.get(&account).copied().unwrap_or(0), "{step:?}");
            assert!(0 <= held && held <= balance);
        }
        if let Some(cap) = cap {
            for run in store.runs(None, None, 10).await.expect("no failure") {
                assert!(run.info.spent + run.info.held <= cap, "{run:?}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn money_is_conserved_whatever_happens_on_sqlite((steps, balance, cap) in life()) {
        run(follow(Kind::Sqlite, &steps, balance, cap));
    }

}

proptest! {
    // A server answers more slowly than a file.
    #![proptest_config(ProptestConfig::with_cases(25))]

    #[test]
    fn money_is_conserved_whatever_happens_on_postgres((steps, balance, cap) in life()) {
        run(follow(Kind::Postgres, &steps, balance, cap));
    }
}

fn life() -> impl Strategy<Value = (Vec<Step>, Microcredits, Option<Microcredits>)> {
    (proptest::collection::vec(step(), 1..60), 0..2 * CREDIT, proptest::option::of(0..CREDIT))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(30))]

    #[test]
    fn many_at_once_reserve_no_more_than_there_is_on_sqlite((asks, balance, cap) in crowd()) {
        run(at_once(Kind::Sqlite, 1, &asks, balance, cap));
    }

    #[test]
    fn many_at_once_reserve_no_more_than_there_is_on_postgres((asks, balance, cap) in crowd()) {
        run(at_once(Kind::Postgres, 1, &asks, balance, cap));
    }

    #[test]
    fn gateways_that_reserve_at_once_reserve_no_more_than_there_is((asks, balance, cap) in crowd()) {
        run(at_once(Kind::Postgres, 3, &asks, balance, cap));
    }
}

type Ask = (usize, i64, u64);

fn crowd() -> impl Strategy<Value = (Vec<Ask>, Microcredits, Option<Microcredits>)> {
    let asks = proptest::collection::vec((0..RUNS, 0..40i64, 0..4_000_000u64), 1..80);
    (asks, 0..20 * CREDIT, proptest::option::of(0..5 * CREDIT))
}

/// All that comes at once is reserved, settled and answered as if it came one after the other, at whichever gateway.
async fn at_once(
    kind: Kind,
    gateways: usize,
    asks: &[Ask],
    balance: Microcredits,
    cap: Option<Microcredits>,
) {
    let fresh = Fresh::new(kind).await;
    let store = store(&fresh, balance, cap).await;
    let mut committers = vec![crate::store::Committer::start(store.clone())];
    while committers.len() < gateways {
        committers.push(crate::store::Committer::start(fresh.open().await));
    }
    let any = |n: usize| &committers[n % gateways];
    let all =
        asks.iter().enumerate().map(|(n, (run, seq, cpu_ms))| any(n).reserve(reserve(*run, *seq, *cpu_ms)));
    let mut granted: HashMap<(usize, i64), Microcredits> = HashMap::new();
    for ((run, seq, _), got) in asks.iter().zip(futures_util::future::join_all(all).await) {
        if let Reserved::Granted(grant) = got.expect("no failure") {
            // Whoever asks for a batch again is granted what it has.
            let before = granted.insert((*run, *seq), grant.hold);
            assert!(before.is_none_or(|before| before == grant.hold));
        }
    }
    assert_eq!(store.audit().await.expect("no failure"), Vec::<String>::new());
    let of = |account| granted.iter().filter(move |((run, _), _)| account_of(*run) == account);
    for account in 1..=ACCOUNTS {
        let held: Microcredits = of(account).map(|(_, hold)| hold).sum();
        assert_eq!(store.balance(account).await.expect("no failure"), (balance, held));
    }
    let twice = granted.iter().chain(&granted).enumerate();
    let all = twice.map(|(n, ((run, seq), hold))| any(n).settle(settle(*run, *seq, hold / 2 + 1)));
    let done = futures_util::future::join_all(all).await;
    let charged = done.into_iter().map(|done| done.expect("no failure"));
    assert_eq!(charged.filter(|done| *done == Settled::Charged).count(), granted.len());
    for account in 1..=ACCOUNTS {
        let spent: Microcredits = of(account).map(|(_, hold)| (hold / 2 + 1).min(*hold)).sum();
        assert_eq!(store.balance(account).await.expect("no failure"), (balance - spent, 0));
    }
    assert_eq!(store.audit().await.expect("no failure"), Vec::<String>::new());
}

/// Reports of use: of which run, and how many milliseconds.
fn reports() -> impl Strategy<Value = Vec<(usize, u64)>> {
    proptest::collection::vec((0..RUNS, 0..3000u64), 0..20)
}

/// Of all that is reported a second of each run is free, and the rest is charged.
async fn report(kind: Kind, reports: &[(usize, u64)]) {
    let fresh = Fresh::new(kind).await;
    let store = store(&fresh, 1000 * CREDIT, None).await;
    for (run, ms) in reports {
        let used =
            store.charge_use(&format!("run{run}"), Duration::from_millis(*ms), &pricing::DEFAULT).await;
        let used = used.expect("no failure").expect("there is such a run");
        assert!(used.open && used.short.is_none(), "{used:?}");
    }
    for run in 0..RUNS {
        let of_run: Vec<u64> = reports.iter().filter(|(of, _)| *of == run).map(|(_, ms)| *ms).collect();
        let used = Duration::from_millis(of_run.iter().sum());
        let due =
            pricing::cost(&pricing::DEFAULT, Work { cpu: used.saturating_sub(pricing::FREE), bytes: 0 });
        let info =
            store.run(None, &format!("run{run}")).await.expect("no failure").expect("it is there").info;
        // Each report is rounded up.
        assert!((due..=due + of_run.len() as i64).contains(&info.spent), "{due}: {info:?}");
        assert_eq!(u128::from(info.cpu_ns), used.as_nanos());
    }
    assert_eq!(store.audit().await.expect("no failure"), Vec::<String>::new());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20))]

    #[test]
    fn all_that_workers_use_is_charged_but_the_free_second_on_sqlite(reports in reports()) {
        run(report(Kind::Sqlite, &reports));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10))]

    #[test]
    fn all_that_workers_use_is_charged_but_the_free_second_on_postgres(reports in reports()) {
        run(report(Kind::Postgres, &reports));
    }
}
