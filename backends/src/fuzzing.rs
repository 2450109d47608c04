//! What the fuzzers in `fuzz/` call: bytes from outside, on the ways that a worker's bytes take in the host.
//! Compiled for them alone.
#![allow(clippy::missing_panics_doc, reason = "a panic is what is looked for")]

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use crate::cloud::{Answer, BatchBody};
use crate::execution::denials::ReportedDenial;
use crate::local::ipc::assembler::Assembler;
use crate::local::ipc::handshake::{WorkerBootstrap, read};
use crate::local::ipc::messages::Record;
use crate::model::batch::Items;
use crate::model::completion::Payload;
use crate::model::failure::ItemFailure;
use crate::model::frame::{HEADER, Header, PACKET, ToHost};
use crate::model::protocol_error::ProtocolError;
use crate::model::result_credit::of_failures;

/// Packets, each behind two bytes of length, as a worker may send them: what becomes frames is dealt with as the
/// reader and the pool do. Those of a stranger's worker are held to what was granted, here 64 KiB.
pub fn frames(bytes: &[u8]) {
    feed(bytes, Assembler::default(), u64::MAX);
    feed(bytes, Assembler::strict(Some(1 << 20)), 64 << 10);
}

fn feed(mut bytes: &[u8], mut assembler: Assembler<ToHost>, most: u64) {
    let mut fed = 0;
    while let Some((length, rest)) = bytes.split_first_chunk() {
        let length = usize::from(u16::from_le_bytes(*length)).min(rest.len());
        let (packet, rest) = rest.split_at(length);
        bytes = rest;
        fed += packet.len();
        let admit = |header: &Header<ToHost>| match header.length {
            length if length > most => Err(ProtocolError::FrameTooLong { length }),
            _ => Ok(()),
        };
        let Ok(whole) = assembler.packet_if(packet.to_vec(), admit) else { return };
        assert!(assembler.room() <= 17 * PACKET + 2 * fed, "memory for what was only claimed");
        if let Some((header, frame)) = whole {
            frame_of(&header, frame, most);
        }
    }
}

fn frame_of(header: &Header<ToHost>, frame: Vec<u8>, most: u64) {
    let mut again = frame.clone();
    header.write(&mut again);
    assert_eq!(Header::read(&again).ok(), Some(*header));
    assert_eq!((frame.len() - HEADER) as u64, header.behind());
    match header.message {
        ToHost::Done(done) => {
            let Ok((end, failures)) = done.failures(&frame, most) else { return };
            // Results are bounded when the frame begins: see `feed`.
            assert!(failures.is_empty() || (end - HEADER) as u64 + of_failures(&failures) <= most);
            assert!(failures.iter().all(|failure| failure.offset < done.items));
            let payload = Payload::within(frame, HEADER, end);
            for stride in [None, Some(4)] {
                let items = Items::new(payload.bytes(), stride).take(1000);
                assert!(items.map(<[u8]>::len).sum::<usize>() <= payload.bytes().len());
            }
        }
        ToHost::OpenFailed { .. } => drop(postcard::from_bytes::<ItemFailure>(&frame[HEADER..])),
        ToHost::Log => drop(postcard::from_bytes::<Record>(&frame[HEADER..])),
        ToHost::SandboxDenial { .. } => drop(postcard::from_bytes::<Vec<ReportedDenial>>(&frame[HEADER..])),
        ToHost::Returned { .. } => {}
    }
}

/// The first message of a worker.
pub fn hello(bytes: &[u8]) {
    if let Ok(hello) = read(bytes) {
        assert!(hello.executable.len() <= bytes.len());
    }
}

/// What a service answers to a batch, and what a client sends it: the first byte says how many items the
/// answer is for.
pub fn answers(bytes: &[u8]) {
    let Some((&items, body)) = bytes.split_first() else { return };
    if let Ok(batch) = BatchBody::decode(body) {
        assert_eq!(BatchBody::decode(&batch.encode()), Ok(batch));
        if !batch.compressed && batch.check_items(batch.payload).is_ok() {
            assert!(batch.items > 0);
        }
    }
    if let Ok(answer) = Answer::decode(body, items.into()) {
        assert_eq!(answer.parts.iter().map(|part| part.items).sum::<u32>(), u32::from(items));
        let again = Answer::decode(&answer.encode(), items.into()).expect("it was just written");
        assert_eq!(again.parts.len(), answer.parts.len());
    }
}

/// The variable that makes a process a worker.
pub fn greeting(bytes: &[u8]) {
    if let Ok(marker) = WorkerBootstrap::parse(&OsString::from_vec(bytes.to_vec())) {
        assert_eq!(WorkerBootstrap::parse(&marker.to_string().into()), Ok(marker));
    }
}
