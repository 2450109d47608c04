//! Cost of a run before it starts: the quote for ADAPTIVE's decision, and the user's confirmation. Called by
//! the run's thread before anything is uploaded.

use std::sync::Arc;

use crate::Quote;
use crate::cloud::notices::{ConfirmError, Estimate, Notice, Probe};
use crate::cloud::probe;
use crate::cloud::protocol::Auth;
use crate::cloud::run_handle::RunHandle;
use crate::cloud::session::Stop;
use crate::model::error::BackendError;

/// Sets the run's quote, unless its first batch was submitted already.
///
/// # Errors
/// If the run ends meanwhile, or the uploads' status can't be requested.
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

/// Asks the user to confirm the charges, or only notifies that the account is charged.
///
/// # Errors
/// If the user declines, or the run ends meanwhile.
pub(crate) fn confirm(shared: &Arc<RunHandle>, auth: &Auth) -> Result<(), Stop> {
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
    // The probe may have answered all items.
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
        // Ignore the answer: nothing is uploaded for a map that has ended.
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
