//! Whose plan comes first where several wait. Pure.

use std::collections::BTreeMap;

use super::options::Settings;
use crate::model::escape;

/// The label or annotation by which a workload says how urgent its starts are.
const LABEL: &str = "headstart.io/priority";

/// How urgent a workload's starts are, the most urgent first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Priority {
    /// Before all others.
    High,
    /// As without a word.
    #[default]
    Normal,
    /// When nothing else waits.
    Low,
}

impl Priority {
    /// Of a workload, by its key and its labels. What the configuration says goes before
    /// what the workload says of itself.
    pub(super) fn of(key: &str, labels: &BTreeMap<String, String>, settings: &Settings) -> Self {
        let begins = |prefixes: &[String]| prefixes.iter().any(|p| key.starts_with(p));
        if begins(&settings.high_priority) {
            return Self::High;
        }
        if begins(&settings.low_priority) {
            return Self::Low;
        }
        match labels.get(LABEL).map(String::as_str) {
            None | Some("normal") => Self::Normal,
            Some("high") => Self::High,
            Some("low") => Self::Low,
            Some(other) => {
                tracing::warn!(
                    workload = key,
                    label = LABEL,
                    value = escape(other.as_bytes()),
                    "neither `low`, `normal` nor `high`: taken for `normal`"
                );
                Self::Normal
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_says_how_urgent_and_the_configuration_knows_better() {
        let labelled = |value: &str| BTreeMap::from([(LABEL.to_owned(), value.to_owned())]);
        let settings = Settings {
            high_priority: vec!["unit:db".into()],
            low_priority: vec!["unit:".into(), "container:batch/".into()],
            ..Settings::default()
        };
        let of = |key: &str, value: &str| Priority::of(key, &labelled(value), &settings);
        assert_eq!(of("container:web", "high"), Priority::High);
        assert_eq!(of("container:web", "normal"), Priority::Normal);
        assert_eq!(of("container:web", "low"), Priority::Low);
        assert_eq!(of("container:batch/a", "high"), Priority::Low);
        assert_eq!(of("unit:db.service", "low"), Priority::High);
        assert_eq!(of("unit:a.service", ""), Priority::Low);
        for malformed in ["", "HIGH", "high ", "1", "high\x1b[2J"] {
            assert_eq!(of("container:web", malformed), Priority::Normal);
        }
        let silent = Priority::of("container:web", &BTreeMap::new(), &settings);
        assert_eq!(silent, Priority::Normal);
    }
}
