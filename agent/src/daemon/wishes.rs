//! What a workload's labels or annotations ask for. They ask for less than the
//! configuration gives, never for more: whoever may start a container may write them.

use std::collections::BTreeMap;

use super::options::Settings;
use crate::model::{escape, parse_size};

/// The label by which a workload says what is to be done for it.
const MODE_LABEL: &str = "headstart.io/mode";

/// Most bytes for one start.
const BUDGET_LABEL: &str = "headstart.io/budget";

/// Most bytes a second.
const RATE_LABEL: &str = "headstart.io/bytes-per-second";

/// What is to be done for a workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// `warm`, or nothing: learned and warmed for.
    Warm,
    /// `observe`: learned.
    Observe,
    /// `off`: neither.
    Off,
}

impl Mode {
    pub(super) fn of(labels: &BTreeMap<String, String>) -> Self {
        match labels.get(MODE_LABEL).map(String::as_str) {
            None | Some("warm") => Self::Warm,
            Some("observe") => Self::Observe,
            Some("off") => Self::Off,
            Some(other) => {
                // Nobody who writes such a label wants more to be done than without it.
                tracing::warn!(
                    label = MODE_LABEL,
                    value = escape(other.as_bytes()),
                    "neither `warm`, `observe` nor `off`: taken for `off`"
                );
                Self::Off
            }
        }
    }
}

/// Bounds on what is read for a start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Wishes {
    /// Most bytes.
    budget: Option<u64>,
    /// Most bytes a second.
    per_second: Option<u64>,
}

impl Wishes {
    pub(super) fn of(labels: &BTreeMap<String, String>) -> Self {
        Self {
            budget: size(labels, BUDGET_LABEL),
            per_second: size(labels, RATE_LABEL),
        }
    }

    /// Most bytes for the start.
    pub(super) fn budget(&self, settings: &Settings) -> u64 {
        let most = settings.room.per_start;
        self.budget.map_or(most, |wish| wish.min(most))
    }

    /// Most bytes a second for the start; 0: no bound but the node's.
    pub(super) fn per_second(&self, settings: &Settings) -> u64 {
        match (self.per_second, settings.workload_bytes_per_second) {
            (None | Some(0), most) => most,
            (Some(wish), 0) => wish,
            (Some(wish), most) => wish.min(most),
        }
    }
}

fn size(labels: &BTreeMap<String, String>, label: &'static str) -> Option<u64> {
    let text = labels.get(label)?;
    parse_size(text)
        .inspect_err(|error| {
            tracing::warn!(
                label,
                value = escape(text.as_bytes()),
                error = escape(error.as_bytes()),
                "not a size, as 64MiB: what is configured holds"
            );
        })
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(label: &str, value: &str) -> BTreeMap<String, String> {
        [(label.to_owned(), value.to_owned())].into()
    }

    #[test]
    fn a_label_asks_for_less_and_never_for_more() {
        let mode = |value: &str| Mode::of(&labels(MODE_LABEL, value));
        assert_eq!(Mode::of(&BTreeMap::new()), Mode::Warm);
        assert_eq!(mode("warm"), Mode::Warm);
        assert_eq!(mode("observe"), Mode::Observe);
        assert_eq!(mode("off"), Mode::Off);
        assert_eq!(mode("Warm\x1b[2J"), Mode::Off);
    }

    #[test]
    fn bounds_are_lowered_and_never_raised() {
        let mut settings = Settings::default();
        settings.room.per_start = 1000;
        let budget = |value: &str| Wishes::of(&labels(BUDGET_LABEL, value)).budget(&settings);
        assert_eq!(Wishes::default().budget(&settings), 1000);
        assert_eq!(budget("10"), 10);
        assert_eq!(budget("0"), 0);
        assert_eq!(budget("1GiB"), 1000);
        assert_eq!(budget("much\x1b"), 1000);
        let rate = |settings: &Settings, value: &str| {
            Wishes::of(&labels(RATE_LABEL, value)).per_second(settings)
        };
        assert_eq!(Wishes::default().per_second(&settings), 0);
        assert_eq!(rate(&settings, "1MiB"), 1 << 20);
        settings.workload_bytes_per_second = 100;
        assert_eq!(rate(&settings, "1MiB"), 100);
        assert_eq!(rate(&settings, "10"), 10);
        // No bound at all is not for a label to ask for.
        assert_eq!(rate(&settings, "0"), 100);
        assert_eq!(rate(&settings, "-1"), 100);
    }
}
