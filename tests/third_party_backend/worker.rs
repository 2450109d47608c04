//! The worker's end: this executable, started with an address in its environment, connects back and runs batches.

use std::collections::HashMap;
use std::io::{self, Write};
use std::net::TcpStream;
use std::process::exit;
use std::sync::mpsc;
use std::thread;

use fastmap::backends::{Executor, FunctionId, ItemFailure};

use crate::frames::{Parts, Put, receive, send};

/// Where the worker is to connect to, and the words by which it is known there.
pub(crate) const MARKER: &str = "THIRD_PARTY_WORKER";

/// Host: prepare a function.
pub(crate) const OPEN: u64 = 1;
/// Host: run a batch.
pub(crate) const BATCH: u64 = 2;
/// Host: forget a function.
pub(crate) const CLOSE: u64 = 3;
/// Worker: the function is ready.
pub(crate) const READY: u64 = 4;
/// Worker: the function can't be prepared.
pub(crate) const REFUSED: u64 = 5;
/// Worker: items were answered.
pub(crate) const DONE: u64 = 6;

/// Becomes a worker if this process was started as one, and then never returns.
pub(crate) fn enter() {
    let Ok(marker) = std::env::var(MARKER) else { return };
    // SAFETY: called by the loader, before there is a thread that could read the environment.
    unsafe { std::env::remove_var(MARKER) };
    match work(&marker) {
        Ok(never) => match never {},
        Err(error) => {
            eprintln!("this worker can't begin: {error}");
            exit(1)
        }
    }
}

fn work(marker: &str) -> io::Result<std::convert::Infallible> {
    let (address, greeting) = marker.split_once(' ').ok_or(io::ErrorKind::InvalidInput)?;
    let mut connection = TcpStream::connect(address)?;
    connection.set_nodelay(true)?;
    connection.write_all(greeting.as_bytes())?;
    let host = connection.try_clone()?;
    let (tell, told) = mpsc::channel();
    // A thread of its own reads, so that this process ends with its host also while an item runs.
    thread::Builder::new().spawn(move || {
        while let Ok(frame) = receive(&host) {
            if tell.send(frame).is_err() {
                break;
            }
        }
        exit(0)
    })?;
    let mut jobs = HashMap::new();
    for frame in told {
        let answer = obey(&frame, &mut jobs).ok_or(io::ErrorKind::InvalidData)?;
        if !answer.is_empty() {
            send(&connection, &answer)?;
        }
    }
    exit(0)
}

/// Does what a frame says, and gives the answer (of no bytes, if none is due); `None` if it can't be understood.
fn obey(frame: &[u8], jobs: &mut HashMap<u64, Executor>) -> Option<Vec<u8>> {
    let mut parts = Parts(frame);
    let (kind, job) = (parts.number()?, parts.number()?);
    let mut answer = Vec::new();
    match kind {
        OPEN => {
            let function = FunctionId { offset: parts.number()?.cast_signed(), name: parts.text()? };
            match Executor::open(&function, parts.bytes()?) {
                Ok(executor) => {
                    jobs.insert(job, executor);
                    answer.number(READY);
                }
                Err(failure) => {
                    answer.number(REFUSED);
                    answer.failure(&failure);
                }
            }
        }
        BATCH => {
            let stride = match parts.small()? {
                0 => None,
                bytes => Some(bytes),
            };
            let (items, credit) = (parts.small()?, parts.number()?);
            let (answered, results) = jobs.get_mut(&job)?.run(parts.bytes()?, stride, items, credit);
            answer.number(DONE);
            answer.number(answered.into());
            answer.number(results.wall.as_nanos() as u64);
            answer.number(results.cpu.as_nanos() as u64);
            answer.number(results.failures.len() as u64);
            results.failures.iter().for_each(|failure: &ItemFailure| answer.failure(failure));
            answer.bytes(results.payload.bytes());
        }
        CLOSE => {
            jobs.remove(&job);
        }
        _ => return None,
    }
    Some(answer)
}
