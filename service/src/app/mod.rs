//! The gateway's state, which handlers of requests share: the settings, the database, dispatch, and what is bounded,
//! counted or remembered between requests. It knows no handler and no route.
//!
//! `state` is all of it. `caller` is the account of a request, `key_cache` the keys that requests are checked with,
//! `nonces` those that were used; `connections` and `limits` bound what one account may take; `in_flight` is the table of
//! batches, `answer_content` an answer on its way to a client, `lease_table` the leases of runs, `upload_locks` the uploads
//! under way, `blocking` work that waits for the disk.

pub(crate) mod answer_content;
pub(crate) mod blocking;
pub(crate) mod caller;
pub(crate) mod connections;
pub(crate) mod in_flight;
pub(crate) mod key_cache;
pub(crate) mod lease_table;
pub(crate) mod limits;
pub(crate) mod nonces;
mod state;
pub(crate) mod upload_locks;

pub use state::{Gateway, Parts};
pub(crate) use state::{SERVING, STOPPING, STREAMS, STREAMS_OF_ONE};
