//! From the workers to the host: what they have done, and what the policy and the map make of it.

use std::time::Duration;

use fastmap_backends::adaptive::in_flight::Cancel;
use fastmap_backends::adaptive::policy::{Event as PolicyEvent, Probe, Side};
use fastmap_backends::split_after_crash::{self, Piece as Part};
use fastmap_backends::{BatchId, Completion, ExitReason, Outcome, Results, Running, WorkerExit, WorkerLoss};

use super::messages::{AnswerKind, Event, Message, PieceAnswer, SentPiece};
use super::sending::placeholder;
use super::state::{Mode, Simulation};
use super::time::{CLOUD_MESSAGE, of_seconds, seconds};
use crate::clock::{Nanos, nanos};
use crate::shapes::Fault;
use crate::worker::Piece;
use crate::world::World;

impl Simulation<'_> {
    /// A worker is through with a piece of a batch, or dead of an item of it.
    pub(super) fn on_piece_done(&mut self, side: Side, piece: Piece, wall: Nanos, lethal: Option<u64>) {
        let name = BatchId(piece.batch);
        let Some(sent) = self.sent[side as usize].get_mut(&name) else { return };
        let attempt = sent.attempt;
        let part = |what| PieceAnswer { batch: name, first: piece.first, items: piece.items, attempt, what };
        sent.covered += piece.items;
        sent.wall += wall;
        let (whole, spent) = (sent.covered == sent.items, sent.wall);
        let mut answers = Vec::new();
        match (lethal, side) {
            (Some(item), Side::Local) => {
                sent.lost = true;
                answers.push(part(AnswerKind::Lost(item)));
            }
            (Some(item), Side::Cloud) => {
                sent.lost = true;
                sent.parts.push(part(AnswerKind::Lost(item)));
            }
            (None, _) => sent.parts.push(part(AnswerKind::Done(wall))),
        }
        self.result.deaths += u64::from(lethal.is_some());
        if whole {
            let sent = self.sent[side as usize].remove(&name).expect("it was just seen");
            let SentPiece { first, items, wall, .. } = sent;
            // Parts of which none is lost come as one answer.
            match sent.lost {
                true => answers.extend(sent.parts),
                false => answers.push(PieceAnswer {
                    batch: name,
                    first,
                    items,
                    attempt,
                    what: AnswerKind::Done(wall),
                }),
            }
        }
        match side {
            Side::Local if answers.is_empty() => {}
            Side::Local => {
                let way = nanos(World::local(1).one_way);
                self.queue.at(self.now + way, Event::Message(Message::Answered { side, answers, spent }));
            }
            Side::Cloud if self.dead || !whole => {}
            Side::Cloud => {
                self.due.insert(name);
                let first = answers.iter().map(|part| part.first).min().unwrap_or(0);
                // The same first item loses its worker under every policy, the first time.
                if chance(self.place.seed, first) < self.place.lost && self.lost.insert(first) {
                    for part in &mut answers {
                        part.what = AnswerKind::Agent;
                    }
                }
                let answered = |part: &PieceAnswer| {
                    if matches!(part.what, AnswerKind::Lost(_)) { 0 } else { part.items }
                };
                let bytes = f64::from(answers.iter().map(answered).sum::<u32>()) * self.place.bytes.1;
                self.down_free = self.down_free.max(self.now) + of_seconds(bytes / self.place.down);
                let at = self.down_free + of_seconds(self.place.round_trip / 2.0);
                self.queue.at(at, Event::Message(Message::Answered { side, answers, spent }));
            }
        }
    }

    /// Handles a message. Returns what that costs the host.
    pub(super) fn on_message(&mut self, message: Message) -> Nanos {
        let host = World::local(1).host;
        match message {
            Message::Answered { side, answers, spent } => {
                let (mut cost, mut charged) = (0, spent);
                for part in answers {
                    // An answer that is no longer waited for is not paid for.
                    match self.on_answer(side, part, charged) {
                        Some(more) => (cost, charged) = (cost + more, 0),
                        None if self.dead && side == Side::Cloud => return CLOUD_MESSAGE,
                        None => {}
                    }
                }
                (cost + if side == Side::Cloud { CLOUD_MESSAGE } else { nanos(host.receive) }).max(1_000)
            }
            Message::Probed => {
                let place = self.place;
                let probe = Probe {
                    round_trip: place.round_trip,
                    upload: place.upload as u64,
                    cpu_second: place.cpu_second,
                    result_byte: place.result_byte,
                    spendable: place.cap.min(1e12),
                };
                self.notify_policy(&PolicyEvent::Probed(probe));
                if self.mode == Mode::Cloud {
                    self.open();
                }
                CLOUD_MESSAGE
            }
            Message::Uploading(left) => {
                self.notify_policy(&PolicyEvent::Uploading { left: left as u64 });
                1_000
            }
            Message::Ready => {
                if self.dead {
                    return 0;
                }
                self.open = true;
                self.result.opened = true;
                self.notify_policy(&PolicyEvent::Ready { workers: self.place.cloud as u32 });
                CLOUD_MESSAGE
            }
            Message::Gone => self.on_service_lost("the service is gone"),
        }
    }

    /// Handles the answer of some items as ADAPTIVE's run does. Returns what that costs the host; `None`: it was not waited for.
    fn on_answer(&mut self, side: Side, answer: PieceAnswer, spent: Nanos) -> Option<Nanos> {
        let PieceAnswer { batch, first, items, attempt, what } = answer;
        let at = side as usize;
        let mut answered = 0;
        let (outcome, accuses, lost) = match what {
            AnswerKind::Done(wall) => {
                answered = items;
                let wall = Duration::from_nanos(wall);
                (Outcome::Done(Results { wall, ..Results::default() }), false, false)
            }
            AnswerKind::Lost(item) => {
                let loss =
                    WorkerLoss { running: Running::Item((item - first) as u32), death: self.exit_of(item) };
                let accuses = split_after_crash::accuses(&loss);
                let lost = !accuses || self.result.answered[at] == 0;
                (
                    Outcome::Lost(placeholder(batch, first, items).piece(batch, 0, items, attempt), loss),
                    accuses,
                    lost,
                )
            }
            AnswerKind::Agent => (
                Outcome::Returned(placeholder(batch, first, items).piece(batch, 0, items, attempt)),
                false,
                true,
            ),
        };
        let bytes = f64::from(answered) * self.place.bytes.1;
        if side == Side::Cloud && !matches!(what, AnswerKind::Agent) {
            let charge = seconds(spent) * self.place.cpu_second + bytes * self.place.result_byte;
            if !self.due.contains(&batch) {
                self.result.cancelled_credits += charge;
                return None;
            }
            if self.result.credits + charge > self.place.cap {
                self.on_service_lost("out of credits");
                return None;
            }
            self.result.credits += charge;
        }
        let copy = self.in_flight.landed(side, Completion { batch, first, items, outcome }, accuses);
        let of = copy.of?;
        let event = match what {
            AnswerKind::Done(wall) => {
                PolicyEvent::Answered { batch: of, side, items, wall: seconds(wall), bytes: bytes as u64 }
            }
            AnswerKind::Lost(_) | AnswerKind::Agent => PolicyEvent::Back { batch: of, side, items, lost },
        };
        for event in copy.seen(side, event) {
            self.notify_policy(&event);
        }
        for cancel in copy.cancel {
            self.cancel(&cancel);
        }
        for (side, completion) in copy.completions {
            self.on_completion(side, completion);
        }
        Some(u64::from(items) * nanos(World::local(1).host.item))
    }

    /// How an item ends its worker.
    fn exit_of(&self, item: u64) -> WorkerExit {
        let cause = match self.items.first_fault(item, item + 1) {
            Some((_, Fault::Hangs)) => ExitReason::Timeout(Duration::from_secs_f64(self.place.item_timeout)),
            _ => ExitReason::Signal(6),
        };
        WorkerExit { worker: String::new(), pid: 0, cause, refused: None, stderr: Vec::new() }
    }

    /// As the host's adapter takes a completion.
    fn on_completion(&mut self, side: Side, completion: Completion) {
        let Completion { batch, first, items, outcome } = completion;
        match outcome {
            Outcome::Done(results) => {
                self.result.answered[side as usize] += u64::from(items);
                self.drive.answered(batch.0, first, items, nanos(results.wall));
            }
            Outcome::Returned(rest) => {
                // Two parts of one batch may come back, and here a name tells what is on its way.
                self.drive.on_returned(batch.0, items);
                let name = BatchId(self.drive.name(items));
                self.resubmit_queue.insert(first, rest.piece(name, 0, items, rest.attempt()));
            }
            Outcome::Lost(lost, loss) => {
                self.drive.on_returned(batch.0, items);
                for part in split_after_crash::after_loss(lost.items(), lost.attempt(), 0, &loss) {
                    match part {
                        Part::Again(range, attempt) => {
                            let name = BatchId(self.drive.name(range.end - range.start));
                            let piece = lost.piece(name, range.start, range.end, attempt);
                            self.resubmit_queue.insert(piece.first(), piece);
                        }
                        Part::Answer(item, _) => {
                            self.result.failed += 1;
                            self.drive.failed(first + u64::from(item));
                        }
                    }
                }
            }
        }
    }

    /// Takes back what the service has.
    fn on_service_lost(&mut self, why: &str) -> Nanos {
        self.open = false;
        self.dead = true;
        if self.mode == Mode::Cloud {
            self.failed = true;
        }
        self.notify_policy(&PolicyEvent::Gone { why: why.to_owned() });
        self.sent[1].clear();
        self.due.clear();
        for (batch, items, completions) in self.in_flight.withdraw_side(Side::Cloud) {
            self.notify_policy(&PolicyEvent::Back { batch, side: Side::Cloud, items, lost: false });
            for completion in completions {
                self.on_completion(Side::Local, completion);
            }
        }
        CLOUD_MESSAGE
    }

    /// A side need not answer a batch any more.
    fn cancel(&mut self, cancel: &Cancel) {
        let at = cancel.side as usize;
        for name in &cancel.names {
            self.due.remove(name);
            if self.sent[at].remove(name).is_some() {
                let ends = self.groups[at].cancel(name.0, self.now, self.items);
                self.expect(cancel.side, ends);
            }
        }
    }
}

/// A number below 1 that the seed and a count name.
fn chance(seed: u64, count: u64) -> f64 {
    let mut mixed = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ count.wrapping_mul(0xd1b5_4a32_d192_ed03);
    mixed ^= mixed >> 29;
    mixed = mixed.wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed ^= mixed >> 32;
    (mixed >> 11) as f64 / (1u64 << 53) as f64
}
