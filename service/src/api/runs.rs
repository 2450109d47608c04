//! Runs: opened, listed, kept alive, ended. A run that opens has shown that its program can work here.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::{Extension, Json};
use fastmap_backends::cloud::{
    Acknowledge, Acknowledged, Auth, Bill, Lease, Locale, OpenRun, PROTOCOL, Problem, ProblemCode, RunList,
    RunOpened, RunState, hexadecimal, is_digest,
};
use fastmap_backends::unpoisoned::LockUnpoisoned;
use fastmap_backends::{FunctionId, counted, in_credits};
use serde::Deserialize;
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use utoipa::IntoParams;

use crate::app::Gateway;
use crate::app::caller::Caller;
use crate::clock::now_ms;
use crate::config::slots;
use crate::dispatch::{RunSpec, Task, Upload, Work, WorkOutcome};
use crate::keys::random;
use crate::problem::{Problems, Refusal, Reply, ended, lost, queue, refuse, stopping, written_by_strangers};
use crate::store::{Kind, NewRun, Opened, Run};
use crate::{pricing, text};

/// Most that one request acknowledges.
const ACKNOWLEDGED: usize = 10_000;
/// An agent that is there has started a worker within this, its upload fetched.
const CHECK: Duration = Duration::from_mins(1);
/// Runs on a page.
const PAGE: u32 = 100;

/// Is this token good, and what does it come to?
#[utoipa::path(post, path = "/auth", tag = "account", responses((status = 200, body = Auth), Problems))]
pub(crate) async fn auth(
    State(gateway): State<Arc<Gateway>>,
    Extension(caller): Extension<Caller>,
) -> Reply<Auth> {
    let (balance, held) = gateway.store.balance(caller.account).await?;
    Ok(Json(Auth {
        account: caller.name,
        balance,
        available: balance - held,
        prices: gateway.config.prices,
        limits: gateway.config.limits,
        server: env!("CARGO_PKG_VERSION").to_owned(),
        protocol: PROTOCOL,
        time: now_ms().unsigned_abs() / 1000,
    }))
}

/// Opens a run, and tries whether its program can work here.
#[utoipa::path(post, path = "/runs", tag = "runs", request_body = OpenRun,
    responses((status = 201, body = RunOpened), Problems))]
pub(crate) async fn open(
    State(gateway): State<Arc<Gateway>>,
    Extension(caller): Extension<Caller>,
    body: Bytes,
) -> Result<(StatusCode, Json<RunOpened>), Refusal> {
    let request: OpenRun = read(&body)?;
    check(&request)?;
    gateway.serving()?;
    let spec = gateway.spec_of(caller.account, &request).await?;
    let (balance, held) = gateway.store.balance(caller.account).await?;
    let second = pricing::Work { cpu: Duration::from_secs(1), bytes: 0 };
    if balance < pricing::least(&gateway.config.prices, second) {
        return Err(out_of_credits(balance));
    }
    let fresh =
        hexadecimal(&random::<16>().map_err(|error| refuse(ProblemCode::Internal, error.to_string()))?);
    let new = NewRun {
        account: caller.account,
        id: &fresh,
        digest: &caller.digest,
        request: &request,
        most_open: gateway.config.limits.open_runs,
        lease_until_ms: gateway.lease_end(),
    };
    let run = match gateway.store.open_run(&new).await? {
        Opened::New => {
            tracing::info!(run = fresh, account = caller.name, label = request.label, "run opened");
            // From here on what it needs is not forgotten; before, it may have been.
            if let Err(missing) = gateway.spec_of(caller.account, &request).await {
                gateway.end(&fresh, RunState::Failed, Some("what it needs was forgotten")).await?;
                return Err(missing);
            }
            fresh
        }
        Opened::Again(run) => {
            gateway.open_run(caller.account, &run).await?;
            run
        }
        Opened::Conflict => {
            return Err(refuse(ProblemCode::KeyConflict, "this key has opened a run of another request"));
        }
        Opened::TooMany => {
            let most = gateway.config.limits.open_runs;
            let problem = Problem::new(
                ProblemCode::TooManyRuns,
                format!("the account has {} open", counted(most.into(), "run")),
            );
            return Err(problem.retry_after(5).into());
        }
    };
    let spec = gateway.keep_spec(RunSpec { run: run.clone(), ..spec });
    // The client says nothing while it waits for this answer: an agent may need longer than a lease to fetch the
    // program and to start a worker.
    gateway.keep_lease_while(&run, gateway.check_program(&spec)).await?;
    let left = request.max_credits.unwrap_or(i64::MAX).min(balance - held);
    Ok((
        StatusCode::CREATED,
        Json(RunOpened {
            run,
            workers: u32::try_from(gateway.workers()).unwrap_or(u32::MAX),
            slots: slots(gateway.workers()).min(gateway.config.limits.batches_in_flight as usize) as u32,
            lease_seconds: gateway.config.limits.lease_seconds,
            prices: gateway.config.prices,
            spendable: left,
        }),
    ))
}

