//! What the tests upload: a program with one function that does what each item tells it. Started with `describe` it
//! says where its functions stand.

use std::time::{Duration, Instant};

use fastmap_backends::{Descriptor, FailureKind, FunctionId, ItemFailure, Task, Work};

struct Obey(Vec<u8>);

impl Task for Obey {
    fn run(&mut self, work: &mut Work<'_>) {
        while let Some(item) = work.next_item() {
            let (order, rest) = item.split_first().map_or((b' ', item), |(order, rest)| (*order, rest));
            let number =
                || std::str::from_utf8(rest).ok().and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
            let result = match order {
                b'e' => rest.to_vec(),
                b'c' => self.0.clone(),
                b's' => {
                    spin(Duration::from_millis(number()));
                    rest.to_vec()
                }
                b't' => {
                    println!("begun");
                    std::thread::sleep(Duration::from_millis(number()));
                    rest.to_vec()
                }
                b'z' => {
                    std::thread::sleep(Duration::from_millis(number()));
                    rest.to_vec()
                }
                b'b' => vec![b'x'; number() as usize],
                b'r' => match std::fs::read(String::from_utf8_lossy(rest).as_ref()) {
                    Ok(bytes) => bytes,
                    Err(error) => format!("refused: {error}").into_bytes(),
                },
                b'h' => {
                    // Beside the thread whose time is asked for.
                    let time = Duration::from_millis(number());
                    drop(std::thread::spawn(move || spin(time)).join());
                    Vec::new()
                }
                b'l' => {
                    // As an operator's own line would look.
                    log::info!(target: "fastmap_service::cli::admin", "{}", String::from_utf8_lossy(rest));
                    Vec::new()
                }
                b'w' => {
                    // For as long as nobody ends it, once it has shown what it has found.
                    burn(Duration::from_millis(number()));
                    println!("found");
                    spin(Duration::from_mins(10));
                    Vec::new()
                }
                b'x' => {
                    work.fail(FailureKind::Panic, "x".repeat(number() as usize));
                    continue;
                }
                b'p' => {
                    (0..number()).for_each(|n| eprintln!("line {n}"));
                    Vec::new()
                }
                b'm' => {
                    // Each page is touched.
                    let eaten: Vec<Vec<u8>> = (0..number()).map(|_| vec![1; 1 << 20]).collect();
                    eaten.len().to_string().into_bytes()
                }
                b'f' => {
                    let line = "x".repeat(999);
                    (0..number() * 1000).for_each(|_| println!("{line}"));
                    Vec::new()
                }
                b'a' => {
                    eprintln!("about to abort");
                    std::process::abort()
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

/// Uses the CPU, not only the clock.
fn spin(time: Duration) {
    let begun = Instant::now();
    let mut x = 1u64;
    while begun.elapsed() < time {
        x = std::hint::black_box(x.wrapping_mul(6_364_136_223_846_793_005));
    }
}

/// What it does before it reports for duty. Tests write another word here, in the file.
static HABIT: [u8; 24] = *b"fastmap-test-habit:none ";

/// Uses the CPU where no batch pays for it.
fn follow_habit() {
    match std::hint::black_box(&HABIT).split_at(19).1 {
        // Long before anything is sent, and as long as it lives.
        b"early" => drop(std::thread::spawn(|| spin(Duration::from_mins(10)))),
        // It never greets, and what it has found is told as its last words.
        b"never" => {
            burn(Duration::from_secs(2));
            eprintln!("found");
            std::process::exit(3);
        }
        _ => {}
    }
}

/// Uses so much CPU time, however long that takes on a busy machine.
fn burn(time: Duration) {
    let used = || {
        let clock = nix::time::clock_gettime(nix::time::ClockId::CLOCK_THREAD_CPUTIME_ID);
        clock.map_or(Duration::MAX, Duration::from)
    };
    while used() < time {
        spin(Duration::from_millis(5));
    }
}

static OBEY: Descriptor = Descriptor::new(|| "obey", |context| Ok(Box::new(Obey(context.to_vec()))));
static BROKEN: Descriptor = Descriptor::new(
    || "broken",
    |_| Err(ItemFailure { offset: 0, kind: FailureKind::Serialize, message: "init said no".to_owned() }),
);
/// Refuses with a text of two megabytes.
static WORDY: Descriptor = Descriptor::new(
    || "wordy",
    |_| {
        let message = format!("init said no{}", ", and said it again".repeat(100_000));
        Err(ItemFailure { offset: 0, kind: FailureKind::Serialize, message })
    },
);

fn main() {
    if std::env::args().nth(1).is_none() {
        follow_habit();
    }
    fastmap_backends::local::enter();
    if std::env::args().nth(1).as_deref() != Some("describe") {
        eprintln!("this program obeys a fastmap host alone");
        std::process::exit(3);
    }
    for descriptor in [&OBEY, &BROKEN, &WORDY] {
        let FunctionId { offset, name } = FunctionId::of(descriptor);
        println!("{name} {offset}");
    }
}
