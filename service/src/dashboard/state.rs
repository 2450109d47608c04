//! State of the pages: the gateway's, and what pages remember between requests.

use std::sync::Arc;

use axum::extract::FromRef;

use super::attempts::Attempts;
use crate::app::Gateway;
use crate::app::limits::SlotLimit;

/// Pages that may be alive at a time: of each account whatever others have, of one account, and of all.
const WATCHERS_ALWAYS: usize = 2;
const WATCHERS_OF_ONE: usize = 24;
const WATCHERS: usize = 256;

/// State of the routes below `/dashboard`. Handlers extract the part that they use.
#[derive(Clone, Debug)]
pub(super) struct Pages {
    pub(super) gateway: Arc<Gateway>,
    attempts: Arc<Attempts>,
    watchers: Arc<Watchers>,
}

impl Pages {
    pub(super) fn new(gateway: &Arc<Gateway>) -> Self {
        Pages { gateway: Arc::clone(gateway), attempts: Arc::default(), watchers: Arc::default() }
    }
}

impl FromRef<Pages> for Arc<Gateway> {
    fn from_ref(pages: &Pages) -> Self {
        Arc::clone(&pages.gateway)
    }
}

impl FromRef<Pages> for Arc<Attempts> {
    fn from_ref(pages: &Pages) -> Self {
        Arc::clone(&pages.attempts)
    }
}

impl FromRef<Pages> for Arc<Watchers> {
    fn from_ref(pages: &Pages) -> Self {
        Arc::clone(&pages.watchers)
    }
}

/// The places of pages that are alive.
#[derive(Debug)]
pub(super) struct Watchers(pub(super) SlotLimit);

impl Default for Watchers {
    fn default() -> Self {
        Watchers(SlotLimit::new(WATCHERS_ALWAYS, WATCHERS_OF_ONE, WATCHERS))
    }
}