fn out_of_credits(balance: i64) -> Refusal {
    let detail = format!("the account has {} left, too little for any batch", in_credits(balance));
    refuse(ProblemCode::OutOfCredits, detail)
}

pub(crate) fn read<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, Refusal> {
    serde_json::from_slice(body).map_err(|error| refuse(ProblemCode::InvalidBody, error.to_string()))
}

fn check(request: &OpenRun) -> Result<(), Refusal> {
    let hex =
        |text: &str, length: usize| text.len() == length && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let wrong = match request {
        _ if !hex(&request.key, 32) => "the key is not 32 hexadecimal digits",
        _ if !is_digest(&request.executable) => "the executable is not named by a SHA-256",
        _ if request.context.as_deref().is_some_and(|context| !is_digest(context)) => {
            "the context is not named by a SHA-256"
        }
        _ if request.label.as_ref().is_some_and(|label| label.len() > text::LABEL) => {
            return Err(too_long("label", text::LABEL));
        }
        _ if request.function.name.len() > text::FUNCTION => {
            return Err(too_long("function's name", text::FUNCTION));
        }
        _ if request.max_credits.is_some_and(|most| most < 0) => "max_credits is below 0",
        _ if request.item_timeout_ms == Some(0) => "an item timeout of 0",
        _ => {
            let locale = request.locale.as_ref().map_or(Ok(()), Locale::check);
            return locale.map_err(|wrong| refuse(ProblemCode::InvalidBody, wrong));
        }
    };
    Err(refuse(ProblemCode::InvalidBody, wrong))
}

fn too_long(what: &str, most: usize) -> Refusal {
    refuse(ProblemCode::InvalidBody, format!("the {what} has more than {most} bytes"))
}

/// Which page of the list.
#[derive(Debug, Deserialize, IntoParams)]
pub(crate) struct Page {
    /// Only runs that were opened before this one.
    before: Option<String>,
}

/// The account's runs, newest first.
#[utoipa::path(get, path = "/runs", tag = "runs", params(Page), responses((status = 200, body = RunList), Problems))]
pub(crate) async fn list(
    State(gateway): State<Arc<Gateway>>,
    Extension(caller): Extension<Caller>,
    Query(page): Query<Page>,
) -> Reply<RunList> {
    let runs = gateway.store.runs(Some(caller.account), page.before.as_deref(), PAGE).await?;
    let next = (runs.len() == PAGE as usize).then(|| runs.last().map(|run| run.info.run.clone())).flatten();
    Ok(Json(RunList { runs: runs.into_iter().map(|run| run.info).collect(), next }))
}

/// One run.
#[utoipa::path(get, path = "/runs/{run}", tag = "runs", params(("run" = String, Path)),
    responses((status = 200, body = fastmap_backends::cloud::RunInfo), Problems))]
pub(crate) async fn show(
    State(gateway): State<Arc<Gateway>>,
    Extension(caller): Extension<Caller>,
    Path(run): Path<String>,
) -> Reply<fastmap_backends::cloud::RunInfo> {
    Ok(Json(gateway.run(caller.account, &run).await?.info))
}

