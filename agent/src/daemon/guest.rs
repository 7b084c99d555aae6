//! A helper in a workload's own cgroup, for the files that are its own: they are charged to
//! it, as they would be if it read them itself, and its limits hold for them.
//!
//! A process in somebody else's cgroup is a guest, and can do harm there: it counts for
//! `pids.max`, uses up `cpu.max` and `io.max`, and whoever removes the cgroup has to wait
//! until it is gone. So it
//!
//! - is started only where others are in the cgroup already, which is not frozen and hands
//!   no controllers on, and where twice what it is to read has room below all limits;
//! - is the first that the kernel kills where memory is short;
//! - blocks no signal: whoever ends all that is in the cgroup ends it, too;
//! - is killed as soon as it is alone there, the start is over, or [`LONGEST_STAY`] has
//!   passed;
//! - is not recorded: the probes pass it over.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::helper::wire::Terms;
use super::helper::{Link, NotCarried};
use crate::attribute::paths::below;
use crate::model::{Plan, RelPath, Volume};
use crate::run::{cgroup_by_id, read_of_cgroup as read};
use crate::warm::{Cancel, Dues, WarmReport};
use crate::workload::Volumes;

/// Longest that it stays.
const LONGEST_STAY: Duration = Duration::from_secs(60);

/// How long a runtime may take from making a cgroup to being in it.
const JOINED_WITHIN: Duration = Duration::from_millis(300);
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Threads that read: each counts for the workload's `pids.max`.
const THREADS: usize = 2;

/// Levels of cgroups above that are asked for their limits.
const LEVELS: usize = 32;

/// Has the probes pass a process over in a cgroup, or none any more; whether they do.
pub(super) type Except<'a> = dyn Fn(u64, Option<u32>) -> bool + Sync + 'a;

/// A workload that guests may be in.
pub(super) struct Guest<'a> {
    pub(super) cgroup: u64,
    pub(super) volumes: &'a Volumes,
    pub(super) except: &'a Except<'a>,
}

impl Guest<'_> {
    /// Whether there can be guests on this machine.
    ///
    /// # Errors
    /// Why not.
    pub(super) fn can_be() -> Result<(), &'static str> {
        // As the kernel numbers the first namespaces of all.
        let is_first = |name: &str, first: &str| {
            let ours = std::fs::read_link(Path::new("/proc/self/ns").join(name));
            ours.is_ok_and(|link| link == Path::new(first))
        };
        if !is_first("pid", "pid:[4026531836]") {
            return Err(
                "the agent is in a pid namespace: the probes could not tell its helpers \
                        from the workload (set `hostPID: true`)",
            );
        }
        if !is_first("cgroup", "cgroup:[4026531835]") {
            return Err(
                "the agent is in a cgroup namespace, out of which no process can be put \
                        (a privileged container is in the host's)",
            );
        }
        Ok(())
    }

    /// Whether a file is the workload's own: in a volume that it claims, or in a directory
    /// that is mounted into its container. Whoever reads those first pays for them, and
    /// that would be the workload.
    pub(super) fn owns(&self, volume: &Volume, path: &RelPath) -> bool {
        if volume.id.0.starts_with("claim:") {
            return true;
        }
        let shown = match &self.volumes.root {
            Some(root) if !volume.id.0.starts_with("layer:") => &root.shown,
            _ => return false,
        };
        let path = volume.absolute(path);
        let mut shown = shown.iter().filter(|shown| shown.as_slice() != b"/");
        shown.any(|shown| below(shown, &path).is_some())
    }

    /// Has a plan carried out in the workload's cgroup.
    ///
    /// # Errors
    /// Why not, as it stands in the metrics. Some of it may have been read.
    pub(super) fn carry(
        &self,
        plan: &Plan,
        terms: &Terms,
        cancel: &Cancel,
        dues: &Dues,
    ) -> Result<WarmReport, &'static str> {
        Self::can_be().map_err(|_| "namespace")?;
        let directory = cgroup_by_id(self.cgroup).map_err(|error| match error.raw_os_error() {
            Some(libc::ESTALE | libc::ENOENT) => "cgroup_gone",
            _ => "cgroup_not_opened",
        })?;
        may_be_in(&directory, plan.totals.bytes)?;
        let link = Link::start(directory.as_fd(), dues, &mut |pid| {
            std::fs::write(format!("/proc/{pid}/oom_score_adj"), "1000")?;
            match (self.except)(self.cgroup, Some(pid)) {
                true => Ok(()),
                false => Err(io::Error::other(NOT_TOLD)),
            }
        })
        .map_err(|error| not_started(&error));
        let result = link.and_then(|link| {
            let pid = link.pid();
            let began = Instant::now();
            let terms = Terms {
                within_ms: Some(LONGEST_STAY.as_millis() as u64),
                threads: THREADS,
                ..terms.clone()
            };
            let mut go_on = || {
                !cancel.is_cancelled()
                    && began.elapsed() < LONGEST_STAY
                    && read(&directory, "cgroup.procs").is_ok_and(|procs| has_others(&procs, pid))
            };
            let report = link.carry(plan, &terms, &Cancel::new(), &mut go_on);
            report.map_err(|error| match error {
                NotCarried::NotThere(_) => "guest_not_started",
                NotCarried::Died => "guest_ended",
            })
        });
        // Its number may come again.
        (self.except)(self.cgroup, None);
        result
    }
}

