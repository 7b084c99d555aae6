//! Which device a profile's data is on, and what reads cost there.

use std::collections::hash_map::RandomState;
use std::ffi::OsStr;
use std::hash::{BuildHasher, Hasher};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::model::{DeviceCost, FileTouches, Profile, ProfileFile, RelPath, Trace, Volume, escape};
use crate::profile::Store;
use crate::warm::MeasureError;

/// A measured cost is measured again after this long.
const COST_HOLDS: Duration = Duration::from_secs(24 * 3600);

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
