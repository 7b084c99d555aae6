//! What a naive prototype measured, to be beaten: recorded windows in order of
//! first use, then an lstat of each name that was looked up; four threads.

/// Median seconds of its starts.
#[derive(Debug, Clone, Copy)]
pub(super) struct Prototype {
    /// All dropped.
    pub(super) cold: f64,
    /// All dropped, warming began with the program.
    pub(super) zero_lead: f64,
    /// All dropped, then warmed.
    lead: f64,
    /// After a run.
    hot: f64,
}

const fn starts(cold: f64, zero_lead: f64, lead: f64, hot: f64) -> Prototype {
    Prototype {
        cold,
        zero_lead,
        lead,
        hot,
    }
}

/// Program, on the fast disk, on the slow one.
const MEASURED: [(&str, Prototype, Prototype); 4] = [
    (
        "rustc",
        starts(0.492, 0.187, 0.067, 0.060),
        starts(4.07, 1.23, 0.063, 0.058),
    ),
    (
        "node",
        starts(0.121, 0.099, 0.051, 0.047),
        starts(0.702, 0.403, 0.051, 0.050),
    ),
    (
        "python",
        starts(0.127, 0.089, 0.070, 0.067),
        starts(0.638, 0.662, 0.062, 0.059),
    ),
    (
        "javac",
        starts(0.182, 0.136, 0.095, 0.093),
        starts(0.902, 0.563, 0.102, 0.089),
    ),
];

/// Its starts of a program, if it was tried on it.
pub(super) fn of(program: &str, slow: bool) -> Option<Prototype> {
    let (_, fast, throttled) = MEASURED.iter().find(|(name, ..)| *name == program)?;
    Some(if slow { *throttled } else { *fast })
}

impl Prototype {
    /// Share of the gap between cold and hot that zero lead closed.
    pub(super) fn closed_zero_lead(&self) -> f64 {
        (self.cold - self.zero_lead) / (self.cold - self.hot)
    }

    /// Share that lead closed.
    pub(super) fn closed_lead(&self) -> f64 {
        (self.cold - self.lead) / (self.cold - self.hot)
    }
}
