use super::*;

const DONE: DoneHead = DoneHead {
    ticket: 3,
    items: 6,
    failure_bytes: 7,
    slowest: Some((5, Duration::from_micros(4))),
    queued: Some(Duration::from_nanos(2)),
    wall: Duration::from_nanos(8),
    cpu: Duration::from_nanos(9),
};

fn round_trips<M: Message + PartialEq>(message: M) {
    for place in [None, Some(0), Some(10)] {
        let header = Header { message, length: 6, place };
        assert_eq!(Header::read(&header.bytes()).ok(), Some(header));
    }
}

#[test]
fn headers_of_each_kind_round_trip() {
    for context_at in [None, Some(7)] {
        round_trips(ToWorker::Open { job: JobId(1), context_at });
    }
    for (stride, level) in [(None, None), (Some(8), Some(LevelFilter::Off))] {
        let (job, ticket, items) = (JobId(1), 2, 3);
        round_trips(ToWorker::Batch(BatchHead {
            job,
            ticket,
            items,
            stride,
            level,
            result_credit: 4,
            granted: 5,
        }));
    }
    for half in [false, true] {
        round_trips(ToWorker::Recall { ticket: 1, half });
    }
    round_trips(ToWorker::Close { job: JobId(1) });
    round_trips(ToHost::Done(DONE));
    round_trips(ToHost::Done(DoneHead { slowest: None, queued: None, ..DONE }));
    round_trips(ToHost::Returned { ticket: 1, from: 2 });
    round_trips(ToHost::OpenFailed { job: JobId(1) });
    round_trips(ToHost::Log);
    round_trips(ToHost::SandboxDenial { ticket: 1 });
}

#[test]
fn frames_of_the_other_direction_are_rejected() {
    let recall = Header::frame(ToWorker::Recall { ticket: 1, half: true }, &[]);
    let refused = Header::<ToHost>::read(&recall).expect_err("a host sends it");
    assert_eq!(refused.to_string(), "Recall is the host's to send");
    let refused = Header::<ToWorker>::read(&Header::frame(ToHost::Log, &[])).expect_err("a worker does");
    assert_eq!(refused.to_string(), "Log is the worker's to send");
}

#[test]
fn impossible_measurements_are_dropped_or_capped() {
    let mut bytes = Header::frame(ToHost::Done(DONE), &[]);
    bytes[28..32].copy_from_slice(&6u32.to_le_bytes());
    bytes[48..56].copy_from_slice(&u64::MAX.to_le_bytes());
    let Ok(Header { message: ToHost::Done(done), .. }) = Header::read(&bytes) else {
        panic!("it is an answer")
    };
    assert_eq!((done.slowest, done.wall), (None, Duration::from_nanos(MAX_NANOS)));
}

#[test]
fn failures_are_counted_before_they_are_read() {
    let failures: Vec<(u32, u32, &str)> = (0..1000).map(|offset| (offset, 0, "")).collect();
    let bytes = postcard::to_stdvec(&failures).expect("bytes");
    let done = DoneHead { items: 1000, failure_bytes: bytes.len() as u64, ..DoneHead::default() };
    let frame = Header::frame(ToHost::Done(done), &bytes);
    let read = done.failures(&frame, 1000 * FAILURE).expect("they may be as many");
    assert_eq!(read.1.len(), 1000);
    let refused = done.failures(&frame, 1000 * FAILURE - 1);
    assert!(matches!(refused, Err(ProtocolError::TooManyFailures { count: 1000 })), "{refused:?}");
}