const NOT_TOLD: &str = "the probes are not told";

fn not_started(error: &io::Error) -> &'static str {
    match error.raw_os_error().map(Errno::from_raw_os_error) {
        // Controllers are enabled for children.
        Some(Errno::BUSY) => "cgroup_hands_on",
        Some(Errno::OPNOTSUPP) => "cgroup_threaded",
        Some(Errno::AGAIN) => "pids_max",
        Some(Errno::NODEV | Errno::NOENT) => "cgroup_gone",
        Some(Errno::ACCESS | Errno::PERM) => "cgroup_refused",
        _ if error.to_string() == NOT_TOLD => "not_told",
        _ => "guest_not_started",
    }
}

/// Whether a guest that reads so many bytes does no harm in a cgroup; it may have to wait
/// for the first process.
fn may_be_in(directory: &OwnedFd, bytes: u64) -> Result<(), &'static str> {
    let until = Instant::now() + JOINED_WITHIN;
    loop {
        let events = read(directory, "cgroup.events").map_err(|_| "cgroup_gone")?;
        let has = |line: &str| events.lines().any(|l| l == line);
        if has("frozen 1") {
            return Err("cgroup_frozen");
        }
        if has("populated 1") {
            break;
        }
        if Instant::now() >= until {
            return Err("cgroup_empty");
        }
        std::thread::sleep(LOOK_EVERY);
    }
    match room(directory) {
        None => Err("no_memory_controller"),
        Some(room) if room / 2 < bytes => Err("memory_limit"),
        Some(_) => Ok(()),
    }
}

/// Bytes that may yet be charged to a cgroup: of the limits on it and above it the nearest.
/// `None` where nothing is charged to it for itself.
fn room(directory: &OwnedFd) -> Option<u64> {
    let mut at = directory.try_clone().ok()?;
    read(&at, "memory.current").ok()?;
    let mut room = u64::MAX;
    for _ in 0..LEVELS {
        let Ok(current) = read(&at, "memory.current") else {
            break;
        };
        let current: u64 = current.trim().parse().ok()?;
        for file in ["memory.max", "memory.high"] {
            let limit = read(&at, file).ok()?;
            // `max` is none.
            if let Ok(limit) = limit.trim().parse::<u64>() {
                room = room.min(limit.saturating_sub(current));
            }
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        match rustix::fs::openat(&at, "..", flags, Mode::empty()) {
            Ok(above) => at = above,
            Err(_) => break,
        }
    }
    Some(room)
}

/// Whether anybody but `pid` is in it.
fn has_others(procs: &str, pid: u32) -> bool {
    procs
        .lines()
        .any(|line| line.parse::<u32>().is_ok_and(|other| other != pid))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attribute::mountinfo;
    use crate::model::VolumeId;
    use crate::workload::Root;

    #[test]
    fn claims_and_what_is_mounted_into_a_container_are_its_own() {
        let mounts = mountinfo::parse(b"1 0 8:1 / / rw - ext4 /dev/a rw\n").expect("valid");
        let volumes = Volumes {
            directories: Vec::new(),
            root: Some(Root {
                path: b"/run/root".to_vec(),
                mount: mounts[0].clone(),
                lower: Vec::new(),
                shown: vec![b"/srv/models".to_vec(), b"/".to_vec()],
                binds: Vec::new(),
            }),
        };
        let owns = |volumes: &Volumes, id: &str, mount_point: &str, path: &str| {
            let guest = Guest {
                cgroup: 1,
                volumes,
                except: &|_, _| true,
            };
            let volume = Volume {
                id: VolumeId(id.to_owned()),
                fs_type: "ext4".to_owned(),
                mount_point: mount_point.as_bytes().to_vec(),
            };
            guest.owns(&volume, &RelPath::new(path).expect("a path"))
        };
        assert!(owns(&volumes, "claim:d:h", "/pods/x", "weights"));
        assert!(owns(&volumes, "uuid:1", "/", "srv/models/weights"));
        assert!(owns(&volumes, "uuid:2", "/srv", "models/weights"));
        assert!(!owns(&volumes, "uuid:1", "/", "srv/modelsx/weights"));
        assert!(!owns(&volumes, "uuid:1", "/", "usr/lib/libc.so"));
        assert!(!owns(&volumes, "layer:1", "/srv/models", "weights"));
        // A unit has nothing that is known to be its own.
        assert!(!owns(
            &Volumes::default(),
            "uuid:1",
            "/",
            "srv/models/weights"
        ));
    }

    #[test]
    fn a_guest_is_alone_when_only_it_is_left() {
        assert!(has_others("12\n15\n", 15));
        assert!(!has_others("15\n", 15));
        assert!(!has_others("", 15));
    }

    #[test]
    fn what_forbids_a_start_is_named() {
        let named = |errno: Errno| not_started(&errno.into());
        assert_eq!(named(Errno::BUSY), "cgroup_hands_on");
        assert_eq!(named(Errno::AGAIN), "pids_max");
        assert_eq!(named(Errno::INVAL), "guest_not_started");
        assert_eq!(not_started(&io::Error::other(NOT_TOLD)), "not_told");
    }
}
