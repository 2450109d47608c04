//! Links that sign a browser in to the dashboard.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::{Extension, Json};
use fastmap_backends::cloud::{DashboardLink, ProblemCode, digest, hexadecimal};

use crate::app::Gateway;
use crate::app::caller::Caller;
use crate::app::nonces::REMEMBER;
use crate::clock::now_ms;
use crate::keys::random;
use crate::problem::{Problems, Refusal, refuse};
use crate::store::{Store, StoreError};

/// A link is good for so long.
pub(crate) const LINK: Duration = Duration::from_mins(10);

/// Mints a link for a token; gives its path.
///
/// # Errors
/// If the database fails.
pub(crate) async fn link(store: &Store, token: i64) -> Result<String, StoreError> {
    let code = random::<24>().map_err(|error| StoreError::Refused(format!("no random bytes: {error}")))?;
    let code = hexadecimal(&code);
    store.add_link(&digest(code.as_bytes()), token, now_ms() + LINK.as_millis() as i64).await?;
    Ok(format!("/dashboard/sign-in/{code}"))
}

/// A link that signs a browser in to this account, once.
#[utoipa::path(post, path = "/dashboard", tag = "account",
    responses((status = 200, body = DashboardLink), Problems))]
pub(crate) async fn mint(
    State(gateway): State<Arc<Gateway>>,
    Extension(caller): Extension<Caller>,
) -> Result<Json<DashboardLink>, Refusal> {
    gateway.mints.admit(caller.account)?;
    // Each time it comes it does something: it comes once, at whichever gateway.
    let forgotten = now_ms() - REMEMBER.as_millis() as i64;
    if !gateway.store.is_new(caller.token, &caller.nonce, forgotten).await? {
        return Err(refuse(
            ProblemCode::NonceRepeated,
            "this nonce was used before; each request needs its own",
        ));
    }
    let path = link(&gateway.store, caller.token).await.map_err(|error| match error {
        StoreError::Refused(why) => refuse(ProblemCode::Internal, why),
        other => other.into(),
    })?;
    tracing::info!(account = caller.name, "a link to the dashboard was made");
    Ok(Json(DashboardLink { path, seconds: LINK.as_secs() }))
}
