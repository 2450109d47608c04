//! Tests of `pending`.

use super::*;
use crate::dispatch::work::BatchTask;
use crate::pricing::Work as Limit;

fn work(run: &str) -> Work {
    let spec = RunSpec {
        run: run.to_owned(),
        account: 7,
        executable: Upload { hash: "ab".to_owned(), path: PathBuf::from("/uploads/ab"), kept: None },
        identity: String::new(),
        function: fastmap_backends::FunctionId { offset: 0, name: String::new() },
        context: None,
        label: None,
        items: None,
        item_timeout: None,
        locale: fastmap_backends::cloud::Locale::default(),
    };
    let (payload, limit) = (Bytes::from_static(b"payload"), Limit::default());
    let batch = BatchTask {
        seq: 1,
        first: 0,
        items: 1,
        stride: None,
        payload,
        enough: 0,
        level: None,
        limit,
        request: String::new(),
    };
    Work { spec: Arc::new(spec), task: Task::Batch(batch) }
}

fn pending() -> PendingTable {
    PendingTable::new(Names::new("fastmap"))
}

fn reply(pending: &PendingTable, about: &str, request: Request) -> Reply {
    match pending.request(about, request, 1000) {
        Answer::Now(reply) | Answer::Over(reply) => reply,
        file @ Answer::File(..) => panic!("{file:?}"),
    }
}

fn yes() -> Reply {
    Reply::Yes(Bytes::new())
}

#[test]
fn only_what_work_names_is_given_out_and_only_until_its_run_ends() {
    let pending = pending();
    let registered = pending.register(work("r")).expect("it is open");
    let get = || pending.request(&registered.files.executable.name, Request::Get(0), 1000);
    assert!(matches!(get(), Answer::File(path, 0) if path == *"/uploads/ab"));
    assert_eq!(reply(&pending, &registered.token, Request::Get(3)), Reply::Yes(Bytes::from_static(b"load")));
    for guess in ["ab", "/uploads/ab", "", "*", ">", "r"] {
        assert_eq!(reply(&pending, guess, Request::Get(0)), Reply::No);
    }
    assert_eq!(pending.end_run("r"), 1);
    assert!(matches!(get(), Answer::Now(Reply::No)));
    assert_eq!(reply(&pending, &registered.token, Request::Claim(1)), Reply::No);
}

#[test]
fn a_report_of_use_is_charged_once_to_the_run_that_its_name_names_and_also_behind_its_end() {
    let pending = pending();
    let registered = pending.register(work("r")).expect("it is open");
    let name = &registered.files.executable.name;
    assert_eq!(pending.report(name, 1), Report::Charge("r".to_owned()));
    assert_eq!(pending.report(name, 1), Report::UnderWay);
    pending.end_report(name, 1, false);
    assert_eq!(pending.report(name, 1), Report::Charge("r".to_owned()));
    pending.end_report(name, 1, true);
    assert_eq!(pending.end_run("r"), 1);
    assert_eq!(pending.report(name, 1), Report::Charged);
    assert_eq!(pending.report(name, 2), Report::Charge("r".to_owned()));
    for guess in ["r", "ab", "", &registered.token] {
        assert_eq!(pending.report(guess, 3), Report::Unknown);
    }
}

#[test]
fn an_agent_can_not_make_the_gateway_speak_to_others() {
    for (ack, good) in [
        ("$JS.ACK.fastmap_work.tenant_7.1.2.3.4.5", true),
        ("$JS.ACK.hub.hash.fastmap_work.tenant_7.1.2.3.4.5.token", true),
        ("$JS.ACK.fastmap_work.tenant_8.1.2.3.4.5", false),
        ("$JS.ACK.other.tenant_7.1.2.3.4.5", false),
        ("$JS.API.STREAM.DELETE.fastmap_work", false),
        ("fastmap.ended", false),
    ] {
        let pending = pending();
        let registered = pending.register(work("r")).expect("it is open");
        let outcome = Request::Outcome(ack.to_owned(), messages::encode_outcome(WorkOutcome::Lost));
        assert_eq!(reply(&pending, &registered.token, outcome), yes());
        assert_eq!(registered.ack.lock().expect("no panic").is_some(), good, "{ack}");
    }
}

#[test]
fn what_agents_lose_again_and_again_is_given_up_and_what_they_have_not_begun_does_not_count() {
    let pending = pending();
    let mut registered = pending.register(work("r")).expect("it is open");
    let mut claims = (2..).map(Request::Claim);
    let mut claim = || reply(&pending, &registered.token, claims.next().expect("a number"));
    for _ in 0..100 {
        assert_eq!(reply(&pending, &registered.token, Request::Unstarted), yes());
        assert_eq!(claim(), yes());
    }
    for _ in 1..DELIVERIES {
        assert_eq!(claim(), yes());
    }
    assert_eq!(claim(), Reply::No);
    assert!(matches!(registered.outcome.try_recv(), Ok(WorkOutcome::Lost)));
}

