//! Concurrency limit while credits are short. The number of batches that can be paid is found step by step:
//! the service reserves credits for each batch, and releases the unused ones only when the batch is answered.

/// Limit that falls to one batch when credits are short, and grows by one with each round of answers.
#[derive(Debug)]
pub(crate) struct CreditWindow {
    limit: usize,
    /// Pieces finished since the limit last changed.
    finished: usize,
    /// Pieces in flight that were sent before credits were short.
    sent_before_shortage: usize,
}

impl Default for CreditWindow {
    /// No limit until credits are short.
    fn default() -> Self {
        CreditWindow { limit: usize::MAX, finished: 0, sent_before_shortage: 0 }
    }
}

impl CreditWindow {
    /// Maximum pieces in flight.
    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    /// Credits are short: allows one piece, after all pieces in flight have released their unused credits.
    pub(crate) fn shrink(&mut self, in_flight: usize) {
        *self = CreditWindow { limit: 1, finished: 0, sent_before_shortage: in_flight };
    }

    /// A piece was put back without an answer.
    pub(crate) fn on_put_back(&mut self) {
        self.sent_before_shortage = self.sent_before_shortage.saturating_sub(1);
    }

    /// A piece was answered: after each round there may be credits for one more at a time.
    pub(crate) fn on_finished(&mut self) {
        // Pieces sent before the shortage do not show how many credits are left now.
        if self.sent_before_shortage > 0 {
            self.sent_before_shortage -= 1;
            return;
        }
        self.finished += 1;
        if self.finished >= self.limit {
            (self.limit, self.finished) = (self.limit.saturating_add(1), 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn window_grows_by_one_per_round_sent_after_the_shortage() {
        let mut window = CreditWindow::default();
        assert_eq!(window.limit(), usize::MAX);
        // One of four is put back, and the others are answered.
        window.shrink(4);
        window.on_put_back();
        for _ in 0..3 {
            window.on_finished();
            assert_eq!(window.limit(), 1);
        }
        for round in 1..4 {
            assert_eq!(window.limit(), round);
            for _ in 0..round {
                window.on_finished();
            }
        }
        window.shrink(0);
        window.on_put_back();
        assert_eq!(window.limit(), 1);
        window.on_finished();
        assert_eq!(window.limit(), 2);
    }
}
