//! The least that worker processes cost: this executable started again, a Unix socket pair each, chunks of a fixed
//! size, a thread for each worker that reads its answers. No fault handling: a worker that dies ends the map.
//! Twice: with items written as whatever takes any type must, and written by hand for the types of the workloads.

use std::collections::VecDeque;
use std::env;
use std::io::{self, Read, Write};
use std::marker::PhantomData;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio, exit};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};

use super::window::drive;
use super::wire::{ByHand, BySerde, Format};
use super::{Contestant, Plan, WORKERS};
use crate::functions::{Burn, Echo, Lethal, Spin, Sqrt, Work};

/// In a worker's environment: the [`NAME`](Work::NAME) of its function, behind that of the format.
const MARKER: &str = "FASTMAP_BENCH_RAW";

/// A chunk under way.
struct Message {
    chunk: u64,
    count: usize,
    bytes: Vec<u8>,
}

/// A worker and what it answers; no answer when it is gone.
type Answer = (usize, Option<Message>);

/// Items by serde.
pub(crate) type Raw = Bare<BySerde>;
/// Items by hand.
pub(crate) type RawByHand = Bare<ByHand>;

pub(crate) struct Bare<F> {
    format: PhantomData<F>,
    plan: Plan,
    workers: Vec<Worker>,
    answers: Receiver<Answer>,
    /// Chunks that no worker has room for yet.
    waiting: VecDeque<Message>,
}

/// Chunks that a worker has at a time: one that it works on, one that waits.
const DEPTH: usize = 2;

struct Worker {
    socket: UnixStream,
    process: Child,
    reader: Option<JoinHandle<()>>,
    busy: usize,
}

/// Makes this process a worker, if it was started as one; its socket is its standard input.
pub(crate) fn enter() {
    let Some(value) = env::var_os(MARKER) else { return };
    let socket = io::stdin().as_fd().try_clone_to_owned().expect("a worker has a socket");
    let value = value.to_string_lossy();
    let serve = match value.split_once('/') {
        Some((BySerde::NAME, function)) => server::<BySerde>(function),
        Some((ByHand::NAME, function)) => server::<ByHand>(function),
        _ => None,
    };
    serve.unwrap_or_else(|| panic!("no function is called {value}"))(UnixStream::from(socket));
    exit(0);
}

/// What a worker of a function does.
fn server<F: Format>(function: &str) -> Option<fn(UnixStream)> {
    Some(match function {
        Sqrt::NAME => serve::<F, Sqrt>,
        Spin::NAME => serve::<F, Spin>,
        Lethal::NAME => serve::<F, Lethal>,
        Burn::NAME => serve::<F, Burn>,
        Echo::NAME => serve::<F, Echo>,
        _ => return None,
    })
}

fn serve<F: Format, W: Work>(mut socket: UnixStream) {
    while let Some(Message { chunk, count, bytes }) = receive(&mut socket) {
        let results = F::decode(bytes, count).into_iter().map(W::call).collect();
        send(&mut socket, &Message { chunk, count, bytes: F::encode(results) });
    }
}

/// A chunk's number, how many items it has, its length in bytes, its bytes.
fn send(socket: &mut UnixStream, message: &Message) {
    let head = ByHand::encode(vec![message.chunk, message.count as u64, message.bytes.len() as u64]);
    // A peer that is gone is noticed by the reader.
    let _ = socket.write_all(&head).and_then(|()| socket.write_all(&message.bytes));
}

fn receive(socket: &mut UnixStream) -> Option<Message> {
    let mut head = vec![0; 3 * size_of::<u64>()];
    socket.read_exact(&mut head).ok()?;
    let [chunk, count, length] = ByHand::decode::<u64>(head, 3).try_into().ok()?;
    let mut bytes = Vec::with_capacity(length as usize);
    let read = socket.take(length).read_to_end(&mut bytes).ok()?;
    (read as u64 == length).then_some(Message { chunk, count: count as usize, bytes })
}

impl Worker {
    fn start(marker: &str, index: usize, answers: Sender<Answer>) -> io::Result<Self> {
        let (socket, theirs) = UnixStream::pair()?;
        let process = Command::new("/proc/self/exe")
            .env(MARKER, marker)
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .spawn()?;
        let mut reading = socket.try_clone()?;
        let reader = thread::spawn(move || {
            loop {
                let answer = receive(&mut reading);
                let gone = answer.is_none();
                if answers.send((index, answer)).is_err() || gone {
                    return;
                }
            }
        });
        Ok(Worker { socket, process, reader: Some(reader), busy: 0 })
    }
}

impl<F> Bare<F> {
    /// Sends what waits to the workers that have the least.
    fn deal(&mut self) {
        let room = |worker: &&mut Worker| worker.busy < DEPTH;
        while !self.waiting.is_empty()
            && let Some(worker) = self.workers.iter_mut().filter(room).min_by_key(|worker| worker.busy)
            && let Some(message) = self.waiting.pop_front()
        {
            send(&mut worker.socket, &message);
            worker.busy += 1;
        }
    }
}

impl<W: Work, F: Format> Contestant<W> for Bare<F> {
    const NAME: &'static str = F::NAME;

    fn start(plan: Plan) -> Self {
        let (send, answers) = channel();
        let marker = format!("{}/{}", F::NAME, W::NAME);
        let start = |index| Worker::start(&marker, index, send.clone()).expect("a worker can be started");
        let workers = (0..WORKERS).map(start).collect();
        Bare { format: PhantomData, plan, workers, answers, waiting: VecDeque::new() }
    }

    fn map(
        &mut self,
        count: u64,
        item: impl Fn(u64) -> W::In + Send + Sync,
        consume: impl FnMut(Option<W::Out>) -> bool,
    ) {
        let plan = self.plan;
        drive(
            self,
            plan,
            count,
            item,
            |raw, chunk, inputs| {
                let count = inputs.len();
                raw.waiting.push_back(Message { chunk, count, bytes: F::encode(inputs) });
                raw.deal();
            },
            |raw| {
                let (worker, answer) = raw.answers.recv().expect("readers live as long as their workers");
                raw.workers[worker].busy -= 1;
                raw.deal();
                let Message { chunk, count, bytes } =
                    answer.expect("raw has no answer to a worker that dies");
                (chunk, Some(F::decode(bytes, count)))
            },
            consume,
        );
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // The worker reads an end and goes; the reader then reads one, too.
        let _ = self.socket.shutdown(std::net::Shutdown::Write);
        let _ = self.process.wait();
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}
