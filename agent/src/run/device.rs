//! Which device a profile's data is on, and what reads cost there.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::model::{DeviceCost, Profile, Volume, escape};
use crate::profile::Store;

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

/// The volume that holds most of a profile's data: its device is the one whose
/// cost decides.
pub fn main_volume(profile: &Profile) -> Option<(&Volume, Vec<u8>)> {
    let mut sums = vec![0u64; profile.volumes.len()];
    for file in &profile.files {
        let pages: u64 = file.extents.iter().map(|e| u64::from(e.pages)).sum();
        *sums.get_mut(file.volume as usize)? += pages;
    }
    let index = (0..sums.len()).max_by_key(|&i| sums[i])?;
    let volume = &profile.volumes[index];
    let files = profile
        .files
        .iter()
        .filter(|file| file.volume as usize == index);
    let largest = files.max_by_key(|file| file.version.size)?;
    Some((volume, volume.absolute(&largest.path)))
}

/// What reads cost where a profile's data is: as measured before, or measured
/// now if `measure`, by direct reads of the profile's largest file.
pub fn device_cost(store: &Store, profile: &Profile, measure: bool) -> DeviceCost {
    let Some((volume, path)) = main_volume(profile) else {
        return DeviceCost::UNMEASURED;
    };
    let known = store.device_cost(&volume.id.0).ok().flatten();
    let fresh = |cost: &DeviceCost| {
        now_ms().saturating_sub(cost.measured_ms) < COST_HOLDS.as_millis() as u64
    };
    if let Some(cost) = known.filter(|cost| fresh(cost) || !measure) {
        return cost;
    }
    if !measure {
        return DeviceCost::UNMEASURED;
    }
    let Some(cost) = measure_reads(&path) else {
        return DeviceCost::UNMEASURED;
    };
    if let Err(error) = store.set_device_cost(&volume.id.0, &cost) {
        tracing::warn!(%error, "the device's measured cost is not kept");
    }
    cost
}

/// What reads cost where a profile's data is, measured now and not kept.
pub fn measured_cost(profile: &Profile) -> DeviceCost {
    main_volume(profile)
        .and_then(|(_, path)| measure_reads(&path))
        .unwrap_or(DeviceCost::UNMEASURED)
}

fn measure_reads(path: &[u8]) -> Option<DeviceCost> {
    let path = Path::new(std::ffi::OsStr::from_bytes(path));
    let shown = escape(path.as_os_str().as_bytes());
    crate::warm::measure(path)
        .inspect(|cost| tracing::debug!(?cost, path = shown, "measured"))
        .inspect_err(|error| tracing::debug!(%error, path = shown, "can't be measured"))
        .ok()
}