/// The client lives.
#[utoipa::path(post, path = "/runs/{run}/heartbeat", tag = "runs", params(("run" = String, Path)),
    responses((status = 200, body = Lease), Problems))]
pub(crate) async fn heartbeat(
    State(gateway): State<Arc<Gateway>>,
    Extension(caller): Extension<Caller>,
    Path(run): Path<String>,
) -> Reply<Lease> {
    let state = gateway.run(caller.account, &run).await?.info.state;
    if state == RunState::Open {
        gateway.heard_of(&run).await?;
    }
    Ok(Json(Lease { state, lease_seconds: gateway.config.limits.lease_seconds }))
}

/// These answers have arrived and need not be kept.
#[utoipa::path(post, path = "/runs/{run}/ack", tag = "runs", params(("run" = String, Path)), request_body = Acknowledge,
    responses((status = 200, body = Acknowledged), Problems))]
pub(crate) async fn acknowledge(
    State(gateway): State<Arc<Gateway>>,
    Extension(caller): Extension<Caller>,
    Path(run): Path<String>,
    body: Bytes,
) -> Reply<Acknowledged> {
    let Acknowledge { seqs } = read(&body)?;
    if seqs.len() > ACKNOWLEDGED {
        let detail = format!("{} batches at once; at most {ACKNOWLEDGED}", seqs.len());
        return Err(refuse(ProblemCode::InvalidBody, detail));
    }
    let state = gateway.run(caller.account, &run).await?.info.state;
    if state == RunState::Open {
        gateway.heard_of(&run).await?;
    }
    let kept = gateway.store.acknowledge(&run, &seqs).await?;
    let deleted = kept.len() as u64;
    if deleted > 0 {
        let spool = gateway.spool.clone();
        let removed = spawn_blocking(move || kept.iter().for_each(|place| spool.remove(&run, *place))).await;
        removed.map_err(|error| refuse(ProblemCode::Internal, error.to_string()))?;
    }
    Ok(Json(Acknowledged { deleted }))
}

/// The client gives the run up: what is reserved for it is freed.
#[utoipa::path(post, path = "/runs/{run}/cancel", tag = "runs", params(("run" = String, Path)),
    responses((status = 200, body = Bill), Problems))]
pub(crate) async fn cancel(
    State(gateway): State<Arc<Gateway>>,
    Extension(caller): Extension<Caller>,
    Path(run): Path<String>,
) -> Reply<Bill> {
    gateway.finish(caller.account, &run, RunState::Cancelled).await
}

/// The client has what it wants: the bill.
#[utoipa::path(post, path = "/runs/{run}/done", tag = "runs", params(("run" = String, Path)),
    responses((status = 200, body = Bill), Problems))]
pub(crate) async fn done(
    State(gateway): State<Arc<Gateway>>,
    Extension(caller): Extension<Caller>,
    Path(run): Path<String>,
) -> Reply<Bill> {
    gateway.finish(caller.account, &run, RunState::Done).await
}

impl Gateway {
    /// A run of this account.
    pub(crate) async fn run(&self, account: i64, run: &str) -> Result<Run, Refusal> {
        let found = self.store.run(Some(account), run).await?;
        found.ok_or_else(|| refuse(ProblemCode::NotFound, "there is no such run in this account"))
    }

    /// The same, if it is open; if it has failed, why.
    pub(crate) async fn open_run(&self, account: i64, run: &str) -> Result<Run, Refusal> {
        let run = self.run(account, run).await?;
        match run.info.state {
            RunState::Open => Ok(run),
            state => Err(ended(state.as_str(), run.reason.as_deref())),
        }
    }

    async fn finish(&self, account: i64, run: &str, state: RunState) -> Reply<Bill> {
        self.run(account, run).await?;
        self.end(run, state, None).await?;
        let run = self.run(account, run).await?.info;
        let (balance, _) = self.store.balance(account).await?;
        Ok(Json(Bill { run, balance }))
    }

