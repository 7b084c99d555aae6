//! Which device a profile's data is on, and what reads cost there.

use std::collections::hash_map::RandomState;
use std::ffi::OsStr;
use std::hash::{BuildHasher, Hasher};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::model::{DeviceCost, FileTouches, Profile, ProfileFile, RelPath, Trace, Volume, escape};
use crate::profile::Store;
use crate::warm::{MeasureError, WarmReport};

/// A measured cost is measured again after this long.
const COST_HOLDS: Duration = Duration::from_secs(24 * 3600);

/// ... or after this, where plans take another time than they should.
const DOUBTED_AFTER: Duration = Duration::from_secs(3600);

/// What a plan has to read, and how long that has to take, to say something of a disk.
const DOUBT_BYTES: u64 = 8 << 20;
const DOUBT_SECONDS: f64 = 0.2;

/// ms since the epoch.
pub fn now_ms() -> u64 {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    now.as_millis() as u64
}

/// Identity of a run: random, seeded by the system.
pub fn run_id() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// The volume that holds most of a profile's data, whose device is the one whose cost
/// decides; and its largest file.
pub fn main_volume(profile: &Profile) -> Option<(&Volume, Vec<u8>)> {
    let pages = |file: &ProfileFile| file.extents.iter().map(|e| u64::from(e.pages)).sum();
    let files = profile.files.iter();
    main_of(
        &profile.volumes,
        files.map(|file| (file.volume, pages(file), file.version.size, &file.path)),
    )
}

/// The same of what was recorded.
pub fn main_volume_of(trace: &Trace) -> Option<(&Volume, Vec<u8>)> {
    let pages = |file: &FileTouches| file.touches.iter().map(|t| u64::from(t.pages)).sum();
    let files = trace.files.iter();
    main_of(
        &trace.volumes,
        files.map(|file| (file.volume, pages(file), file.version.size, &file.path)),
    )
}

/// Of files with their volumes, pages used, and sizes.
fn main_of<'a>(
    volumes: &'a [Volume],
    files: impl Iterator<Item = (u32, u64, u64, &'a RelPath)> + Clone,
) -> Option<(&'a Volume, Vec<u8>)> {
    let mut sums = vec![0u64; volumes.len()];
    for (volume, pages, ..) in files.clone() {
        *sums.get_mut(volume as usize)? += pages;
    }
    let index = (0..sums.len()).max_by_key(|&i| sums[i])?;
    let of_it = files.filter(|(volume, ..)| *volume as usize == index);
    let (.., path) = of_it.max_by_key(|(_, _, size, _)| *size)?;
    Some((&volumes[index], volumes[index].absolute(path)))
}

/// What is kept of a volume's cost, and whether it still holds.
pub fn kept_cost(store: &Store, volume: &Volume) -> Option<(DeviceCost, bool)> {
    let cost = store.device_cost(&volume.id.0).ok().flatten()?;
    let age_ms = now_ms().saturating_sub(cost.measured_ms);
    Some((cost, age_ms < COST_HOLDS.as_millis() as u64))
}

/// Whether a plan that nothing held back says of a disk that it is another by now: a volume
/// that was throttled meanwhile, or whose burst is used up, or a faster one. Shared with the
/// program that starts it is half as fast, and with a few other plans still less; so a
/// disk is only doubted where it took four times as long as it should have, or half.
pub fn is_doubtful(cost: &DeviceCost, reads: u64, report: &WarmReport) -> bool {
    let read = report.data.read + report.blocks.read;
    let held_back = report.cancelled || report.deadline_reached || report.in_turns > 0;
    if cost.measured_ms == 0 || held_back || read < DOUBT_BYTES {
        return false;
    }
    let by_bytes_s = read as f64 / cost.bytes_per_s;
    let expected_s = by_bytes_s.max(reads as f64 * cost.read_ns / 1e9);
    let all_s = report.warm_seconds;
    let is_slower = all_s > DOUBT_SECONDS && all_s > 4.0 * expected_s;
    is_slower || (by_bytes_s > DOUBT_SECONDS && 2.0 * all_s < by_bytes_s)
}

