//! Signatures of requests and answers: HMAC-SHA256 over a canonical string. The client signs requests and
//! verifies answers, the service does the reverse. `docs/protocol.md` has test vectors.

use std::fmt;
use std::str::FromStr;

use ring::digest::SHA256;
use ring::hmac;

use crate::model::hex::hexadecimal;

/// The protocol's version in paths, headers and canonical strings.
pub const PROTOCOL: u32 = 1;
/// Request and answer: the version that the sender uses.
pub const HEADER_PROTOCOL: &str = "fastmap-protocol";
/// Request: seconds since 1970, in decimal.
pub const HEADER_TIMESTAMP: &str = "fastmap-timestamp";
/// Request: 32 hexadecimal digits that no other request of the token has used.
pub const HEADER_NONCE: &str = "fastmap-nonce";
/// Request: SHA-256 of the body, in hexadecimal.
pub const HEADER_DIGEST: &str = "fastmap-digest";
/// Request and answer: the signature, in hexadecimal.
pub const HEADER_SIGNATURE: &str = "fastmap-signature";

const HALF: usize = 32;

/// A user's secret: 64 characters of [0-9a-z]. The first half identifies the token; the second half is the
/// signing key and is never sent. `Debug` does not show it, and there is no `Display`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

/// Error for a text that is not a valid secret. The message does not repeat the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a secret is 64 characters of 0-9 and a-z; this one has {length} characters{}", wrong(*.strange))]
pub struct SecretError {
    length: usize,
    strange: bool,
}

fn wrong(strange: bool) -> &'static str {
    if strange { ", some of them others" } else { "" }
}

impl FromStr for Secret {
    type Err = SecretError;

    fn from_str(text: &str) -> Result<Self, SecretError> {
        let strange = !text.bytes().all(|byte| byte.is_ascii_digit() || byte.is_ascii_lowercase());
        match text.len() == 2 * HALF && !strange {
            true => Ok(Secret(text.to_owned())),
            false => Err(SecretError { length: text.chars().count(), strange }),
        }
    }
}

impl Secret {
    /// The half that identifies the token; it is sent with each request.
    pub fn token(&self) -> &str {
        &self.0[..HALF]
    }

    /// The half that signs.
    pub fn key(&self) -> SigningKey {
        let mut key = [0; HALF];
        key.copy_from_slice(&self.0.as_bytes()[HALF..]);
        SigningKey(key)
    }

    /// The whole text, to show it to its owner once.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// The signing half of a secret: its 32 characters, as they are, are the HMAC's key.
#[derive(Clone, PartialEq, Eq)]
pub struct SigningKey([u8; HALF]);

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningKey(…)")
    }
}

impl From<[u8; HALF]> for SigningKey {
    fn from(bytes: [u8; HALF]) -> Self {
        SigningKey(bytes)
    }
}

/// The signed fields of a request.
#[derive(Clone, Copy, Debug)]
pub struct RequestHead<'a> {
    /// In capitals.
    pub method: &'a str,
    /// As in the request line, percent-encoding included.
    pub path: &'a str,
    /// As after the `?`; empty if there is no query.
    pub query: &'a str,
    /// Seconds since 1970.
    pub timestamp: u64,
    /// [`HEADER_NONCE`].
    pub nonce: &'a str,
    /// [`HEADER_DIGEST`].
    pub digest: &'a str,
}

/// The signed fields of an answer. They bind it to its request, run and batch.
#[derive(Clone, Copy, Debug)]
pub struct ResponseHead<'a> {
    /// The request's.
    pub nonce: &'a str,
    /// The HTTP status.
    pub status: u16,
    /// The run in the request's path; empty if there is none.
    pub run: &'a str,
    /// The seq in the request's path, as written there; empty if there is none.
    pub seq: &'a str,
    /// SHA-256 of the body, in hexadecimal.
    pub digest: &'a str,
}

/// The signed fields of one event of a stream. A stream's end is not known when its head is sent.
#[derive(Clone, Copy, Debug)]
pub struct EventHead<'a> {
    /// The nonce of the request that opened the stream.
    pub nonce: &'a str,
    /// The run.
    pub run: &'a str,
    /// The event's number in the stream.
    pub id: u64,
    /// The event's name.
    pub name: &'a str,
    /// SHA-256 of the event's first data line, in hexadecimal.
    pub digest: &'a str,
}

impl RequestHead<'_> {
    fn canonical(&self) -> String {
        let RequestHead { method, path, query, timestamp, nonce, digest } = self;
        format!("fastmap-request-v1\n{method}\n{path}\n{query}\n{timestamp}\n{nonce}\n{digest}")
    }
}

impl ResponseHead<'_> {
    fn canonical(&self) -> String {
        let ResponseHead { nonce, status, run, seq, digest } = self;
        format!("fastmap-response-v1\n{nonce}\n{status}\n{run}\n{seq}\n{digest}")
    }
}

impl EventHead<'_> {
    fn canonical(&self) -> String {
        let EventHead { nonce, run, id, name, digest } = self;
        format!("fastmap-event-v1\n{nonce}\n{run}\n{id}\n{name}\n{digest}")
    }
}

