//! What the fuzzers in `fuzz/` call: bytes from outside, on the ways that a worker's bytes take in the host.
//! Compiled for them alone.
#![allow(clippy::missing_panics_doc, reason = "a panic is what is looked for")]

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use crate::batch::Items;
use crate::completion::{ItemFailure, Payload};
use crate::local::fuzzing::{Marker, Opening, Record};
use crate::wire::{Assembler, Header, Kind, PACKET};

/// Packets, each behind two bytes of length, as a worker may send them: what becomes frames is dealt with as the
/// reader and the pool do.
pub fn frames(mut bytes: &[u8]) {
    let mut assembler = Assembler::default();
    let mut fed = 0;
    while let Some((length, rest)) = bytes.split_first_chunk() {
        let length = usize::from(u16::from_le_bytes(*length)).min(rest.len());
        let (packet, rest) = rest.split_at(length);
        bytes = rest;
        fed += packet.len();
        let Ok(whole) = assembler.packet(packet.to_vec()) else { return };
        assert!(assembler.room() <= 17 * PACKET + 2 * fed, "memory for what was only claimed");
        if let Some((header, frame)) = whole {
            frame_of(&header, frame);
        }
    }
}

fn frame_of(header: &Header, frame: Vec<u8>) {
    let mut again = frame.clone();
    header.write(&mut again);
    assert_eq!(Header::read(&again), Some(*header));
    let behind = frame.len() - Header::LEN;
    assert_eq!(behind as u64, if header.place == 0 { header.length } else { 0 });
    match header.kind {
        Kind::Done => {
            let Ok((end, failures)) = header.told(&frame) else { return };
            assert!(failures.iter().all(|failure| failure.offset < header.items));
            let payload = Payload::within(frame, Header::LEN, end);
            let stride = (header.stride > 0).then_some(header.stride);
            let items = Items::new(payload.bytes(), stride).take(1000);
            assert!(items.map(<[u8]>::len).sum::<usize>() <= payload.bytes().len());
        }
        Kind::Refused => drop(postcard::from_bytes::<ItemFailure>(&frame[Header::LEN..])),
        Kind::Log => drop(postcard::from_bytes::<Record>(&frame[Header::LEN..])),
        Kind::Open => drop(postcard::from_bytes::<Opening>(&frame[Header::LEN..])),
        _ => {}
    }
}

/// The variable that makes a process a worker.
pub fn greeting(bytes: &[u8]) {
    if let Ok(marker) = Marker::parse(&OsString::from_vec(bytes.to_vec())) {
        assert_eq!(Marker::parse(&marker.to_string().into()), Ok(marker));
    }
}
