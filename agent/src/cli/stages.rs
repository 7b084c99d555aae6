//! What came into each stage of a recording, and what became of it.

use serde_json::{Map, Value, json};

use super::format::{Align, Table};
use crate::model::StageCounts;
use crate::run::Recording;

/// For a program: stages, and slots taken over in the probes' maps, by name.
pub(super) fn json(recording: &Recording) -> (Value, Value) {
    let stages: Map<String, Value> = recording
        .stages
        .iter()
        .map(|stage| (stage.name.to_owned(), json!(stage)))
        .collect();
    let evicted: Map<String, Value> = recording
        .counters
        .evicted()
        .iter()
        .map(|&(map, slots)| (map.to_owned(), json!(slots)))
        .collect();
    (stages.into(), evicted.into())
}

/// For a person.
pub(super) fn text(recording: &Recording) -> String {
    let evicted = recording.counters.evicted();
    let evicted = evicted.map(|(map, slots)| format!("{map} {slots}"));
    format!(
        "{}  evicted, to be sent again: {}\n",
        table(&recording.stages),
        evicted.join(", ")
    )
}

fn table(stages: &[StageCounts]) -> Table {
    let mut table = Table::new(&[
        ("STAGE", Align::Left),
        ("UNIT", Align::Left),
        ("IN", Align::Right),
        ("OUT", Align::Right),
        ("LOST", Align::Right),
        ("FILTERED", Align::Left),
    ])
    .indent(2);
    for stage in stages {
        let filtered: Vec<String> = stage
            .filtered
            .iter()
            .filter(|(_, n)| **n > 0)
            .map(|(reason, n)| format!("{} {n}", reason.replace('_', " ")))
            .collect();
        table.row([
            stage.name.to_owned(),
            stage.unit.to_owned(),
            stage.seen.to_string(),
            stage.out.to_string(),
            stage.lost.to_string(),
            filtered.join(", "),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_that_did_not_occur_are_left_out() {
        let mut stage = StageCounts::new("read", "chunks");
        (stage.seen, stage.out, stage.lost) = (1000, 7, 3);
        stage.filter("known", 980);
        stage.filter("other", 0);
        stage.filter("too_long", 10);
        let empty = StageCounts::new("exec", "programs");
        let expect = "  STAGE  UNIT        IN  OUT  LOST  FILTERED\n\
                      \x20 read   chunks    1000    7     3  known 980, too long 10\n\
                      \x20 exec   programs     0    0     0\n";
        assert_eq!(table(&[stage, empty]).to_string(), expect);
    }
}
