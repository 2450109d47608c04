//! Secrets of clients, and the key with which the service keeps their signing halves.
//! The key is a file beside the database: a copy of the database alone can sign for no account.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::{Context, bail};
use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use fastmap_backends::cloud::{Secret, SigningKey, digest};

const NONCE: usize = 24;
const KEY: usize = 32;

/// The service's key.
#[derive(Clone)]
pub struct ServiceKey {
    cipher: XChaCha20Poly1305,
    fingerprint: String,
}

impl std::fmt::Debug for ServiceKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ServiceKey(…)")
    }
}

/// Fills a buffer from the system's generator.
///
/// # Errors
/// If it has none.
pub fn random<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(io::Error::other)?;
    Ok(bytes)
}

/// A new secret: 64 characters, each of [0-9a-z] with the same chance.
///
/// # Errors
/// If the system gives no random bytes.
pub fn new_secret() -> io::Result<Secret> {
    const LETTERS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";
    let mut text = String::with_capacity(64);
    while text.len() < 64 {
        // 252 is the largest multiple of 36 in a byte: what lies above would favour some letters.
        let fair = random::<64>()?.into_iter().filter(|byte| *byte < 252);
        text.extend(fair.take(64 - text.len()).map(|byte| char::from(LETTERS[usize::from(byte % 36)])));
    }
    text.parse().map_err(io::Error::other)
}

/// Makes a key for its owner alone. Whole or not at all, and never over another: several gateways may begin at once.
fn make(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(&random::<KEY>()?)?;
    file.as_file().sync_all()?;
    match file.persist_noclobber(path) {
        Err(lost) if lost.error.kind() != io::ErrorKind::AlreadyExists => Err(lost.error),
        _ => Ok(()),
    }
}

impl ServiceKey {
    /// Reads the key; makes it if there is none.
    ///
    /// # Errors
    /// If it can't be read or written, is of the wrong length, or if others may read it.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        let shown = path.display();
        if !path.exists() {
            make(path).with_context(|| format!("cannot make the service's key {shown}"))?;
        }
        let metadata =
            fs::metadata(path).with_context(|| format!("cannot read the service's key {shown}"))?;
        // A group may: so come secrets that root has mounted for a service.
        if metadata.mode() & 0o037 != 0 {
            bail!("others may read the service's key {shown}; say: chmod 600 {shown}");
        }
        let bytes = fs::read(path).with_context(|| format!("cannot read the service's key {shown}"))?;
        let Ok(cipher) = XChaCha20Poly1305::new_from_slice(&bytes) else {
            bail!("the service's key {shown} has {} bytes, not {KEY}", bytes.len());
        };
        // Tells keys apart, and nothing of them: 256 random bits can't be found from a hash.
        let fingerprint = digest(&[b"fastmap service key ", &bytes[..]].concat());
        Ok(ServiceKey { cipher, fingerprint })
    }

    /// A text that is the same for the same key alone; no secret.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// Encrypts the signing half of the token whose name hashes to `hash`; it opens for that token alone.
    ///
    /// # Errors
    /// If the system gives no random bytes.
    pub fn seal(&self, key: &SigningKey, hash: &str) -> io::Result<Vec<u8>> {
        let nonce = random::<NONCE>()?;
        let payload = Payload { msg: key.bytes(), aad: hash.as_bytes() };
        let sealed = self
            .cipher
            .encrypt(&XNonce::from(nonce), payload)
            .map_err(|_| io::Error::other("cannot encrypt"))?;
        Ok([&nonce[..], &sealed].concat())
    }

    /// Decrypts what [`ServiceKey::seal`] made; `None` for anything else.
    pub fn open_sealed(&self, sealed: &[u8], hash: &str) -> Option<SigningKey> {
        let (nonce, sealed) = sealed.split_first_chunk::<NONCE>()?;
        let payload = Payload { msg: sealed, aad: hash.as_bytes() };
        let key = self.cipher.decrypt(&XNonce::from(*nonce), payload).ok()?;
        Some(SigningKey::from(<[u8; 32]>::try_from(key).ok()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signing_half_opens_with_the_same_key_for_the_same_token_alone() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("key");
        let key = ServiceKey::open(&path).expect("a new key");
        let secret = new_secret().expect("random bytes");
        let sealed = key.seal(&secret.key(), "one").expect("random bytes");
        assert!(!sealed.windows(8).any(|bytes| secret.key().bytes().starts_with(bytes)));
        let again = ServiceKey::open(&path).expect("the same key");
        assert_eq!(again.open_sealed(&sealed, "one"), Some(secret.key()));
        assert_eq!(again.open_sealed(&sealed, "two"), None);
        assert_eq!(again.open_sealed(&sealed[1..], "one"), None);
        let other = ServiceKey::open(&folder.path().join("other")).expect("another key");
        assert_eq!(other.open_sealed(&sealed, "one"), None);
    }

    #[test]
    fn a_key_that_others_may_read_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("key");
        ServiceKey::open(&path).expect("a new key");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("it is ours");
        assert!(ServiceKey::open(&path).expect_err("it is open").to_string().contains("chmod 600"));
    }

    #[test]
    fn secrets_differ_and_use_all_letters() {
        let secrets: Vec<Secret> = (0..40).map(|_| new_secret().expect("random bytes")).collect();
        let all: String = secrets.iter().map(Secret::reveal).collect();
        assert!(('a'..='z').chain('0'..='9').all(|letter| all.contains(letter)));
        assert!((1..secrets.len()).all(|at| !secrets[..at].contains(&secrets[at])));
    }
}
