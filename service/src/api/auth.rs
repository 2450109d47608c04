//! Authentication: requests are checked, answers signed. Nothing of a request is decoded, and its body not taken,
//! before its signature is known to be good; whatever is answered to a known key is signed.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{OriginalUri, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use fastmap_backends::cloud::{
    HEADER_DIGEST, HEADER_NONCE, HEADER_PROTOCOL, HEADER_SIGNATURE, HEADER_TIMESTAMP, PROTOCOL, Problem,
    ProblemCode, RequestHead, ResponseHead, SigningKey, digest, hexadecimal, is_digest,
};
use http_body_util::BodyExt;
use sha2::{Digest, Sha256};
use tokio::time::timeout;

use crate::app::Gateway;
use crate::app::caller::{BodyDigest, Caller, SignsItself};
use crate::app::connections::Connection;
use crate::app::key_cache::Known;
use crate::app::limits::{BodyPermit, Memory};
use crate::app::nonces::{Nonce, SKEW};
use crate::problem::{Refusal, crowded, problem_response, refuse};

/// The headers that a request is judged by.
struct Claim {
    token: String,
    timestamp: u64,
    nonce: String,
    digest: String,
    signature: String,
}

impl Claim {
    fn of(headers: &HeaderMap) -> Result<Claim, Refusal> {
        let get = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let need = |name: &str| {
            get(name).ok_or_else(|| refuse(ProblemCode::BadRequest, format!("the header {name} is missing")))
        };
        if get(HEADER_PROTOCOL).is_some_and(|version| version != PROTOCOL.to_string()) {
            let detail =
                format!("this service speaks version {PROTOCOL} of the protocol; install a client that does");
            return Err(refuse(ProblemCode::UnsupportedProtocol, detail));
        }
        let bearer = get(header::AUTHORIZATION.as_str()).and_then(|value| value.strip_prefix("Bearer "));
        let Some(token) = bearer else {
            let detail = "the header authorization must be: Bearer, and the first half of the secret";
            return Err(refuse(ProblemCode::Unauthorized, detail));
        };
        let wrong = |name: &str, what: &str| {
            refuse(ProblemCode::BadRequest, format!("the header {name} is not {what}"))
        };
        let timestamp = need(HEADER_TIMESTAMP)?
            .parse()
            .map_err(|_| wrong(HEADER_TIMESTAMP, "a number of seconds since 1970"))?;
        let nonce = need(HEADER_NONCE)?;
        if nonce.len() != 32 || u128::from_str_radix(nonce, 16).is_err() || nonce.starts_with('+') {
            return Err(wrong(HEADER_NONCE, "32 hexadecimal digits"));
        }
        let digest = need(HEADER_DIGEST)?;
        if !is_digest(digest) {
            return Err(wrong(HEADER_DIGEST, "a SHA-256 in lower-case hexadecimal"));
        }
        Ok(Claim {
            token: token.to_owned(),
            timestamp,
            nonce: nonce.to_owned(),
            digest: digest.to_owned(),
            signature: need(HEADER_SIGNATURE)?.to_owned(),
        })
    }
}

/// Checks a request, lets it pass, and signs the answer.
pub(crate) async fn authenticate(
    State(gateway): State<Arc<Gateway>>,
    request: Request,
    next: Next,
) -> Response {
    let (mut parts, mut body) = request.into_parts();
    // What was signed is the path as it was sent; the router has taken its begin away.
    if let Some(OriginalUri(uri)) = parts.extensions.get().cloned() {
        parts.uri = uri;
    }
    let (run, seq) = names(parts.uri.path());
    let (known, claim) = match identify(&gateway, &parts).await {
        Ok(identified) => identified,
        // No key signs this: it is judged by its status alone.
        Err(refusal) => {
            drain(&mut body).await;
            return finish(refusal.into_response());
        }
    };
    let (nonce, key) = (claim.nonce.clone(), known.key.clone());
    let response = match admit(&gateway, &known, claim, parts, &mut body).await {
        Ok(request) => next.run(request).await,
        Err(refusal) => {
            drain(&mut body).await;
            refusal.into_response()
        }
    };
    let signer = Signer { key, nonce, run, seq };
    sign(finish(response), &signer, &gateway.memory, known.account).await
}