/// Has a volume measured again that was not for an hour; what was measured is used until then.
pub fn doubt(store: &Store, volume: &Volume, cost: &DeviceCost) {
    let age_ms = now_ms().saturating_sub(cost.measured_ms);
    let aged = DeviceCost {
        measured_ms: 1,
        ..*cost
    };
    if age_ms < DOUBTED_AFTER.as_millis() as u64 || cost.measured_ms <= 1 {
        return;
    }
    if let Err(error) = store.set_device_cost(&volume.id.0, &aged) {
        tracing::debug!(%error, "a disk is not measured again before its day is over");
    }
}

/// Measures by direct reads of a file in a volume, and keeps it.
///
/// # Errors
/// See [`crate::warm::measure`].
pub fn measure_and_keep(
    store: &Store,
    volume: &Volume,
    path: &[u8],
) -> Result<DeviceCost, MeasureError> {
    let cost = crate::warm::measure(Path::new(OsStr::from_bytes(path)))?;
    if let Err(error) = store.set_device_cost(&volume.id.0, &cost) {
        tracing::warn!(%error, "the device's measured cost is not kept");
    }
    Ok(cost)
}

/// What reads cost where a profile's data is: as measured before, or measured
/// now if `measure`, by direct reads of the profile's largest file.
pub fn device_cost(store: &Store, profile: &Profile, measure: bool) -> DeviceCost {
    let Some((volume, path)) = main_volume(profile) else {
        return DeviceCost::UNMEASURED;
    };
    match kept_cost(store, volume) {
        Some((cost, holds)) if holds || !measure => cost,
        _ if measure => {
            told(&path, measure_and_keep(store, volume, &path)).unwrap_or(DeviceCost::UNMEASURED)
        }
        _ => DeviceCost::UNMEASURED,
    }
}

/// What reads cost where a profile's data is, measured now and not kept.
pub fn measured_cost(profile: &Profile) -> DeviceCost {
    main_volume(profile)
        .and_then(|(_, path)| {
            let measured = crate::warm::measure(Path::new(OsStr::from_bytes(&path)));
            told(&path, measured)
        })
        .unwrap_or(DeviceCost::UNMEASURED)
}

fn told(path: &[u8], measured: Result<DeviceCost, MeasureError>) -> Option<DeviceCost> {
    let shown = escape(path);
    measured
        .inspect(|cost| tracing::debug!(?cost, path = shown, "measured"))
        .inspect_err(|error| tracing::debug!(%error, path = shown, "can't be measured"))
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::warm::ByteCounts;

    /// A disk of 100 MB/s and 2,000 reads a second.
    const SLOW: DeviceCost = DeviceCost {
        read_ns: 500_000.0,
        latency_ns: 500_000.0,
        bytes_per_s: 100e6,
        readahead_bytes: 128 << 10,
        measured_ms: 7,
    };

    fn took(warm_seconds: f64, read: u64) -> WarmReport {
        WarmReport {
            data: ByteCounts {
                read,
                ..ByteCounts::default()
            },
            warm_seconds,
            ..WarmReport::default()
        }
    }

    #[test]
    fn a_disk_is_doubted_that_is_much_slower_or_faster_than_it_was() {
        let doubtful = |seconds, read| is_doubtful(&SLOW, 200, &took(seconds, read));
        // 1 s of it.
        let much = 100_000_000;
        assert!(!doubtful(1.0, much) && !doubtful(3.9, much) && !doubtful(0.6, much));
        assert!(doubtful(4.1, much) && doubtful(0.4, much));
        assert!(!doubtful(4.1, 1 << 20), "too little to tell");
        // Its reads are what takes the time.
        assert!(!is_doubtful(&SLOW, 4000, &took(7.9, much)));
        assert!(is_doubtful(&SLOW, 4000, &took(8.1, much)));
        assert!(
            !is_doubtful(&SLOW, 4000, &took(0.9, much)),
            "some were there"
        );
        let held = WarmReport {
            in_turns: 1,
            ..took(9.0, much)
        };
        assert!(!is_doubtful(&SLOW, 200, &held));
        assert!(!is_doubtful(&DeviceCost::UNMEASURED, 200, &took(9.0, much)));
    }
}
