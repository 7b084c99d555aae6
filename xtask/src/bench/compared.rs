//! What `headstart --json compare` says.

use serde::Deserialize;

use super::stats::Spread;

/// A start is warmed from what one run taught.
pub(super) const RECORDED_RUNS: usize = 1;

/// Starts of one program.
#[derive(Debug, Deserialize)]
pub(super) struct Compared {
    /// Runs that the profile holds.
    pub(super) runs_recorded: usize,
    /// The starts.
    pub(super) ways: Ways,
    /// What the plan reads.
    pub(super) bytes_planned: u64,
    /// In so many reads.
    pub(super) reads_planned: u64,
    /// Its names.
    pub(super) names: u64,
}

/// The starts, by how they were prepared.
#[derive(Debug, Deserialize)]
pub(super) struct Ways {
    /// All dropped.
    pub(super) cold: Way,
    /// All dropped, warming began with the program.
    pub(super) zero_lead: Way,
    /// All dropped, then warmed.
    pub(super) warmed: Way,
    /// After a run.
    pub(super) hot: Way,
}

/// Starts of one kind.
#[derive(Debug, Deserialize)]
pub(super) struct Way {
    /// The middle one.
    pub(super) median: f64,
    /// All, by round.
    pub(super) seconds: Vec<f64>,
}

impl Compared {
    /// Share of the gap between cold and hot that zero lead closes.
    pub(super) fn closed_zero_lead(&self) -> f64 {
        self.closed(&self.ways.zero_lead)
    }

    /// Share that lead closes.
    pub(super) fn closed_lead(&self) -> f64 {
        self.closed(&self.ways.warmed)
    }

    fn closed(&self, way: &Way) -> f64 {
        let (cold, hot) = (self.ways.cold.median, self.ways.hot.median);
        (cold - way.median) / (cold - hot)
    }

    /// By round.
    pub(super) fn cold_over_zero_lead(&self) -> Spread {
        ratio(&self.ways.cold, &self.ways.zero_lead)
    }

    /// By round.
    pub(super) fn warmed_over_hot(&self) -> Spread {
        ratio(&self.ways.warmed, &self.ways.hot)
    }
}

fn ratio(one: &Way, other: &Way) -> Spread {
    Spread::of_ratios(&one.seconds, &other.seconds).unwrap_or(Spread::NONE)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn way(seconds: [f64; 3]) -> Way {
        Way {
            median: seconds[1],
            seconds: seconds.to_vec(),
        }
    }

    #[test]
    fn gaps_and_ratios() {
        let compared = Compared {
            runs_recorded: 1,
            ways: Ways {
                cold: way([4.0, 5.0, 6.0]),
                zero_lead: way([1.0, 2.0, 3.0]),
                warmed: way([1.0, 1.0, 1.0]),
                hot: way([1.0, 1.0, 1.0]),
            },
            bytes_planned: 0,
            reads_planned: 0,
            names: 0,
        };
        assert_eq!(compared.closed_zero_lead(), 0.75);
        assert_eq!(compared.closed_lead(), 1.0);
        assert_eq!(compared.cold_over_zero_lead().median, 2.5);
    }
}