fn finish(mut response: Response) -> Response {
    response.headers_mut().insert(HEADER_PROTOCOL, HeaderValue::from(PROTOCOL));
    response
}

/// Whose request it is, by its signature.
async fn identify(gateway: &Gateway, request: &Parts) -> Result<(Arc<Known>, Claim), Refusal> {
    let claim = Claim::of(&request.headers)?;
    let hash = digest(claim.token.as_bytes());
    let Some(known) = gateway.known(&hash).await? else {
        return Err(refuse(ProblemCode::Unauthorized, "there is no such token"));
    };
    let uri = &request.uri;
    let head = RequestHead {
        method: request.method.as_str(),
        path: uri.path(),
        query: uri.query().unwrap_or_default(),
        timestamp: claim.timestamp,
        nonce: &claim.nonce,
        digest: &claim.digest,
    };
    match known.key.verify_request(&head, &claim.signature) {
        true => Ok((known, claim)),
        false => {
            Err(refuse(ProblemCode::BadSignature, "the signature is not that of this request by this token"))
        }
    }
}

/// Whether this request of a known token is taken; takes its body.
async fn admit(
    gateway: &Gateway,
    known: &Known,
    claim: Claim,
    mut parts: Parts,
    body: &mut Body,
) -> Result<Request, Refusal> {
    if known.revoked {
        return Err(refuse(
            ProblemCode::TokenRevoked,
            "this token was revoked; make another with `fastmap token create`",
        ));
    }
    if known.has_expired() {
        return Err(refuse(ProblemCode::TokenExpired, "this token's time is over"));
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    if now.abs_diff(claim.timestamp) > SKEW {
        let detail =
            format!("the request is from {}, here it is {now} (seconds since 1970)", claim.timestamp);
        let problem = Problem { server_time: Some(now), ..Problem::new(ProblemCode::ClockSkew, detail) };
        return Err(problem.into());
    }
    if !gateway.rates.admit(known.account, Instant::now()) {
        let most = gateway.config.limits.requests_per_second;
        let problem =
            Problem::new(ProblemCode::TooManyRequests, format!("more than {most} requests in a second"));
        return Err(problem.retry_after(1).into());
    }
    let nonce = u128::from_str_radix(&claim.nonce, 16).unwrap_or_default();
    match gateway.nonces.admit(known.account, known.token, nonce, Instant::now()) {
        Nonce::New => {}
        Nonce::Repeated => {
            let detail = "this nonce was used before; each request needs its own";
            return Err(refuse(ProblemCode::NonceRepeated, detail));
        }
        Nonce::TooMany => {
            let detail = "too many requests of this account in the last minutes";
            return Err(Problem::new(ProblemCode::TooManyRequests, detail).retry_after(10).into());
        }
    }
    if let Some(connection) = parts.extensions.get::<Arc<Connection>>() {
        connection.is_of(known.account);
    }
    let most = body_limit(gateway, &parts.method, parts.uri.path());
    let length = content_length(&parts.headers);
    if length.is_some_and(|length| length > most) {
        return Err(too_large(most));
    }
    let mut held = gateway.memory.hold(known.account);
    let time = gateway.config.body_time;
    let taking = Taking { length, most, stall: gateway.config.stall_time.min(time), wanted: &claim.digest };
    let bytes = timeout(time, read_body(body, taking, &mut held)).await.unwrap_or_else(|_| {
        Err(refuse(ProblemCode::RequestTimeout, format!("the body took longer than {time:?}")))
    })?;
    parts.extensions.insert(Caller {
        account: known.account,
        token: known.token,
        name: known.name.clone(),
        nonce: claim.nonce,
        digest: claim.digest,
        key: known.key.clone(),
        held: Arc::new(held),
        token_hash: Arc::clone(&known.hash),
    });
    Ok(Request::from_parts(parts, Body::from(bytes)))
}

/// Room for the head of a batch, and for what zstd adds to what it can't compress.
const ROOM: u64 = 64 * 1024;

fn body_limit(gateway: &Gateway, method: &Method, path: &str) -> u64 {
    if [Method::GET, Method::HEAD, Method::DELETE].contains(method) {
        return 0;
    }
    let limits = &gateway.config.limits;
    let words: Vec<&str> = path.trim_start_matches("/api/v1/").split('/').collect();
    match words[..] {
        ["executables" | "contexts", _] => limits.part_bytes,
        ["runs", _, "batches", _] => limits.batch_bytes + ROOM,
        ["runs", _, "ack"] => 4 * ROOM,
        _ => ROOM,
    }
}

fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

fn too_large(most: u64) -> Refusal {
    refuse(ProblemCode::TooLarge, format!("this call takes at most {most} bytes"))
}

/// Bytes of the body of a refused request that are read, and how long it may take. A connection that is
/// closed with bytes unread is reset, and the client may not see the refusal.
const DRAINED: usize = 512 << 10;
const DRAINING: Duration = Duration::from_secs(2);

async fn drain(body: &mut Body) {
    let mut left = DRAINED;
    let drain = async {
        while !body.is_end_stream()
            && let Some(Ok(frame)) = body.frame().await
        {
            left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
            if left == 0 {
                return;
            }
        }
    };
    // What is left after this time is not read.
    let _ = timeout(DRAINING, drain).await;
}

/// How a body is taken.
struct Taking<'a> {
    /// What it is said to have, and may.
    length: Option<u64>,
    most: u64,
    /// Something of it comes within this.
    stall: Duration,
    wanted: &'a str,
}