    /// What agents must know of a run that this request opens.
    async fn spec_of(&self, account: i64, request: &OpenRun) -> Result<RunSpec, Refusal> {
        let missing = |kind: Kind, hash: &str| {
            refuse(
                ProblemCode::NotFound,
                format!("the {} {hash} is not there; upload it first", kind.as_str()),
            )
        };
        let executable = self.store.blob(account, Kind::Executable, &request.executable).await?;
        let executable = executable.ok_or_else(|| missing(Kind::Executable, &request.executable))?;
        if let Some(hash) = &request.context
            && self.store.blob(account, Kind::Context, hash).await?.is_none()
        {
            return Err(missing(Kind::Context, hash));
        }
        Ok(RunSpec {
            run: String::new(),
            account,
            executable: self.upload(Kind::Executable, &request.executable),
            identity: executable.identity.unwrap_or_default(),
            function: FunctionId { offset: request.function.offset, name: request.function.name.clone() },
            context: request.context.as_ref().map(|hash| self.upload(Kind::Context, hash)),
            label: request.label.clone(),
            items: request.items,
            item_timeout: request.item_timeout_ms.map(Duration::from_millis),
            locale: request.locale.clone().unwrap_or_default(),
        })
    }

    fn upload(&self, kind: Kind, hash: &str) -> Upload {
        Upload { hash: hash.to_owned(), path: self.blob_file(kind, hash), kept: None }
    }

    fn keep_spec(&self, spec: RunSpec) -> Arc<RunSpec> {
        let mut specs = self.specs.lock_unpoisoned();
        Arc::clone(specs.entry(spec.run.clone()).or_insert_with(|| Arc::new(spec)))
    }

    /// What agents must know of an open run: from memory, or (after a start) from the database.
    pub(crate) async fn spec(&self, account: i64, run: &str) -> Result<Arc<RunSpec>, Refusal> {
        let known = self.specs.lock_unpoisoned().get(run).cloned();
        if let Some(spec) = known.filter(|spec| spec.account == account) {
            return Ok(spec);
        }
        let found = self.open_run(account, run).await?;
        let request = OpenRun {
            key: String::new(),
            executable: found.info.executable,
            function: fastmap_backends::cloud::FunctionName {
                offset: found.function_offset,
                name: found.info.function,
            },
            context: found.context,
            label: found.info.label,
            items: found.info.items,
            item_timeout_ms: found.item_timeout_ms,
            max_credits: found.info.max_credits,
            locale: found.locale,
        };
        let spec = self.spec_of(account, &request).await?;
        Ok(self.keep_spec(RunSpec { run: run.to_owned(), ..spec }))
    }

    /// Starts a worker. A program that can't work here ends its run with the worker's last words.
    async fn check_program(&self, spec: &Arc<RunSpec>) -> Result<(), Refusal> {
        let work = Work { spec: Arc::clone(spec), task: Task::Check };
        let mut submitted = self.dispatch.submit(work).await.map_err(|_| stopping())?;
        let Ok(outcome) = timeout(CHECK, submitted.outcome()).await else {
            let detail = format!("no agent has taken the run within {} s", CHECK.as_secs());
            return Err(Problem::new(ProblemCode::AgentLost, detail).retry_after(1).into());
        };
        match outcome {
            WorkOutcome::Ready | WorkOutcome::Answered(_) => Ok(()),
            WorkOutcome::Failed(problem) => Err(self.fail(&spec.run, problem).await),
            WorkOutcome::Cancelled => Err(ended("ended meanwhile", None)),
            WorkOutcome::Lost => Err(lost()),
            WorkOutcome::Refused(why) => Err(queue(&why)),
        }
    }

    /// A run whose program can't work is over. Gives what its client is answered.
    pub(crate) async fn fail(&self, run: &str, problem: Problem) -> Refusal {
        let problem = written_by_strangers(problem);
        if problem.known() == Some(ProblemCode::Internal) {
            return problem.into();
        }
        let reason = serde_json::to_string(&problem).unwrap_or_default();
        match self.end(run, RunState::Failed, Some(&reason)).await {
            Ok(_) => problem.into(),
            Err(refusal) => refusal,
        }
    }
}