#[test]
fn a_claim_whose_answer_was_lost_counts_once() {
    let pending = pending();
    let registered = pending.register(work("r")).expect("it is open");
    for _ in 0..100 {
        assert_eq!(reply(&pending, &registered.token, Request::Claim(1)), yes());
        assert_eq!(reply(&pending, &registered.token, Request::Claim(2)), yes());
    }
}

#[test]
fn an_outcome_whose_answer_was_lost_is_taken_again_and_another_agents_is_a_duplicate() {
    let pending = pending();
    let registered = pending.register(work("r")).expect("it is open");
    let outcome = |ack: &str| {
        let outcome = messages::encode_outcome(WorkOutcome::Lost);
        reply(&pending, &registered.token, Request::Outcome(ack.to_owned(), outcome))
    };
    let duplicate = Reply::Yes(Bytes::from_static(messages::DUPLICATE));
    assert_eq!((outcome("first"), outcome("first"), outcome("second")), (yes(), yes(), duplicate.clone()));
    let part = Request::Part(0, 1, Bytes::from_static(b"x"));
    assert_eq!(reply(&pending, &registered.token, part), duplicate);
    assert_eq!(reply(&pending, &registered.token, Request::Claim(2)), Reply::No);
    // What its client has given up is no duplicate: its time is charged beside batches.
    let cancelled = pending.register(work("r")).expect("it is open");
    pending.cancel("r", 1);
    let late = Request::Outcome("first".to_owned(), messages::encode_outcome(WorkOutcome::Lost));
    assert_eq!(reply(&pending, &cancelled.token, late), Reply::No);
}

#[test]
fn what_is_missing_twice_is_sent_again_under_another_attempt() {
    let pending = pending();
    let registered = pending.register(work("r")).expect("it is open");
    let look = |there: bool| pending.missing(Duration::ZERO, |_| there);
    assert!(look(false).is_empty() && look(true).is_empty() && look(false).is_empty());
    let requeued = look(false);
    assert_eq!((requeued[0].n, requeued[0].attempt), (registered.n, 1));
    assert_eq!(requeued[0].files.executable.name, registered.files.executable.name);
}

#[test]
fn what_an_agent_keeps_for_too_long_is_taken_away_and_given_up_in_the_end() {
    let pending = pending();
    let mut registered = pending.register(work("r")).expect("it is open");
    let look = |delivered: u64| pending.overdue(7, delivered, Duration::ZERO);
    for attempt in 1..=DELIVERIES {
        pending.set_position(&registered.token, 3);
        assert!(look(2).is_empty(), "it waits for its turn");
        assert!(pending.overdue(8, 9, Duration::ZERO).is_empty(), "another tenant's");
        assert!(pending.overdue(7, 9, Duration::from_mins(1)).is_empty(), "not for long");
        let kept = look(3);
        let requeued = kept[0].requeued.as_ref().map(|requeued| requeued.attempt);
        assert_eq!(requeued, (attempt < DELIVERIES).then_some(attempt));
        assert_eq!((kept[0].n, kept[0].run.as_str()), (registered.n, "r"));
    }
    pending.lose(&registered.token);
    assert!(matches!(registered.outcome.try_recv(), Ok(WorkOutcome::Lost)));
}

#[test]
fn a_verdict_in_parts_comes_whole_or_not_at_all() {
    let pending = pending();
    let mut registered = pending.register(work("r")).expect("it is open");
    let outcome = messages::encode_outcome(WorkOutcome::Lost);
    let part =
        |from: usize, to: usize| Request::Part(from as u64, outcome.len() as u64, outcome.slice(from..to));
    let half = outcome.len() / 2;
    assert_eq!(reply(&pending, &registered.token, part(half, outcome.len())), Reply::No);
    for request in [part(0, half), part(0, half), part(half, outcome.len()), part(half, outcome.len())] {
        assert_eq!(reply(&pending, &registered.token, request), yes());
    }
    let too_long = Request::Part(0, u64::MAX, Bytes::from_static(b"x"));
    assert_eq!(reply(&pending, &registered.token, Request::Outcome(String::new(), Bytes::new())), yes());
    assert!(matches!(registered.outcome.try_recv(), Ok(WorkOutcome::Lost)));
    let other = pending.register(work("r")).expect("it is open");
    assert_eq!(reply(&pending, &other.token, too_long), Reply::No);
}