/// Bytes that are taken for a body at once, at least, where it is said to have them.
const STEP: usize = 256 << 10;

async fn read_body(body: &mut Body, taking: Taking<'_>, held: &mut BodyPermit) -> Result<Bytes, Refusal> {
    let Taking { length, most, stall, wanted } = taking;
    let stalled =
        |_| refuse(ProblemCode::RequestTimeout, format!("nothing of the body has come for {stall:?}"));
    let mut bytes = Vec::new();
    let mut hasher = Sha256::new();
    while !body.is_end_stream()
        && let Some(frame) = timeout(stall, body.frame()).await.map_err(stalled)?
    {
        let frame =
            frame.map_err(|error| refuse(ProblemCode::BadRequest, format!("the body broke off: {error}")))?;
        let Ok(data) = frame.into_data() else { continue };
        let needed = bytes.len() + data.len();
        if needed as u64 > most {
            return Err(too_large(most));
        }
        if needed > bytes.capacity() {
            // What is said to come is not taken at once: it has not come yet.
            let said = length.unwrap_or(most) as usize;
            let capacity = (2 * needed).max(STEP).min(said).max(needed);
            if !held.grow((capacity - bytes.capacity()) as u64) {
                return Err(crowded());
            }
            bytes.reserve_exact(capacity - bytes.len());
        }
        hasher.update(&data);
        bytes.extend_from_slice(&data);
    }
    match hexadecimal(&hasher.finalize()) == wanted {
        true => Ok(bytes.into()),
        false => Err(refuse(
            ProblemCode::DigestMismatch,
            format!("the {} bytes of the body are not those that were signed", bytes.len()),
        )),
    }
}

/// The run and the seq that a path names.
fn names(path: &str) -> (String, String) {
    let mut words = path.trim_start_matches("/api/v1/").split('/');
    match (words.next(), words.next(), words.next(), words.next()) {
        (Some("runs"), Some(run), Some("batches"), Some(seq)) => (run.to_owned(), seq.to_owned()),
        (Some("runs"), Some(run), ..) => (run.to_owned(), String::new()),
        _ => Default::default(),
    }
}

