//! What a run may cost, and whether the user agrees: the quote that ADAPTIVE decides by, and the user's confirmation. Called by
//! the run's thread before anything is uploaded.

use std::sync::Arc;

use crate::Quote;
use crate::cloud::notices::{ConfirmError, Estimate, Notice, Probe};
use crate::cloud::probe;
use crate::cloud::protocol::Auth;
use crate::cloud::run_handle::RunHandle;
use crate::cloud::session::Stop;
use crate::model::error::BackendError;

/// Says what the run costs, while it is not decided that it is to be opened.
///
/// # Errors
/// If the run ends meanwhile, or what is to be uploaded can't be looked up.
pub(crate) fn quote(shared: &RunHandle, auth: &Auth) -> Result<(), Stop> {
    if !shared.lock().waiting.is_empty() {
        return Ok(());
    }
    let upload = shared.session.to_upload(shared, &shared.job.context)?;
    let quote = Quote {
        round_trip: shared.session.round_trip().unwrap_or_default(),
        upload,
        cpu_hour: auth.prices.cpu_hour,
        result_gb: auth.prices.result_gb,
        spendable: shared.session.options.max_credits.unwrap_or(i64::MAX).min(auth.available),
    };
    shared.lock().quote = Some(quote);
    Ok(())
}

/// Asks whether the run may cost something, or says that it will.
///
/// # Errors
/// If it may not, or the run ends meanwhile.
pub(crate) fn ask(shared: &Arc<RunHandle>, auth: &Auth) -> Result<(), Stop> {
    let session = &shared.session;
    let (account, balance, prices) = (&auth.account, auth.balance, auth.prices);
    let max_credits = session.options.max_credits;
    let Some(confirm) = &session.options.confirm else {
        session.options.notices.notice(&Notice::Charging { account, balance, prices, max_credits });
        return Ok(());
    };
    let probe = match &session.options.probe {
        Some(backend) => probe::probe(shared, backend.as_ref()).map_err(Stop::Failed)?,
        None => None,
    };
    // All may have been answered by then.
    shared.await_work()?;
    let seen = shared.lock().seen.take();
    let probe = probe.or(seen.map(|seen| Probe {
        items: seen.items,
        cpu: seen.cpu,
        result_bytes: seen.result_bytes,
    }));
    let items = shared.job.items;
    let estimate = Estimate { account: account.clone(), balance, prices, max_credits, items, probe };
    let wanted = || shared.lock().end.is_none();
    let answer = confirm.charges_cancellable(&estimate, &wanted);
    if !wanted() {
        // Whatever was said: nothing is uploaded for a map that is over.
        return Err(Stop::Ended);
    }
    answer.map_err(|refused| {
        let why = match refused {
            ConfirmError::Declined => "the charges were declined",
            ConfirmError::NoTerminal => "the charges need a confirmation, and there is no terminal to ask at",
        };
        Stop::Failed(BackendError::Declined(format!(
            "{why}: nothing was sent to {}; use the policy local, or set Options::confirm_charges \
             (FASTMAP_CONFIRM_CHARGES) to false",
            session.http.url
        )))
    })
}
