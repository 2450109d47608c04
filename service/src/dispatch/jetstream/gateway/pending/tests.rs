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

fn flights() -> PendingTable {
    PendingTable::new(Names::new("fastmap"))
}

fn reply(flights: &PendingTable, about: &str, request: Request) -> Reply {
    match flights.request(about, request, 1000) {
        Answer::Now(reply) | Answer::Over(reply) => reply,
        file @ Answer::File(..) => panic!("{file:?}"),
    }
}

fn yes() -> Reply {
    Reply::Yes(Bytes::new())
}

#[test]
fn only_what_work_names_is_given_out_and_only_until_its_run_ends() {
    let flights = flights();
    let entered = flights.enter(work("r")).expect("it is open");
    let get = || flights.request(&entered.files.executable.name, Request::Get(0), 1000);
    assert!(matches!(get(), Answer::File(path, 0) if path == *"/uploads/ab"));
    assert_eq!(reply(&flights, &entered.token, Request::Get(3)), Reply::Yes(Bytes::from_static(b"load")));
    for guess in ["ab", "/uploads/ab", "", "*", ">", "r"] {
        assert_eq!(reply(&flights, guess, Request::Get(0)), Reply::No);
    }
    assert_eq!(flights.end_run("r"), 1);
    assert!(matches!(get(), Answer::Now(Reply::No)));
    assert_eq!(reply(&flights, &entered.token, Request::Ask(1)), Reply::No);
}

#[test]
fn a_report_of_use_is_charged_once_to_the_run_that_its_name_names_and_also_behind_its_end() {
    let flights = flights();
    let entered = flights.enter(work("r")).expect("it is open");
    let name = &entered.files.executable.name;
    assert_eq!(flights.report(name, 1), Report::Charge("r".to_owned()));
    assert_eq!(flights.report(name, 1), Report::Again);
    flights.forget_report(name, 1);
    assert_eq!(flights.report(name, 1), Report::Charge("r".to_owned()));
    assert_eq!(flights.end_run("r"), 1);
    assert_eq!(flights.report(name, 1), Report::Again);
    assert_eq!(flights.report(name, 2), Report::Charge("r".to_owned()));
    for guess in ["r", "ab", "", &entered.token] {
        assert_eq!(flights.report(guess, 3), Report::Unknown);
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
        let flights = flights();
        let entered = flights.enter(work("r")).expect("it is open");
        let verdict = Request::Verdict(ack.to_owned(), messages::verdict(WorkOutcome::Lost));
        assert_eq!(reply(&flights, &entered.token, verdict), yes());
        assert_eq!(entered.ack.lock().expect("no panic").is_some(), good, "{ack}");
    }
}

#[test]
fn what_agents_lose_again_and_again_is_given_up_and_what_they_have_not_begun_does_not_count() {
    let flights = flights();
    let mut entered = flights.enter(work("r")).expect("it is open");
    for _ in 0..100 {
        assert_eq!(reply(&flights, &entered.token, Request::Unused), yes());
        assert_eq!(reply(&flights, &entered.token, Request::Ask(2)), yes());
    }
    for _ in 1..DELIVERIES {
        assert_eq!(reply(&flights, &entered.token, Request::Ask(2)), yes());
    }
    assert_eq!(reply(&flights, &entered.token, Request::Ask(2)), Reply::No);
    assert!(matches!(entered.verdict.try_recv(), Ok(WorkOutcome::Lost)));
}

#[test]
fn what_is_missing_twice_is_sent_again_under_another_attempt() {
    let flights = flights();
    let entered = flights.enter(work("r")).expect("it is open");
    let look = |there: bool| flights.missing(Duration::ZERO, |_| there);
    assert!(look(false).is_empty() && look(true).is_empty() && look(false).is_empty());
    let again = look(false);
    assert_eq!((again[0].n, again[0].attempt), (entered.n, 1));
    assert_eq!(again[0].files.executable.name, entered.files.executable.name);
}

#[test]
fn what_an_agent_keeps_for_too_long_is_taken_away_and_given_up_in_the_end() {
    let flights = flights();
    let mut entered = flights.enter(work("r")).expect("it is open");
    let look = |delivered: u64| flights.kept_too_long(7, delivered, Duration::ZERO);
    for attempt in 1..=DELIVERIES {
        flights.placed(&entered.token, 3);
        assert!(look(2).is_empty(), "it waits for its turn");
        assert!(flights.kept_too_long(8, 9, Duration::ZERO).is_empty(), "another tenant's");
        assert!(flights.kept_too_long(7, 9, Duration::from_mins(1)).is_empty(), "not for long");
        let kept = look(3);
        let again = kept[0].again.as_ref().map(|again| again.attempt);
        assert_eq!(again, (attempt < DELIVERIES).then_some(attempt));
        assert_eq!((kept[0].n, kept[0].run.as_str()), (entered.n, "r"));
    }
    flights.lose(&entered.token);
    assert!(matches!(entered.verdict.try_recv(), Ok(WorkOutcome::Lost)));
}

#[test]
fn a_verdict_in_parts_comes_whole_or_not_at_all() {
    let flights = flights();
    let mut entered = flights.enter(work("r")).expect("it is open");
    let verdict = messages::verdict(WorkOutcome::Lost);
    let part =
        |from: usize, to: usize| Request::Part(from as u64, verdict.len() as u64, verdict.slice(from..to));
    let half = verdict.len() / 2;
    assert_eq!(reply(&flights, &entered.token, part(half, verdict.len())), Reply::No);
    for request in [part(0, half), part(0, half), part(half, verdict.len()), part(half, verdict.len())] {
        assert_eq!(reply(&flights, &entered.token, request), yes());
    }
    let too_long = Request::Part(0, u64::MAX, Bytes::from_static(b"x"));
    assert_eq!(reply(&flights, &entered.token, Request::Verdict(String::new(), Bytes::new())), yes());
    assert!(matches!(entered.verdict.try_recv(), Ok(WorkOutcome::Lost)));
    let other = flights.enter(work("r")).expect("it is open");
    assert_eq!(reply(&flights, &other.token, too_long), Reply::No);
}
