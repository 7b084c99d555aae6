//! Whether there is room for a plan, and how much. Pure, but for [`Readings::now`].

use std::time::Duration;

use crate::run::{MemoryLimits, MemoryRoom};

/// What the machine has to spare, at a moment.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Readings {
    /// Memory that can be had without swapping, bytes; `None` where it is not known.
    pub available: Option<u64>,
    /// What the agent's cgroups let it bring in before something that is used is thrown
    /// out.
    pub within_limits: MemoryRoom,
    /// Share of the last 10 s in which some task waited for memory, percent.
    pub memory_pressure: Option<f64>,
    /// Share of the last 10 s in which all tasks waited for I/O, percent.
    pub io_pressure: Option<f64>,
}

/// What must be left.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Room {
    /// Most bytes for one start.
    pub per_start: u64,
    /// Most bytes of all plans that are being carried out.
    pub per_node: u64,
    /// Memory that stays available, bytes.
    pub floor: u64,
    /// Nothing is warmed while memory pressure is above this, percent.
    pub memory_pressure: f64,
    /// Nothing is warmed ahead of a start while I/O pressure is above this, percent.
    /// Beside a start it would be the start's own.
    pub io_pressure: f64,
}

impl Readings {
    /// As the kernel tells; within bounds on who pays for what is read.
    pub(super) fn now(limits: Option<&MemoryLimits>) -> Self {
        let read = |path| std::fs::read_to_string(path).ok();
        Self {
            available: read("/proc/meminfo").as_deref().and_then(available),
            within_limits: limits.map(MemoryLimits::room).unwrap_or_default(),
            memory_pressure: read("/proc/pressure/memory")
                .as_deref()
                .and_then(|text| pressure(text, "some")),
            io_pressure: read("/proc/pressure/io")
                .as_deref()
                .and_then(|text| pressure(text, "full")),
        }
    }
}

/// `MemAvailable` of /proc/meminfo, bytes.
fn available(meminfo: &str) -> Option<u64> {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// `avg10` of a line of a pressure file, percent.
fn pressure(text: &str, line: &str) -> Option<f64> {
    let mut fields = text
        .lines()
        .find_map(|l| l.strip_prefix(line))?
        .split_ascii_whitespace();
    fields.find_map(|field| field.strip_prefix("avg10=")?.parse().ok())
}

/// How many bytes a plan of `wanted` may have while others have `taken`; the reason, where
/// none.
///
/// What does not fit into a bound that others share has no part of it beside a start: what
/// starts brings in all of it, and the sooner it does, the more of what others use is thrown
/// out for it.
///
/// # Errors
/// The name of what there is too little of, as it stands in the metrics.
pub(super) fn admit(
    readings: &Readings,
    room: &Room,
    taken: u64,
    wanted: u64,
    is_ahead: bool,
) -> Result<u64, &'static str> {
    let above = |pressure: Option<f64>, most: f64| pressure.is_some_and(|p| p > most);
    if above(readings.memory_pressure, room.memory_pressure) {
        return Err("memory_pressure");
    }
    if is_ahead && above(readings.io_pressure, room.io_pressure) {
        return Err("io_pressure");
    }
    let node = room.per_node.saturating_sub(taken);
    if node == 0 {
        return Err("node_budget");
    }
    let free = readings.available.map_or(u64::MAX, |available| {
        // What others are about to read is not in use yet.
        available.saturating_sub(room.floor).saturating_sub(taken)
    });
    if free == 0 {
        return Err("memory_floor");
    }
    let left = |room: Option<u64>| room.map_or(u64::MAX, |bytes| bytes.saturating_sub(taken));
    let within = left(readings.within_limits.all);
    let does_not_fit = !is_ahead && wanted > left(readings.within_limits.shared);
    if within == 0 || does_not_fit {
        return Err("memory_limit");
    }
    Ok(room.per_start.min(node).min(free).min(within).min(wanted))
}

/// How long after a notification a start counts as the one that was meant.
pub(super) const NOTIFIED_HOLDS: Duration = Duration::from_secs(600);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ROOM: Room = Room {
        per_start: 100,
        per_node: 250,
        floor: 1000,
        memory_pressure: 10.0,
        io_pressure: 60.0,
    };

    fn readings(available: u64, memory: f64, io: f64) -> Readings {
        Readings {
            available: Some(available),
            within_limits: MemoryRoom::default(),
            memory_pressure: Some(memory),
            io_pressure: Some(io),
        }
    }

    #[test]
    fn each_bound_is_named() {
        let admit = |readings, taken, ahead| admit(&readings, &ROOM, taken, 1000, ahead);
        assert_eq!(admit(readings(9999, 0.0, 0.0), 0, true), Ok(100));
        assert_eq!(admit(readings(9999, 0.0, 0.0), 200, true), Ok(50));
        assert_eq!(
            admit(readings(9999, 0.0, 0.0), 250, true),
            Err("node_budget")
        );
        assert_eq!(admit(readings(1030, 0.0, 0.0), 0, true), Ok(30));
        assert_eq!(admit(readings(900, 0.0, 0.0), 0, true), Err("memory_floor"));
        assert_eq!(
            admit(readings(9999, 11.0, 0.0), 0, false),
            Err("memory_pressure")
        );
        assert_eq!(
            admit(readings(9999, 0.0, 90.0), 0, true),
            Err("io_pressure")
        );
        assert_eq!(admit(readings(9999, 0.0, 90.0), 0, false), Ok(100));
        assert_eq!(admit(Readings::default(), 0, true), Ok(100));
        let within = |all, shared| Readings {
            within_limits: MemoryRoom { all, shared },
            ..Readings::default()
        };
        let limit = Err("memory_limit");
        assert_eq!(admit(within(Some(40), None), 10, true), Ok(30));
        assert_eq!(admit(within(Some(40), None), 10, false), Ok(30));
        assert_eq!(admit(within(Some(40), None), 40, true), limit);
        // Others are in it: all or nothing, beside a start.
        assert_eq!(admit(within(Some(40), Some(999)), 0, false), limit);
        assert_eq!(admit(within(Some(40), Some(1000)), 1, false), limit);
        assert_eq!(admit(within(Some(40), Some(1000)), 0, false), Ok(40));
        assert_eq!(admit(within(Some(40), Some(40)), 0, true), Ok(40));
    }

    #[test]
    fn the_kernels_texts_are_understood() {
        assert_eq!(
            available("MemTotal: 9 kB\nMemAvailable:   12 kB\n"),
            Some(12288)
        );
        let text =
            "some avg10=1.50 avg60=0.00 avg300=0.00 total=1\nfull avg10=0.25 avg60=0 total=1\n";
        assert_eq!(pressure(text, "some"), Some(1.5));
        assert_eq!(pressure(text, "full"), Some(0.25));
        assert_eq!(pressure("", "full"), None);
    }

    proptest! {
        #[test]
        fn no_budget_is_exceeded(
            available in 0u64..5000,
            taken in 0u64..500,
            wanted in 1u64..500,
        ) {
            let readings = Readings { available: Some(available), ..Readings::default() };
            if let Ok(bytes) = admit(&readings, &ROOM, taken, wanted, false) {
                prop_assert!(bytes > 0 && bytes <= ROOM.per_start.min(wanted));
                prop_assert!(taken + bytes <= ROOM.per_node);
                prop_assert!(taken + bytes + ROOM.floor <= available);
            }
        }
    }
}
