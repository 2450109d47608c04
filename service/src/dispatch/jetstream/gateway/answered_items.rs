//! Items whose outcome a gateway has taken lately. An agent whose reply was lost sends the outcome again, and another agent
//! may have had the same work: neither may take that for work which is not wanted, for its CPU time would be charged.

use std::collections::{HashMap, VecDeque};

use axum::body::Bytes;

use crate::dispatch::jetstream::messages::{DUPLICATE, Reply, Request};

/// The most recent items that are kept. An agent repeats a request for ten seconds: that is enough for 3,000 batches a
/// second, and takes some 6 MB.
const MOST: usize = 32_768;

#[derive(Debug, Default)]
pub(super) struct AnsweredItems {
    /// By token: where the agent whose outcome was taken has the work acknowledged.
    takers: HashMap<String, String>,
    /// Tokens, the oldest first.
    order: VecDeque<String>,
}

impl AnsweredItems {
    /// An outcome was taken of the agent that has this subject for the acknowledgement.
    pub(super) fn add(&mut self, token: &str, taker: String) {
        if self.order.len() >= MOST
            && let Some(oldest) = self.order.pop_front()
        {
            self.takers.remove(&oldest);
        }
        self.order.push_back(token.to_owned());
        self.takers.insert(token.to_owned(), taker);
    }

    /// Reply to a request about an item that is not pending: the taker's outcome gets the reply that was lost, another
    /// agent's is a duplicate. All else is not wanted.
    pub(super) fn repeated(&self, token: &str, request: &Request) -> Reply {
        match (self.takers.get(token), request) {
            (Some(taker), Request::Outcome(ack, _)) if taker == ack => Reply::Yes(Bytes::new()),
            (Some(_), Request::Outcome(..) | Request::Part(..)) => Reply::Yes(Bytes::from_static(DUPLICATE)),
            _ => Reply::No,
        }
    }
}