impl SigningKey {
    /// The key's bytes, for the store.
    pub fn bytes(&self) -> &[u8; HALF] {
        &self.0
    }

    /// Signs a request.
    pub fn sign_request(&self, head: &RequestHead<'_>) -> String {
        self.sign(&head.canonical())
    }

    /// Returns whether the signature is valid for that request under this key, compared in constant time.
    pub fn verify_request(&self, head: &RequestHead<'_>, signature: &str) -> bool {
        self.verify(&head.canonical(), signature)
    }

    /// Signs an answer.
    pub fn sign_response(&self, head: &ResponseHead<'_>) -> String {
        self.sign(&head.canonical())
    }

    /// Returns whether the signature is valid for that answer under this key.
    pub fn verify_response(&self, head: &ResponseHead<'_>, signature: &str) -> bool {
        self.verify(&head.canonical(), signature)
    }

    /// Signs an event.
    pub fn sign_event(&self, head: &EventHead<'_>) -> String {
        self.sign(&head.canonical())
    }

    /// Returns whether the signature is valid for that event under this key.
    pub fn verify_event(&self, head: &EventHead<'_>, signature: &str) -> bool {
        self.verify(&head.canonical(), signature)
    }

    fn hmac(&self) -> hmac::Key {
        hmac::Key::new(hmac::HMAC_SHA256, &self.0)
    }

    fn sign(&self, text: &str) -> String {
        hexadecimal(hmac::sign(&self.hmac(), text.as_bytes()).as_ref())
    }

    fn verify(&self, text: &str, signature: &str) -> bool {
        let Some(signature) = bytes_of(signature) else { return false };
        hmac::verify(&self.hmac(), text.as_bytes(), &signature).is_ok()
    }
}

/// SHA-256 in hexadecimal: the name of bodies, executables and contexts.
pub fn digest(bytes: &[u8]) -> String {
    hexadecimal(ring::digest::digest(&SHA256, bytes).as_ref())
}

/// Returns whether a text has the form of a [`digest`].
pub fn is_digest(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

fn bytes_of(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).filter(|_| !byte.is_ascii_uppercase());
    let pairs = text.as_bytes().chunks(2);
    pairs.map(|pair| Some((digit(*pair.first()?)? * 16 + digit(*pair.get(1)?)?) as u8)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "0123456789abcdefghijklmnopqrstuvwxyz0123456789abcdefghijklmnopqr";

    /// The vectors of docs/protocol.md: changing one breaks every client.
    #[test]
    fn signatures_match_the_documented_vectors() {
        let secret: Secret = SECRET.parse().expect("a secret");
        assert_eq!(secret.token(), "0123456789abcdefghijklmnopqrstuv");
        let body = digest(br#"{"seqs":[1,2]}"#);
        let request = RequestHead {
            method: "POST",
            path: "/api/v1/runs/0f8e/ack",
            query: "",
            timestamp: 1_760_000_000,
            nonce: "00112233445566778899aabbccddeeff",
            digest: &body,
        };
        let signature = secret.key().sign_request(&request);
        let vectors = include_str!("../../../docs/protocol.md");
        assert!(vectors.contains(&format!("request digest    {body}")), "request digest    {body}");
        assert!(vectors.contains(&format!("request signature {signature}")), "request signature {signature}");
        assert!(secret.key().verify_request(&request, &signature));
        assert!(!secret.key().verify_request(&RequestHead { method: "PUT", ..request }, &signature));

        let body = digest(br#"{"deleted":2}"#);
        let response =
            ResponseHead { nonce: request.nonce, status: 200, run: "0f8e", seq: "", digest: &body };
        let signature = secret.key().sign_response(&response);
        assert!(vectors.contains(&format!("answer digest     {body}")), "answer digest     {body}");
        assert!(vectors.contains(&format!("answer signature  {signature}")), "answer signature  {signature}");
        assert!(secret.key().verify_response(&response, &signature));
        assert!(!secret.key().verify_response(&ResponseHead { status: 402, ..response }, &signature));
    }

    #[test]
    fn invalid_secrets_are_rejected_and_not_repeated() {
        for wrong in
            ["", "short", &SECRET[1..], &SECRET.replace('0', "A"), &format!("{SECRET}0"), &"é".repeat(32)]
        {
            let error = wrong.parse::<Secret>().expect_err("no secret").to_string();
            assert!(wrong.is_empty() || !error.contains(wrong), "{error}");
        }
        assert!(!format!("{:?}", SECRET.parse::<Secret>()).contains("0123"));
    }

    #[test]
    fn non_hexadecimal_signatures_are_invalid() {
        let key = SECRET.parse::<Secret>().expect("a secret").key();
        let head = ResponseHead { nonce: "", status: 200, run: "", seq: "", digest: "" };
        let good = key.sign_response(&head);
        for wrong in [&good[1..], &good[2..], &good.to_uppercase(), "é", "zz", ""] {
            assert!(!key.verify_response(&head, wrong), "{wrong}");
        }
    }
}
