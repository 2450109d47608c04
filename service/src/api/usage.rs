//! CPU time that workers use beside batches, as agents report it: charged to the run, which ends where it can't pay.

use std::sync::Arc;
use std::time::Duration;

use fastmap_backends::cloud::{Problem, ProblemCode, RunState};

use crate::app::Gateway;
use crate::dispatch::Used;
use crate::problem::Refusal;
use crate::store::Short;

impl Gateway {
    /// Charges for what agents report. Never returns, but where dispatch is gone.
    pub async fn charge_uses(self: Arc<Self>) {
        while let Some(Used { run, cpu, paid }) = self.dispatch.used().await {
            match self.charge_use(&run, cpu).await {
                Ok(pays) => drop(paid.send(pays)),
                // Its agent reports it again.
                Err(Refusal(problem)) => {
                    tracing::error!(run, %problem, "a report of use can't be charged now");
                }
            }
        }
    }

    /// Charges a run for what its workers have used beside batches. `false`: it is over, or ends with this.
    pub(crate) async fn charge_use(&self, run: &str, cpu: Duration) -> Result<bool, Refusal> {
        let Some(charged) = self.store.charge_use(run, cpu, &self.config.prices).await? else {
            return Ok(false);
        };
        metrics::counter!("fastmap_charged_microcredits_total").increment(charged.taken.unsigned_abs());
        let Some(short) = charged.short else { return Ok(charged.open) };
        if charged.open {
            tracing::info!(run, ?short, "what its workers use can't be paid any more");
            let (code, what) = match short {
                Short::Cap => (ProblemCode::SpendCapReached, "the run's max_credits do"),
                Short::Balance => (ProblemCode::OutOfCredits, "the account's credits do"),
            };
            let detail = format!("{what} not suffice for what the run's workers compute beside its batches");
            let reason = serde_json::to_string(&Problem::new(code, detail)).unwrap_or_default();
            self.end(run, RunState::Failed, Some(&reason)).await?;
        }
        Ok(false)
    }

    /// The same for a batch whose answer is not wanted: what stood on its bill was used beside batches. In the
    /// background: the client is answered now.
    pub(crate) fn charge_unanswered(self: &Arc<Self>, run: &str, cpu: Duration) {
        if cpu.is_zero() {
            return;
        }
        let (gateway, run) = (Arc::clone(self), run.to_owned());
        drop(tokio::spawn(async move {
            while let Err(Refusal(problem)) = gateway.charge_use(&run, cpu).await {
                tracing::error!(run, %problem, "what a batch has used can't be charged now");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }));
    }
}
