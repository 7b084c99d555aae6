//! The small values beside the profiles, as bytes. Pure.

use crate::model::{DeviceCost, Profile};

use super::super::stats::Totals;

/// A profile in a list: what is known without decoding it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// Bytes it takes in the store.
    pub bytes: u64,
    /// Runs it remembers.
    pub runs: u64,
    /// Files.
    pub files: u64,
    /// Extents of files.
    pub extents: u64,
    /// Names.
    pub names: u64,
    /// Bytes of file data, certain and maybe.
    pub data_bytes: u64,
    /// When it was last written, ms since the epoch.
    pub updated_ms: u64,
}

/// First byte of an entry's encoding: its version.
const VERSION: u8 = 1;

impl Entry {
    pub(super) fn of(name: &str, profile: &Profile, bytes: u64, updated_ms: u64) -> Entry {
        let totals = Totals::of(profile);
        Entry {
            name: name.to_owned(),
            bytes,
            runs: profile.runs.len() as u64,
            files: totals.files,
            extents: totals.extents,
            names: totals.names,
            data_bytes: totals.data_bytes(),
            updated_ms,
        }
    }

    pub(super) fn unknown(name: &str) -> Entry {
        Entry {
            name: name.to_owned(),
            bytes: 0,
            runs: 0,
            files: 0,
            extents: 0,
            names: 0,
            data_bytes: 0,
            updated_ms: 0,
        }
    }

    /// Version, then each number as 8 little-endian bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let numbers = [
            self.bytes,
            self.runs,
            self.files,
            self.extents,
            self.names,
            self.data_bytes,
            self.updated_ms,
        ];
        let numbers = numbers.iter().flat_map(|n| n.to_le_bytes());
        std::iter::once(VERSION).chain(numbers).collect()
    }

    /// Reads what [`to_bytes`](Self::to_bytes) wrote; `None` if it is something else.
    pub fn from_bytes(name: &str, bytes: &[u8]) -> Option<Entry> {
        let (&VERSION, numbers) = bytes.split_first()? else {
            return None;
        };
        let [bytes, runs, files, extents, names, data_bytes, updated_ms] = words(numbers)?;
        Some(Entry {
            name: name.to_owned(),
            bytes,
            runs,
            files,
            extents,
            names,
            data_bytes,
            updated_ms,
        })
    }
}

/// What a start made of what was warmed for it; file data in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// When it was noticed, ms since the epoch.
    pub began_ms: u64,
    /// Which signal told of it first, by the agent's own numbers.
    pub signal: u64,
    /// How long it was learned, ms.
    pub learned_ms: u64,
    /// From the first signal to the first touch, µs; `None` where that is not known.
    pub lead_us: Option<u64>,
    /// Asked for by the plan.
    pub planned: u64,
    /// Of these, there already.
    pub resident_before: u64,
    /// Of these, brought in.
    pub read: u64,
    /// There before its first use.
    pub used: u64,
    /// Used, but not there before.
    pub late: u64,
    /// Of `late`: on the way.
    pub on_the_way: u64,
    /// Of `used` and `on_the_way`: brought in for it.
    pub gained: u64,
    /// Not used.
    pub wasted: u64,
    /// Not read.
    pub unknown: u64,
    /// Certainly used, not planned.
    pub missed: u64,
    /// Starts since the last for which something was read, this one included.
    pub observed: u64,
}

/// Starts for which something was read whose outcomes are kept for each profile.
pub const KEPT: usize = 5;

/// Adds a start's outcome to those that are kept, the oldest first: the last [`KEPT`] for
/// which something was read, and the last of all.
pub fn keep(kept: &mut Vec<Outcome>, mut new: Outcome) {
    let last = kept.last().copied();
    if new.read == 0 {
        new.observed = last.map_or(0, |last| last.observed).saturating_add(1);
    }
    if last.is_some_and(|last| last.read == 0) {
        kept.pop();
    }
    kept.push(new);
    let read = kept.iter().filter(|outcome| outcome.read > 0).count();
    if read > KEPT {
        kept.remove(0);
    }
}

const NUMBERS: usize = 15;

/// Version, then each number of each outcome as 8 little-endian bytes.
pub fn outcomes_to_bytes(outcomes: &[Outcome]) -> Vec<u8> {
    let numbers = outcomes.iter().flat_map(|outcome| -> [u64; NUMBERS] {
        [
            outcome.began_ms,
            outcome.signal,
            outcome.learned_ms,
            outcome.lead_us.unwrap_or(u64::MAX),
            outcome.planned,
            outcome.resident_before,
            outcome.read,
            outcome.used,
            outcome.late,
            outcome.on_the_way,
            outcome.gained,
            outcome.wasted,
            outcome.unknown,
            outcome.missed,
            outcome.observed,
        ]
    });
    let numbers = numbers.flat_map(u64::to_le_bytes);
    std::iter::once(VERSION).chain(numbers).collect()
}

/// Reads what [`outcomes_to_bytes`] wrote; `None` if it is something else.
pub fn outcomes_from_bytes(bytes: &[u8]) -> Option<Vec<Outcome>> {
    let (&VERSION, numbers) = bytes.split_first()? else {
        return None;
    };
    let (outcomes, []) = numbers.as_chunks::<{ 8 * NUMBERS }>() else {
        return None;
    };
    if outcomes.len() > KEPT + 1 {
        return None;
    }
    let outcome = |bytes: &[u8; 8 * NUMBERS]| {
        let [
            began_ms,
            signal,
            learned_ms,
            lead_us,
            planned,
            resident_before,
            read,
            used,
            late,
            on_the_way,
            gained,
            wasted,
            unknown,
            missed,
            observed,
        ] = words(bytes)?;
        Some(Outcome {
            began_ms,
            signal,
            learned_ms,
            lead_us: (lead_us != u64::MAX).then_some(lead_us),
            planned,
            resident_before,
            read,
            used,
            late,
            on_the_way,
            gained,
            wasted,
            unknown,
            missed,
            observed,
        })
    };
    outcomes.iter().map(outcome).collect()
}

/// What was measured of a device: each number as 8 little-endian bytes.
pub fn device_to_bytes(cost: &DeviceCost) -> Vec<u8> {
    let numbers = [
        cost.read_ns.to_bits(),
        cost.latency_ns.to_bits(),
        cost.bytes_per_s.to_bits(),
        cost.readahead_bytes,
        cost.measured_ms,
    ];
    numbers.iter().flat_map(|n| n.to_le_bytes()).collect()
}

/// Reads what [`device_to_bytes`] wrote. `None` for what is no cost: measuring
/// again is better than dividing by it.
pub fn device_from_bytes(bytes: &[u8]) -> Option<DeviceCost> {
    let [
        read_ns,
        latency_ns,
        bytes_per_s,
        readahead_bytes,
        measured_ms,
    ] = words(bytes)?;
    let positive = |bits| Some(f64::from_bits(bits)).filter(|v| v.is_finite() && *v > 0.0);
    Some(DeviceCost {
        read_ns: positive(read_ns)?,
        latency_ns: positive(latency_ns)?,
        bytes_per_s: positive(bytes_per_s)?,
        readahead_bytes,
        measured_ms,
    })
}

fn words<const N: usize>(bytes: &[u8]) -> Option<[u64; N]> {
    let (chunks, []) = bytes.as_chunks::<8>() else {
        return None;
    };
    let words: Vec<u64> = chunks.iter().map(|c| u64::from_le_bytes(*c)).collect();
    words.try_into().ok()
}
