//! Who is missing at a rank's place in the tree, as far as it knows, and how it says so. Pure.

use super::{Attempt, Branch, Message, seconds};

impl Branch {
    pub(super) fn say_whom_it_waits_for(&mut self) {
        let missing = self.missing();
        let above = self.edges.iter().find(|edge| edge.under.is_empty()).and_then(|edge| edge.connection);
        let under: Vec<u32> =
            self.missing_under().into_iter().filter(|rank| *rank != self.settings.rank).collect();
        let message = Message::Waiting { step: self.step, ranks: under };
        if let Some(above) = above.filter(|_| !self.is_handed_up) {
            self.send(above, &message);
        }
        let message = Message::Waiting { step: self.step, ranks: missing };
        let waiting: Vec<Attempt> = self
            .edges
            .iter()
            .filter(|edge| edge.bundle.is_some() || self.is_handed_up && !edge.under.is_empty())
            .filter_map(|edge| edge.connection)
            .collect();
        waiting.into_iter().for_each(|connection| self.send(connection, &message));
    }

    /// Who is missing under this rank, as far as it was told.
    pub(super) fn missing_under(&self) -> Vec<u32> {
        let mut missing = Vec::new();
        if self.is_handed_up {
            return missing;
        }
        for edge in self.edges.iter().filter(|edge| !edge.under.is_empty() && edge.bundle.is_none()) {
            match edge.waits_for.as_ref().filter(|(step, ranks)| *step == self.step && !ranks.is_empty()) {
                Some((_, ranks)) => missing.extend(ranks.iter().filter(|rank| edge.under.contains(rank))),
                None => missing.push(edge.rank),
            }
        }
        missing
    }

    /// Who is missing, as far as this rank was told.
    pub(super) fn missing(&self) -> Vec<u32> {
        let mut missing = self.missing_under();
        if let Some(above) = self.edges.iter().find(|edge| edge.under.is_empty()) {
            match above.waits_for.as_ref().filter(|(step, ranks)| *step == self.step && !ranks.is_empty()) {
                Some((_, ranks)) => missing.extend(ranks),
                None if missing.is_empty() || above.connection.is_none() => missing.push(above.rank),
                None => {}
            }
        }
        missing.sort_unstable();
        missing.dedup();
        missing.retain(|rank| *rank != self.settings.rank);
        missing
    }

    pub(super) fn timeout_text(&self) -> String {
        let (missing, bound) = (self.name(&self.missing()), seconds(self.settings.bound));
        if self.step > 0 {
            return format!(
                "{missing} did not come to {} within {bound}; look what they wait for (SHOAL_INIT_TIMEOUT sets \
                 the bound)",
                self.step_name()
            );
        }
        let unreached = match (&self.seeker, self.edges.first()) {
            (Some(seeker), Some(above)) if above.under.is_empty() && above.connection.is_none() => {
                format!("; {} tried {}", self.name(&[self.settings.rank]), seeker.tried())
            }
            _ => String::new(),
        };
        format!(
            "{missing} did not come within {bound}; {} (SHOAL_INIT_TIMEOUT sets the bound){unreached}",
            self.settings.naming.advice()
        )
    }

    pub(super) fn name(&self, ranks: &[u32]) -> String {
        self.settings.naming.name(ranks, self.settings.shape.ranks)
    }
}
