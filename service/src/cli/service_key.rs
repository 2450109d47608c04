//! The service's key, opened for a database.

use std::path::Path;

use anyhow::bail;

use crate::keys::ServiceKey;
use crate::store::Store;

/// The service's key, which must be the database's. A key is made only for a database that has none: where it
/// is lost, a new one would be of no use, and would stand where the old one is to be put back.
pub(super) async fn open_key(store: &Store, path: &Path) -> anyhow::Result<ServiceKey> {
    if !path.exists() && store.is_claimed().await? {
        bail!(
            "the service's key {} is not there, and the tokens in the database were sealed with it: put it back \
             from its backup",
            path.display()
        );
    }
    let key = ServiceKey::open(path)?;
    store.claim(key.fingerprint()).await?;
    Ok(key)
}