/// What an answer is signed with.
struct Signer {
    key: SigningKey,
    nonce: String,
    run: String,
    seq: String,
}

impl Signer {
    fn sign(&self, parts: &mut axum::http::response::Parts, digest: &str) {
        let Signer { key, nonce, run, seq } = self;
        let head = ResponseHead { nonce, status: parts.status.as_u16(), run, seq, digest };
        if let Ok(signature) = HeaderValue::from_str(&key.sign_response(&head)) {
            parts.headers.insert(HEADER_SIGNATURE, signature);
        }
    }
}

async fn sign(response: Response, signer: &Signer, memory: &Memory, account: i64) -> Response {
    if response.extensions().get::<SignsItself>().is_some() {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    // It may be long, and is sent as it is read.
    if let Some(BodyDigest(known)) = parts.extensions.remove::<BodyDigest>() {
        signer.sign(&mut parts, &known);
        return Response::from_parts(parts, body);
    }
    // Made here, of bytes that are in memory.
    let bytes = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    // A path or a query that the framework can't read is refused by it in plain text.
    let text = parts
        .headers
        .get(header::CONTENT_TYPE)
        .is_some_and(|kind| kind.as_bytes().starts_with(b"text/plain"));
    let refusal = match text && parts.status.is_client_error() {
        true => Some(refuse(ProblemCode::BadRequest, String::from_utf8_lossy(&bytes))),
        false => None,
    };
    let digest_of_bytes = digest(&bytes);
    let (refusal, bytes) = match (refusal, memory.counted(account, bytes)) {
        (None, Some(bytes)) => (None, bytes),
        (refusal, _) => (Some(refusal.unwrap_or_else(crowded)), Bytes::new()),
    };
    let Some(Refusal(problem)) = refusal else {
        signer.sign(&mut parts, &digest_of_bytes);
        return Response::from_parts(parts, Body::from(bytes));
    };
    let bytes = Bytes::from(serde_json::to_vec(&problem).unwrap_or_default());
    let digest = digest(&bytes);
    let said = finish(problem_response(problem.status, Body::from(bytes), problem.retry_after));
    let (mut parts, body) = said.into_parts();
    signer.sign(&mut parts, &digest);
    Response::from_parts(parts, body)
}

impl Gateway {
    /// Whether the token of a request is still good, for what goes on after its answer has begun. A database
    /// that does not answer ends nothing.
    pub(crate) async fn is_good(&self, caller: &Caller) -> bool {
        match self.known(&caller.token_hash).await {
            Ok(Some(known)) => !known.is_over(),
            Ok(None) => false,
            Err(_) => true,
        }
    }

    async fn known(&self, hash: &str) -> Result<Option<Arc<Known>>, Refusal> {
        let now = Instant::now();
        if let Some(known) = self.keys.find(hash, now) {
            return Ok(Some(known));
        }
        let Some(token) = self.store.token_key(hash).await? else { return Ok(None) };
        let Some(key) = self.service_key.open_sealed(&token.sealed, hash) else {
            tracing::error!(
                token = token.id,
                "the key of a token can't be opened: is service.key the right one?"
            );
            return Err(refuse(ProblemCode::Internal, "the token's key can't be read"));
        };
        let known = Arc::new(Known {
            hash: hash.into(),
            token: token.id,
            account: token.account,
            name: token.account_name,
            key,
            expires_ms: token.expires_ms,
            revoked: token.revoked,
        });
        self.keys.insert(&known, now);
        Ok(Some(known))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_names_its_run_and_its_seq() {
        let owned = |run: &str, seq: &str| (run.to_owned(), seq.to_owned());
        assert_eq!(names("/api/v1/runs/abc/batches/7"), owned("abc", "7"));
        assert_eq!(names("/api/v1/runs/abc/ack"), owned("abc", ""));
        assert_eq!(names("/api/v1/runs/abc"), owned("abc", ""));
        assert_eq!(names("/api/v1/runs"), owned("", ""));
        assert_eq!(names("/api/v1/executables/abc"), owned("", ""));
    }
}
