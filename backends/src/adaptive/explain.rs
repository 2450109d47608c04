//! Formats a trace as text: the events, the decisions, and whether this version decides the same again.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::Path;

use super::policy::{Event, Forecast, Policy, Side, Step};
use super::trace::Line;
use crate::execution::function::mapped_function;
use crate::model::words::counted;

/// Describes a trace as text. Replays the events into a policy; where it decides differently from the
/// recording (by another version), the text says so.
///
/// # Errors
/// If the file can't be read, or a line is not part of a trace; the message has its number.
pub fn explain(path: &Path) -> io::Result<String> {
    let mut account = TraceSummary::default();
    for (number, line) in BufReader::new(File::open(path)?).lines().enumerate() {
        let line = serde_json::from_str::<Line>(&line?).map_err(|error| {
            let what = format!("{}: line {} does not belong to a trace: {error}", path.display(), number + 1);
            io::Error::new(io::ErrorKind::InvalidData, what)
        })?;
        account.add(line);
    }
    Ok(account.text)
}

#[derive(Default)]
struct TraceSummary {
    text: String,
    policy: Option<Policy>,
    sent: [u64; 2],
    answered: [u64; 2],
    /// Time of the last reported answers, in seconds of the map: one line for each doubling of its time.
    last_reported: f64,
}

impl TraceSummary {
    fn write_line(&mut self, at: f64, what: &str) {
        let _infallible = writeln!(self.text, "{at:>10.3} s  {what}");
    }

    fn add(&mut self, line: Line) {
        match line {
            Line::Begin { label, function, items, workers, options } => {
                *self = TraceSummary { text: std::mem::take(&mut self.text), ..TraceSummary::default() };
                let item_count = items
                    .map_or_else(|| "an unknown number of items".to_owned(), |items| counted(items, "item"));
                let name = label.unwrap_or_else(|| mapped_function(&function).to_owned());
                let here = counted(u64::from(workers), "worker");
                let _infallible = writeln!(self.text, "{name}: {item_count}, {here} here");
                self.policy = Some(Policy::new(options, items, workers));
            }
            Line::Saw { at, saw } => self.on_event(at, &saw),
            Line::Step { at, step, forecast } => self.step(at, step, &forecast),
            Line::Uses { at, .. } => self.write_line(at, "batches go to the service as well"),
            Line::Repeat { at, repeat } => {
                let place = if repeat.to == Side::Local { "here" } else { "in the service" };
                self.write_line(at, &format!("batch {} lags, and is done {place} as well", repeat.batch));
            }
            Line::End { at, here, there, credits } => {
                let what = format!(
                    "over: {} answered here, {there} in the service, for {credits:.6} credits",
                    counted(here, "item")
                );
                self.write_line(at, &what);
            }
        }
    }

    fn on_event(&mut self, at: f64, saw: &Event) {
        if let Some(policy) = &mut self.policy {
            policy.see(at, saw);
        }
        match saw {
            Event::Sent { side, items, .. } => self.sent[*side as usize] += u64::from(*items),
            Event::Answered { side, items, .. } => {
                self.answered[*side as usize] += u64::from(*items);
                if at > 2.0 * self.last_reported {
                    self.last_reported = at;
                    let [here, there] = self.answered;
                    let here = counted(here, "item");
                    self.write_line(at, &format!("{here} answered here, {there} in the service"));
                }
            }
            Event::Back { batch, side, items, lost: true } => {
                let place = if *side == Side::Local { "here" } else { "in the service" };
                let items = counted(u64::from(*items), "item");
                self.write_line(at, &format!("lost {place} with a worker: {items} of batch {batch}"));
            }
            Event::Back { .. } | Event::Uploading { .. } => {}
            Event::Probed(probe) => {
                let what = format!(
                    "the service answers in {:.1} ms; {} bytes to upload; {:.4} credits for a second of CPU time; {:.2} \
                     credits can be spent",
                    probe.round_trip * 1e3,
                    probe.upload,
                    probe.cpu_second,
                    probe.spendable
                );
                self.write_line(at, &what);
            }
            Event::Ready { workers } => {
                let workers = counted(u64::from(*workers), "worker");
                self.write_line(at, &format!("the service takes batches: {workers}"));
            }
            Event::Workers { side, workers } => {
                let place = if *side == Side::Local { "here" } else { "in the service" };
                self.write_line(at, &format!("{} {place}", counted(u64::from(*workers), "worker")));
            }
            Event::Silent => {
                self.write_line(at, "the service gives no answer: what it has is done here as well");
            }
            Event::Heard => self.write_line(at, "the service answers again"),
            Event::Gone { why } => self.write_line(at, &format!("the service is left: {why}")),
        }
    }

    fn step(&mut self, at: f64, step: Step, forecast: &Forecast) {
        let replayed = self.policy.as_mut().map(|policy| policy.step(at).0);
        let what = match step {
            Step::Stay => return,
            Step::Probe => "the service is asked",
            Step::Open => "a run is opened in the service",
            Step::Leave => "the service is left",
        };
        let Forecast { rest, alone, together, credits } = forecast;
        let difference = if replayed == Some(step) { "" } else { " (this version would not)" };
        let what = format!(
            "{what}{difference}: {rest:.0} items are left; {alone:.3} s here alone, {together:.3} s with it, for about {credits:.6} \
             credits"
        );
        self.write_line(at, &what);
    }
}
