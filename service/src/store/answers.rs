//! Answers of batches: found, acknowledged, and which of their files are still needed.

use super::error::{Result, StoreError};
use super::runs::ACKNOWLEDGED;
use super::{Store, Stored, ledger};
use crate::answer_files::Position;

impl Store {
    /// Which of these batches of a run have an answer that is not acknowledged, in order. Reads alone:
    /// numbers that the run does not have take no turn at the writer.
    async fn unacknowledged(&self, run: &str, seqs: &[u64]) -> Result<Vec<i64>> {
        let beyond = |_| StoreError::Refused("a seq beyond 2^63".to_owned());
        let mut seqs: Vec<i64> =
            seqs.iter().map(|seq| i64::try_from(*seq).map_err(beyond)).collect::<Result<_>>()?;
        seqs.sort_unstable();
        seqs.dedup();
        if seqs.is_empty() {
            return Ok(seqs);
        }
        let query = self
            .sql("SELECT seq FROM batches WHERE run = $1 AND state = 'answered' AND seq IN ")
            .bind(run)
            .push_numbers(&seqs)
            .push(" ORDER BY seq");
        query.fetch_all().await?.iter().map(|row| Ok(row.try_get(0)?)).collect()
    }

    /// Marks answers as received by the client. Returns the places of those that were kept until now. The
    /// writer is taken for some of them at a time; others write in between.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn acknowledge(&self, run: &str, seqs: &[u64]) -> Result<Vec<Position>> {
        let mut kept = Vec::new();
        for piece in self.unacknowledged(run, seqs).await?.chunks(ACKNOWLEDGED) {
            // For each piece anew: batches that wait for the writer get their turn in between.
            let mut conn = self.writer().await?;
            // The state is checked again: the same acknowledgement may come twice at once. Each place is
            // returned to one of them, because the caller counts down the answers of the file that it is in.
            let query = conn
                .sql("UPDATE batches SET state = 'acknowledged' WHERE run = $1 AND state = 'answered' AND seq IN ")
                .bind(run)
                .push_numbers(piece)
                .push(" RETURNING answer_digest, answer_file, answer_at, answer_length");
            for row in query.fetch_all().await? {
                kept.push(ledger::stored(&row)?.place);
            }
        }
        Ok(kept)
    }

    /// Files in which there are answers of a run that are not acknowledged.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn files_needed(&self, run: &str) -> Result<Vec<u64>> {
        let rows = self
            // An answer that is written and not settled yet is not found here: the caller spares files that
            // were written to within the last minutes.
            .sql("SELECT DISTINCT answer_file FROM batches WHERE run = $1 AND state = 'answered'")
            .bind(run)
            .fetch_all()
            .await?;
        rows.iter().map(|row| Ok(row.try_get::<i64, _>(0)?.unsigned_abs())).collect()
    }

    /// Where a batch stands: its state, and if it is answered the status and where the answer is.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn batch(&self, run: &str, seq: i64) -> Result<Option<(String, Option<(u16, Stored)>)>> {
        let row = self
            .sql(
                "SELECT state, status, answer_digest, answer_file, answer_at, answer_length
             FROM batches WHERE run = $1 AND seq = $2",
            )
            .bind(run)
            .bind(seq)
            .fetch_optional()
            .await?;
        let Some(row) = row else { return Ok(None) };
        let status: Option<i64> = row.try_get("status")?;
        let answer =
            // An acknowledged batch has a status, too, but the file of its answer may be gone.
            status.map(|status| Ok::<_, StoreError>((ledger::status_of(status), ledger::stored(&row)?)));
        let answer = answer.transpose()?;
        Ok(Some((row.try_get("state")?, answer)))
    }
}
