//! Events that the policy receives, and its answers: plain data that can be written to a trace and read back.

use serde::{Deserialize, Serialize};

/// One of the two backends that can run a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// The workers of this machine.
    Local,
    /// The workers of the service.
    Cloud,
}

impl Side {
    /// The other side.
    pub fn other(self) -> Side {
        match self {
            Side::Local => Side::Cloud,
            Side::Cloud => Side::Local,
        }
    }
}

/// An event that the policy receives. Times are in seconds, amounts of money in credits.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "event")]
pub enum Event {
    /// A batch was submitted to a side; to the second one if it is repeated.
    Sent {
        /// Its number.
        batch: u64,
        /// The side that got it.
        side: Side,
        /// Index in the input of its first item.
        first: u64,
        /// Number of items.
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
        /// Number of items.
        items: u32,
        /// Worker time for them.
        wall: f64,
        /// Bytes of their results.
        bytes: u64,
    },
    /// Items of a batch returned without an answer, or are no longer wanted from that side.
    Back {
        /// Its number.
        batch: u64,
        /// The side that had them.
        side: Side,
        /// Number of items.
        items: u32,
        /// Whether its worker died, or the service could not run it, and no single item is known to be the
        /// cause.
        lost: bool,
    },
    /// The service's answer before anything is charged.
    Probed(Probe),
    /// Bytes of the upload that are still to be sent.
    Uploading {
        /// Number of bytes.
        left: u64,
    },
    /// The run is open in the service: it accepts batches.
    Ready {
        /// Workers that share them.
        workers: u32,
    },
    /// A side's number of workers has changed.
    Workers {
        /// The side.
        side: Side,
        /// Number of workers.
        workers: u32,
    },
    /// No valid answer has arrived from the service for a while; it may have stalled.
    Silent,
    /// Valid answers arrive again.
    Heard,
    /// The service is not used any more in this map.
    Gone {
        /// The reason, in words.
        why: String,
    },
}

/// Latency, upload and prices of a service, reported before a run is opened there.
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
    /// Credits that can be spent: the lesser of the balance and the run's cap.
    pub spendable: f64,
}

/// Decision about the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// No change.
    Stay,
    /// Request its prices and status: a round trip, free of charge.
    Probe,
    /// Upload what is missing and open a run. Both are free of charge.
    Open,
    /// Send it no more batches.
    Leave,
}

/// Decision to run a batch a second time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Repeat {
    /// Its number.
    pub batch: u64,
    /// The side that runs it as well.
    pub to: Side,
    /// Number of pieces. One of its items may hang, and the others should not wait for it.
    #[serde(default = "one")]
    pub pieces: u32,
}

fn one() -> u32 {
    1
}

/// Predicted ends and cost, by which a decision was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Forecast {
    /// Items that are neither answered nor at the service.
    pub rest: f64,
    /// Seconds until the local workers alone have answered them.
    pub alone: f64,
    /// Seconds until both sides together have.
    pub together: f64,
    /// Credits that the service would have cost by then.
    pub credits: f64,
}
