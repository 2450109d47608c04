//! Events that the policy receives, and its answers: plain data that can be written to a trace and read again.

use serde::{Deserialize, Serialize};

/// One of the two places where a batch can run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// The workers of this machine.
    Local,
    /// The service's.
    Cloud,
}

impl Side {
    /// The other one.
    pub fn other(self) -> Side {
        match self {
            Side::Local => Side::Cloud,
            Side::Cloud => Side::Local,
        }
    }
}

/// Something that was seen. Times are seconds, amounts of money credits.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "event")]
pub enum Event {
    /// A batch was handed to a side; to the second one where it is repeated.
    Sent {
        /// Its number.
        batch: u64,
        /// Where it went.
        side: Side,
        /// Index in the input of its first item.
        first: u64,
        /// How many items it has.
        items: u32,
        /// Bytes of its items.
        bytes: u64,
    },
    /// Items of a batch were answered.
    Answered {
        /// Its number.
        batch: u64,
        /// The side that answered.
        side: Side,
        /// How many items.
        items: u32,
        /// What a worker spent on them.
        wall: f64,
        /// Bytes of their results.
        bytes: u64,
    },
    /// Items of a batch came back without an answer, or are no longer wanted from that side.
    Back {
        /// Its number.
        batch: u64,
        /// From where.
        side: Side,
        /// How many items.
        items: u32,
        /// Its worker died, or the service could not do it, and no item is known to be to blame.
        lost: bool,
    },
    /// What the service answered before anything was charged.
    Probed(Probe),
    /// Bytes of the upload that are still to be sent.
    Uploading {
        /// How many.
        left: u64,
    },
    /// The run is open in the service: it takes batches.
    Ready {
        /// Workers that share them.
        workers: u32,
    },
    /// One side has another number of workers than it said.
    Workers {
        /// Which.
        side: Side,
        /// How many.
        workers: u32,
    },
    /// No answer of use comes from the service any more, which may stand still.
    Silent,
    /// Answers come again.
    Heard,
    /// The service is of no use any more in this map.
    Gone {
        /// Why, in words.
        why: String,
    },
}

/// What a service tells before anything is opened there.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Probe {
    /// Seconds from a request to its answer.
    pub round_trip: f64,
    /// Bytes that must be uploaded before the run can be opened.
    pub upload: u64,
    /// Credits for a second of CPU time.
    pub cpu_second: f64,
    /// Credits for a byte of results.
    pub result_byte: f64,
    /// Credits that can be spent: the least of the balance and the run's cap.
    pub spendable: f64,
}

/// What is to be done about the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// Nothing new.
    Stay,
    /// Ask it what it costs and how far it is: a round trip, free of charge.
    Probe,
    /// Upload what is missing and open a run. Nothing is charged for that.
    Open,
    /// Send it nothing more.
    Leave,
}

/// Which batch to do a second time, where.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Repeat {
    /// Its number.
    pub batch: u64,
    /// Where it is to be done as well.
    pub to: Side,
    /// In how many pieces: one of its items may hang, and the others are not to wait for that.
    #[serde(default = "one")]
    pub pieces: u32,
}

fn one() -> u32 {
    1
}

/// What a decision was made by: the numbers behind the words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Forecast {
    /// Items that are not answered, and not with the service.
    pub rest: f64,
    /// Seconds until the local workers alone have answered them.
    pub alone: f64,
    /// Seconds until both together have.
    pub together: f64,
    /// Credits that the service would then have cost.
    pub credits: f64,
}
