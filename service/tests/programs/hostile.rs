//! A hostile upload for the attack suite: one function that does what each item orders, one whose preparation refuses
//! with a very long text, and misbehaviour before the handshake. The latter is chosen by [`MODE`], which the uploader
//! overwrites in the executable's bytes, because a jailed program has neither arguments nor files of its own.

use std::io::{IoSlice, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::time::{Duration, Instant};

use fastmap_backends::{Descriptor, FailureKind, FunctionId, ItemFailure, Task, Work};
use nix::libc;
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, connect, send, sendmsg, socket,
};

/// The last byte selects what the program does before the handshake; see `main`.
#[used]
static MODE: [u8; 24] = *b"fastmap-hostile-mode:000";

/// What frames of a worker begin with (see `backends/src/model/frame.rs`), and the kind of an answer.
const HEADER: usize = 72;
const DONE: u32 = 5;
/// The largest packet of a worker.
const PACKET: usize = 190 * 1024;
/// Nothing that the program does lasts longer; the suite ends it earlier.
const LONGEST: Duration = Duration::from_mins(2);

struct Obey;

impl Task for Obey {
    fn run(&mut self, work: &mut Work<'_>) {
        while let Some(item) = work.next_item() {
            let (order, rest) = item.split_first().map_or((b' ', item), |(order, rest)| (*order, rest));
            let number: u64 =
                std::str::from_utf8(rest).ok().and_then(|text| text.parse().ok()).unwrap_or_default();
            let result = match order {
                b'e' => rest.to_vec(),
                b'b' => vec![b'x'; number as usize],
                b's' => {
                    println!("computed before the batch is cancelled");
                    spin(Duration::from_millis(number));
                    Vec::new()
                }
                b'u' => unfinished_frame(number << 20),
                b'n' => unasked_answers(),
                b'l' => {
                    for _ in 0..number {
                        log::warn!(target: "fastmap_service::cli::admin", "credits were added\nINFO forged");
                    }
                    Vec::new()
                }
                b'm' => {
                    let eaten: Vec<Vec<u8>> = (0..number).map(|_| vec![1; 1 << 20]).collect();
                    eaten.len().to_string().into_bytes()
                }
                b'f' => fork_bomb(),
                b't' => thread_bomb(),
                b'p' => {
                    let line = "x".repeat(999);
                    let mut out = std::io::stdout().lock();
                    let printed = (0..number).take_while(|_| writeln!(out, "{line}").is_ok()).count();
                    printed.to_string().into_bytes()
                }
                b'x' => {
                    work.fail(FailureKind::Panic, "y".repeat(number as usize));
                    continue;
                }
                _ => {
                    work.fail(FailureKind::Panic, format!("no such order: {}", char::from(order)));
                    continue;
                }
            };
            work.out().extend_from_slice(&(result.len() as u32).to_le_bytes());
            work.out().extend_from_slice(&result);
        }
    }
}

fn spin(time: Duration) {
    let begun = Instant::now();
    let mut x = 1u64;
    while begun.elapsed() < time {
        x = std::hint::black_box(x.wrapping_mul(6_364_136_223_846_793_005));
    }
}

fn header(items: u32, batch: u64, length: u64) -> Vec<u8> {
    let mut header = vec![0; HEADER];
    header[..4].copy_from_slice(&DONE.to_le_bytes());
    header[4..8].copy_from_slice(&items.to_le_bytes());
    header[16..24].copy_from_slice(&batch.to_le_bytes());
    header[32..40].copy_from_slice(&length.to_le_bytes());
    header
}

/// A packet as a worker sends it: its own length, that of its content, the content.
fn packet(content: &[u8]) -> Vec<u8> {
    let length = content.len() as u64;
    [&(length + 16).to_ne_bytes(), &length.to_ne_bytes(), content].concat()
}

/// Sends on each socket of the process that takes it; false when none does any more.
fn send_everywhere(bytes: &[u8]) -> bool {
    let sent = |socket: RawFd| {
        let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
        match send(socket, bytes, flags) {
            Ok(_) | Err(nix::errno::Errno::EAGAIN) => true,
            Err(_) => false,
        }
    };
    (3..64).filter(|socket| sent(*socket)).count() > 0
}

/// Announces a frame of so many bytes, and sends all of it but the end.
fn unfinished_frame(length: u64) -> Vec<u8> {
    let begun = Instant::now();
    send_everywhere(&packet(&header(1, 0x7777_7777, length)));
    let piece = packet(&vec![0; PACKET]);
    let mut sent = 0;
    while sent < length - PACKET as u64 && begun.elapsed() < LONGEST && send_everywhere(&piece) {
        sent += PACKET as u64;
    }
    std::thread::sleep(LONGEST);
    Vec::new()
}

/// Sends empty answers to a batch that the worker does not have, without end.
fn unasked_answers() -> Vec<u8> {
    let begun = Instant::now();
    let answer = packet(&header(0, 0x7777_7777, 0));
    while begun.elapsed() < LONGEST && send_everywhere(&answer) {}
    Vec::new()
}

fn fork_bomb() -> Vec<u8> {
    let begun = Instant::now();
    while begun.elapsed() < LONGEST {
        // SAFETY: the child goes on in this loop, and touches nothing that another thread could hold.
        unsafe { libc::fork() };
    }
    Vec::new()
}

fn thread_bomb() -> Vec<u8> {
    let sleep = || std::thread::sleep(LONGEST);
    let refused = |_: &u32| std::thread::Builder::new().stack_size(64 << 10).spawn(sleep).is_err();
    let made = (0..100_000).find(refused).unwrap_or_default();
    std::thread::sleep(Duration::from_secs(1));
    made.to_string().into_bytes()
}

/// Greets with five descriptors.
fn greet_with_too_many(marker: &str) -> nix::Result<()> {
    let server = marker.splitn(6, ' ').last().unwrap_or_default();
    let host = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None)?;
    connect(host.as_raw_fd(), &UnixAddr::new(server)?)?;
    let number = host.as_raw_fd();
    let numbers = [number; 5];
    let greeting = packet(&[0; 64]);
    let rights = [ControlMessage::ScmRights(&numbers)];
    sendmsg::<()>(number, &[IoSlice::new(&greeting)], &rights, MsgFlags::MSG_NOSIGNAL, None)?;
    Ok(())
}

static OBEY: Descriptor = Descriptor::new(|| "obey", |_| Ok(Box::new(Obey)));
static BROKEN: Descriptor = Descriptor::new(
    || "broken",
    |_| {
        let message = "n".repeat(60 << 20);
        Err(ItemFailure { offset: 0, kind: FailureKind::Serialize, message })
    },
);

fn main() {
    // SAFETY: a byte of a static; read so because it is written in the file, where the compiler can't see it.
    let mode = unsafe { (&raw const MODE[23]).read_volatile() };
    if let Ok(marker) = std::env::var("FASTMAP_WORKER") {
        match mode {
            b'1' => {
                let _refused = greet_with_too_many(&marker);
                std::thread::sleep(LONGEST);
            }
            b'2' => {
                for _ in 0..2 {
                    std::thread::spawn(|| spin(LONGEST));
                }
            }
            b'3' => {
                spin(Duration::from_secs(2));
                eprintln!("{}", "result ".repeat(1000));
                std::process::exit(9);
            }
            _ => {}
        }
    }
    fastmap_backends::local::enter();
    for descriptor in [&OBEY, &BROKEN] {
        let FunctionId { offset, name } = FunctionId::of(descriptor);
        println!("{name} {offset}");
    }
}
