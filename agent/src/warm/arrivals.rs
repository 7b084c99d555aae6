//! When file data came.

use std::sync::Mutex;

use super::engine::lock;
use super::files::Source;
use super::report::Arrival;
use super::submit::Step;
use super::verify::{Of, unsettled};

/// What has come so far, one entry a step.
#[derive(Debug, Default)]
pub(super) struct Arrivals(Mutex<Vec<Arrival>>);

impl Arrivals {
    /// Notes that pages were found to be there, µs since the execution began.
    pub(super) fn found(&self, source: &Source, start_page: u64, pages: u32, us: u32) {
        self.note(source, |file| Arrival {
            file,
            start_page,
            pages,
            read: false,
            asked_us: us,
            there_us: us,
        });
    }

    /// Notes that a step was seen to be there, µs since the execution began.
    pub(super) fn came(&self, step: &Step, there_us: u32) {
        self.note(&step.source, |file| Arrival {
            file,
            start_page: step.start_page,
            pages: step.pages,
            read: true,
            asked_us: step.asked_us,
            there_us,
        });
    }

    /// When a block of a device came, nobody asks.
    fn note(&self, source: &Source, arrival: impl FnOnce(u32) -> Arrival) {
        if let Some(file) = source.file {
            lock(&self.0).push(arrival(file));
        }
    }

    /// All but what was settled as missing afterwards.
    pub(super) fn take(&self, mut settled: Vec<(Of, u64, u64)>) -> Vec<Arrival> {
        let arrivals = std::mem::take(&mut *lock(&self.0));
        if settled.is_empty() {
            return arrivals;
        }
        settled.sort_unstable();
        let of_file = |file| {
            let of = Of::File(file);
            let from = settled.partition_point(|(other, ..)| *other < of);
            let rest = settled[from..].iter();
            let rest = rest.take_while(move |(other, ..)| *other == of);
            rest.map(|&(_, start, pages)| (start, pages))
                .collect::<Vec<_>>()
        };
        let there = |arrival: Arrival| {
            let end = arrival.start_page + u64::from(arrival.pages);
            let parts = unsettled(&of_file(arrival.file), arrival.start_page, end);
            parts.into_iter().map(move |(start_page, pages)| Arrival {
                start_page,
                pages: pages as u32,
                ..arrival
            })
        };
        arrivals.into_iter().flat_map(there).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_afterwards_did_not_come() {
        let arrival = |file, start_page, pages| Arrival {
            file,
            start_page,
            pages,
            read: true,
            asked_us: 1,
            there_us: 2,
        };
        let arrivals = Arrivals(Mutex::new(vec![arrival(1, 0, 10), arrival(2, 0, 10)]));
        let settled = vec![
            (Of::File(2), 8, 5),
            (Of::Device(1), 0, 10),
            (Of::File(2), 2, 3),
        ];
        assert_eq!(
            arrivals.take(settled),
            [arrival(1, 0, 10), arrival(2, 0, 2), arrival(2, 5, 3)]
        );
        assert_eq!(arrivals.take(Vec::new()), []);
    }
}
