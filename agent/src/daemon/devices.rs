//! What reads cost on the node's devices, by which a plan is cut and carried out.
//!
//! Costs are kept by device, not by volume: the layers of an image are directories of one.

use super::admit::Readings;
use super::prepare::Shared;
use crate::attribute::mountinfo;
use crate::model::{DeviceCost, Profile};
use crate::run::{cost_of, main_volume};

/// Where all tasks wait for I/O for more of the time than this, percent, nothing is
/// measured: it would look slower than it is, and make others wait.
const BUSY: f64 = 5.0;

impl Shared {
    /// What reads cost where most of a profile's data is, as far as it was measured. The
    /// profile's volumes are where this node has them.
    pub(super) fn device_cost(&self, profile: &Profile) -> DeviceCost {
        let place = place_of(profile);
        place.map_or(DeviceCost::UNMEASURED, |(key, path)| {
            cost_of(&self.store, &key, &path, false)
        })
    }

    /// Measures it, once a day: a second at most, in which nothing is to be warmed and the
    /// disk is not busy.
    pub(super) fn measure_device(&self, profile: &Profile) {
        let busy = Readings::now().io_pressure.is_some_and(|p| p > BUSY);
        if busy || self.is_warming() || self.settings().observe_only {
            return;
        }
        if let Some((key, path)) = place_of(profile) {
            cost_of(&self.store, &key, &path, true);
        }
    }
}

/// What the store calls the device that has most of a profile's data, and a file on it. A
/// file system may hang, so it is not asked.
fn place_of(profile: &Profile) -> Option<(String, Vec<u8>)> {
    let (_, path) = main_volume(profile)?;
    let mounts = mountinfo::read().ok()?;
    let (major, minor) = mountinfo::covering(&mounts, &path)?.device;
    Some((format!("device:{major}:{minor}"), path))
}
