//! How many batches may be in flight while credits are short. How many can be paid is found out step by step: the service
//! reserves for each batch, and gives back what it did not use only when the batch is answered.

/// A bound that falls to one batch when credits were found short, and grows by one with each round of answers.
#[derive(Debug)]
pub(crate) struct CreditWindow {
    most: usize,
    /// Pieces that have landed since it was last changed.
    landed: usize,
    /// Pieces in flight since before credits were found short.
    early: usize,
}

impl Default for CreditWindow {
    /// No bound, as long as no credits were short.
    fn default() -> Self {
        CreditWindow { most: usize::MAX, landed: 0, early: 0 }
    }
}

impl CreditWindow {
    /// Pieces that may be in flight.
    pub(crate) fn most(&self) -> usize {
        self.most
    }

    /// Credits are short: the next piece goes when all that are in flight have given back what they don't use, and goes
    /// alone.
    pub(crate) fn shrink(&mut self, in_flight: usize) {
        *self = CreditWindow { most: 1, landed: 0, early: in_flight };
    }

    /// A piece comes back without an answer.
    pub(crate) fn on_put_back(&mut self) {
        self.early = self.early.saturating_sub(1);
    }

    /// A piece is answered: there may be credits for one more at a time after each round.
    pub(crate) fn on_landed(&mut self) {
        // What took off before credits were short says nothing of what is left now.
        if self.early > 0 {
            self.early -= 1;
            return;
        }
        self.landed += 1;
        if self.landed >= self.most {
            (self.most, self.landed) = (self.most.saturating_add(1), 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_grows_by_one_with_each_round_of_what_took_off_since() {
        let mut window = CreditWindow::default();
        assert_eq!(window.most(), usize::MAX);
        // One of four is put back, and the others are answered.
        window.shrink(4);
        window.on_put_back();
        for _ in 0..3 {
            window.on_landed();
            assert_eq!(window.most(), 1);
        }
        for round in 1..4 {
            assert_eq!(window.most(), round);
            for _ in 0..round {
                window.on_landed();
            }
        }
        window.shrink(0);
        window.on_put_back();
        assert_eq!(window.most(), 1);
        window.on_landed();
        assert_eq!(window.most(), 2);
    }
}
