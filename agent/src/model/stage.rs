//! What goes into a stage of the flow, and what becomes of it.

use std::collections::BTreeMap;

/// Counts of one stage in one run. A stage neither makes nor swallows anything:
/// [`StageCounts::is_balanced`].
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct StageCounts {
    /// Name, the same in every run.
    #[serde(skip)]
    pub name: &'static str,
    /// What is counted, in the plural.
    pub unit: &'static str,
    /// What came in.
    #[serde(rename = "in")]
    pub seen: u64,
    /// What went on to the next stage.
    pub out: u64,
    /// What should have gone on, and had no room.
    pub lost: u64,
    /// What was not to go on, by reason.
    pub filtered: BTreeMap<&'static str, u64>,
}

impl StageCounts {
    /// A stage that nothing came into yet.
    pub fn new(name: &'static str, unit: &'static str) -> Self {
        Self {
            name,
            unit,
            ..Self::default()
        }
    }

    /// Counts `n` more that were not to go on; 0 shows that the reason exists.
    pub fn filter(&mut self, reason: &'static str, n: u64) {
        *self.filtered.entry(reason).or_default() += n;
    }

    /// in = out + lost + filtered.
    pub fn is_balanced(&self) -> bool {
        let became = self.out + self.lost + self.filtered.values().sum::<u64>();
        self.seen == became
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_in_is_what_it_became() {
        let mut stage = StageCounts::new("read", "chunks");
        assert!(stage.is_balanced());
        stage.seen = 10;
        stage.out = 3;
        stage.lost = 2;
        stage.filter("known", 4);
        stage.filter("other", 0);
        assert!(!stage.is_balanced());
        stage.filter("known", 1);
        assert!(stage.is_balanced());
        assert_eq!(stage.filtered["known"], 5);
        stage.lost += 1;
        assert!(!stage.is_balanced());
    }
}
