//! Which disks are read from: who uses another one does not matter.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// Major and minor number of a device.
pub(super) type Number = (u32, u32);

/// Devices upon devices; more are taken for a circle.
const DEEPEST: usize = 8;

/// The disks below the filesystems that executions read from.
#[derive(Debug, Default)]
pub(super) struct Disks {
    devices: BTreeSet<Number>,
    /// `None`: it is not known of all devices, or there are none yet.
    below: Option<BTreeSet<Number>>,
}

impl Disks {
    pub(super) fn has(&self, device: Number) -> bool {
        self.devices.contains(&device)
    }

    /// Adds a device, and what is [`below`] it. Whether they are other disks now.
    pub(super) fn add(&mut self, device: Number, below: Option<BTreeSet<Number>>) -> bool {
        let is_first = self.devices.is_empty();
        if !self.devices.insert(device) {
            return false;
        }
        let all = match (&self.below, below) {
            (Some(known), Some(more)) => Some(known | &more),
            (None, Some(more)) if is_first => Some(more),
            _ => None,
        };
        let is_other = all != self.below;
        self.below = all;
        is_other
    }

    /// Those whose use by others matters; `None` for all.
    pub(super) fn known(&self) -> Option<&BTreeSet<Number>> {
        self.below.as_ref()
    }
}

/// The disks, as `/proc/diskstats` numbers them, that a device of a filesystem lies on: a
/// partition's disk, those that a volume of device mapper or md is made of. `sys` is where
/// sysfs is mounted. `None` where there is no block device (NFS, FUSE, btrfs), or it ends
/// somewhere else (loop devices).
pub(super) fn below(sys: &Path, device: Number) -> Option<BTreeSet<Number>> {
    let mut disks = BTreeSet::new();
    collect(sys, device, DEEPEST, &mut disks)?;
    Some(disks)
}

fn collect(
    sys: &Path,
    (major, minor): Number,
    deepest: usize,
    disks: &mut BTreeSet<Number>,
) -> Option<()> {
    if major == 0 || deepest == 0 {
        return None;
    }
    let node = sys.join(format!("dev/block/{major}:{minor}"));
    let mut directory = fs::canonicalize(node).ok()?;
    if directory.join("partition").exists() {
        directory.pop();
    }
    let name = directory.file_name()?.to_str()?;
    if super::others::ends_elsewhere(name) {
        return None;
    }
    let slaves = fs::read_dir(directory.join("slaves"));
    let mut slaves = slaves.into_iter().flatten().flatten().peekable();
    if slaves.peek().is_none() {
        disks.insert(number(&directory)?);
        return Some(());
    }
    for slave in slaves {
        collect(sys, number(&slave.path())?, deepest - 1, disks)?;
    }
    Some(())
}

/// The number that stands in a device's directory.
fn number(directory: &Path) -> Option<Number> {
    let text = fs::read_to_string(directory.join("dev")).ok()?;
    let (major, minor) = text.trim().split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    /// sysfs with a device in each of these directories.
    fn sysfs(devices: &[(&str, &str)]) -> tempfile::TempDir {
        let sys = tempfile::tempdir().expect("a directory");
        fs::create_dir_all(sys.path().join("dev/block")).expect("made");
        for (path, number) in devices {
            let directory = sys.path().join("devices").join(path);
            fs::create_dir_all(&directory).expect("made");
            fs::write(directory.join("dev"), format!("{number}\n")).expect("written");
            let node = sys.path().join("dev/block").join(number);
            symlink(directory, node).expect("linked");
        }
        sys
    }

    fn made_of(sys: &Path, volume: &str, parts: &[&str]) {
        let slaves = sys.join("devices").join(volume).join("slaves");
        fs::create_dir_all(&slaves).expect("made");
        for (at, part) in parts.iter().enumerate() {
            let part = sys.join("devices").join(part);
            symlink(part, slaves.join(at.to_string())).expect("linked");
        }
    }

    #[test]
    fn a_filesystem_lies_on_the_disks_below_it() {
        let sys = sysfs(&[
            ("sda", "8:0"),
            ("sda/sda1", "8:1"),
            ("sdb", "8:16"),
            ("dm-0", "253:0"),
            ("dm-1", "253:1"),
            ("dm-2", "253:2"),
            ("loop0", "7:0"),
        ]);
        let sys = sys.path();
        fs::write(sys.join("devices/sda/sda1/partition"), "1\n").expect("written");
        made_of(sys, "dm-0", &["sda/sda1", "sdb"]);
        made_of(sys, "dm-1", &["dm-0"]);
        made_of(sys, "dm-2", &["dm-2"]);
        let of = |device| below(sys, device).map(Vec::from_iter);
        assert_eq!(of((8, 16)), Some(vec![(8, 16)]));
        assert_eq!(of((8, 1)), Some(vec![(8, 0)]), "a partition");
        assert_eq!(of((253, 1)), Some(vec![(8, 0), (8, 16)]), "of two");
        for (device, why) in [
            ((0, 40), "no device"),
            ((7, 0), "a file somewhere"),
            ((253, 2), "a circle"),
            ((9, 9), "not there"),
        ] {
            assert_eq!(of(device), None, "{why}");
        }
    }

    #[test]
    fn only_what_is_read_from_matters_where_all_of_it_is_known() {
        let set = |numbers: &[Number]| Some(numbers.iter().copied().collect());
        let mut disks = Disks::default();
        assert_eq!(disks.known(), None, "nothing yet");
        assert!(disks.add((8, 1), set(&[(8, 0)])));
        assert!(!disks.add((8, 2), set(&[(8, 0)])), "the same disk");
        assert!(disks.has((8, 2)) && disks.known() == set(&[(8, 0)]).as_ref());
        assert!(disks.add((8, 17), set(&[(8, 16)])));
        assert_eq!(disks.known(), set(&[(8, 0), (8, 16)]).as_ref());
        assert!(disks.add((0, 40), None));
        assert_eq!(disks.known(), None);
        assert!(!disks.add((8, 33), set(&[(8, 32)])), "all already");
    }
}
