//! What warming stands on, the state directory, and limits.

use super::super::snapshot::{Limit, Snapshot, Tried};
use super::{Group, Need, Row, Status, ok_or};

/// Below this, keeping profiles is a matter of luck.
const LITTLE_SPACE: u64 = 256 << 20;
/// Below this, it fails.
const NO_SPACE: u64 = 8 << 20;
/// The kernel's own default is 128.
const USUAL_READ_AHEAD_KB: std::ops::RangeInclusive<u64> = 64..=1024;
/// Warming holds one descriptor a file in flight, watching one a cgroup.
const ENOUGH_FILES: u64 = 4096;
/// Maps of all probes, with room; counted against the limit before 5.11 only.
const ENOUGH_LOCKED: u64 = 128 << 20;

pub(super) fn rows(seen: &Snapshot) -> Vec<Row> {
    let mut rows = residency(seen);
    rows.extend([
        tried(
            "openat2",
            &seen.openat2,
            "paths are opened step by step, which is slower",
            "run Linux 5.6 or later; allow the call in the agent's seccomp profile",
        ),
        tried(
            "pressure (PSI)",
            &seen.pressure,
            "`record` can't tell how long a command was stalled on I/O",
            "boot with psi=1; use a kernel built with CONFIG_PSI=y",
        ),
        tried(
            "drop_caches",
            &seen.drop_caches,
            "`headstart compare` can't make cold starts",
            "run as root with a writable /proc/sys",
        ),
        fuse(seen),
        configuration(seen),
        state_dir(seen),
        read_ahead(seen),
        memlock(seen),
        nofile(seen),
    ]);
    rows
}

fn tried(name: &'static str, result: &Tried, cost: &'static str, fix: &'static str) -> Row {
    let (found, status) = match result {
        Ok(()) => ("works".to_owned(), Status::Ok),
        Err(error) => (error.clone(), Status::Degraded),
    };
    Row::ok(Group::Warming, name, found)
        .is(status)
        .costs(cost)
        .fix(fix)
}

/// One of the two is enough; without either, warming is blind.
fn residency(seen: &Snapshot) -> Vec<Row> {
    let mut rows = vec![
        tried(
            "cachestat",
            &seen.cachestat,
            "what is resident is asked by mincore, which needs a mapping of every file",
            "run Linux 6.5 or later; allow the call in the agent's seccomp profile",
        ),
        tried(
            "mincore",
            &seen.mincore,
            "where cachestat does not work, what is resident stays unknown",
            "allow the call in the agent's seccomp profile",
        ),
    ];
    if rows.iter().all(|row| row.status != Status::Ok) {
        for row in &mut rows {
            row.status = Status::Missing;
            row.cost = "what is resident stays unknown: nothing can be warmed with a check";
        }
    }
    rows.into_iter()
        .map(|row| row.needed_for(Need::Warm))
        .collect()
}

/// Never worse than well: nothing uses it yet.
fn fuse(seen: &Snapshot) -> Row {
    let found = match (&seen.fuse, seen.version() >= (6, 9)) {
        (Ok(()), true) => "/dev/fuse, with passthrough; nothing uses it yet".to_owned(),
        (Ok(()), false) => "/dev/fuse, without passthrough; nothing uses it yet".to_owned(),
        (Err(reason), _) => format!("not there ({reason}); nothing uses it yet"),
    };
    Row::ok(Group::Warming, "FUSE", found)
        .costs("nothing yet: data sets on local disks, which will need it, are not built")
        .fix("nothing; for later: modprobe fuse, and Linux 6.9 for passthrough")
}

fn configuration(seen: &Snapshot) -> Row {
    let error = seen.broken_config.as_deref();
    Row::ok(Group::State, "configuration", error.unwrap_or("understood"))
        .is(ok_or(error.is_none(), Status::Missing))
        .costs("only `run` goes on, with defaults: other commands refuse")
        .fix("correct the line, or remove the file: every key has a default")
        .needed_for(Need::Warm)
}

fn state_dir(seen: &Snapshot) -> Row {
    let dir = &seen.state_dir;
    let path = dir.path.display();
    let (found, status) = match (&dir.writable, dir.free_bytes) {
        (Err(error), _) => (
            format!("{path}: can't be written: {error}"),
            Status::Missing,
        ),
        (Ok(()), free) => {
            let made = if dir.exists { "" } else { ", will be made" };
            let status = match free {
                0..NO_SPACE => Status::Missing,
                NO_SPACE..LITTLE_SPACE => Status::Degraded,
                _ => Status::Ok,
            };
            (format!("{path}, {} MiB free{made}", free >> 20), status)
        }
    };
    // Warming only reads it.
    let (cost, need) = if dir.exists {
        (
            "profiles can't be kept: nothing is learned, and only what is known is warmed",
            Need::Record,
        )
    } else {
        (
            "profiles can't be kept: nothing is learned, nothing is warmed",
            Need::Warm,
        )
    };
    Row::ok(Group::State, "state directory", found)
        .is(status)
        .costs(cost)
        .fix("make it a directory with room that can be written, or name another with --state-dir")
        .needed_for(need)
}

/// Unusual readahead is nothing to repair, but explains numbers.
fn read_ahead(seen: &Snapshot) -> Row {
    let found = match seen.state_dir.read_ahead_kb {
        None => "unknown: no block device below the state directory".to_owned(),
        Some(kb) if USUAL_READ_AHEAD_KB.contains(&kb) => format!("{kb} KiB"),
        Some(kb) if kb < *USUAL_READ_AHEAD_KB.start() => {
            format!(
                "{kb} KiB, unusually small (the default is 128): cold starts do many small reads"
            )
        }
        Some(kb) => format!(
            "{kb} KiB, unusually large (the default is 128): cold starts read far more than they use"
        ),
    };
    Row::ok(Group::State, "readahead", found)
}

fn memlock(seen: &Snapshot) -> Row {
    // From 5.11 on, maps are charged to the memory cgroup.
    let counts = seen.version() < (5, 11);
    let enough = seen.memlock.hard.is_none_or(|limit| limit >= ENOUGH_LOCKED);
    let note = if counts {
        ""
    } else {
        ", which this kernel does not count maps against"
    };
    Row::ok(
        Group::State,
        "memlock limit",
        format!("{}{note}", limit(seen.memlock)),
    )
    .is(ok_or(enough || !counts, Status::Degraded))
    .costs("the probes' maps may not fit")
    .fix("LimitMEMLOCK=infinity in the unit, or `ulimit -l unlimited`")
}

fn nofile(seen: &Snapshot) -> Row {
    let enough = seen.nofile.hard.is_none_or(|limit| limit >= ENOUGH_FILES);
    Row::ok(Group::State, "open files limit", limit(seen.nofile))
        .is(ok_or(enough, Status::Degraded))
        .costs("fewer files are warmed at a time")
        .fix("LimitNOFILE=65536 in the unit, or `ulimit -n 65536`")
}

fn limit(limit: Limit) -> String {
    let text = |value: Option<u64>| value.map_or("unlimited".to_owned(), |v| v.to_string());
    format!("{} (at most {})", text(limit.soft), text(limit.hard))
}

#[cfg(test)]
mod tests {
    use super::super::tests::good;
    use super::*;

    #[test]
    fn little_space_is_noted_and_none_is_fatal() {
        let status = |free_bytes| {
            let mut seen = good();
            seen.state_dir.free_bytes = free_bytes;
            state_dir(&seen).status
        };
        assert_eq!(status(1 << 20), Status::Missing);
        assert_eq!(status(100 << 20), Status::Degraded);
        assert_eq!(status(1 << 30), Status::Ok);
    }

    #[test]
    fn unusual_readahead_is_a_note() {
        let mut seen = good();
        assert_eq!(read_ahead(&seen).found, "128 KiB");
        seen.state_dir.read_ahead_kb = Some(8192);
        assert!(read_ahead(&seen).found.contains("unusually large"));
        seen.state_dir.read_ahead_kb = Some(0);
        assert!(read_ahead(&seen).found.contains("unusually small"));
        assert_eq!(read_ahead(&seen).status, Status::Ok);
    }

    #[test]
    fn a_small_memlock_limit_counts_on_old_kernels_only() {
        let small = Limit {
            soft: Some(65_536),
            hard: Some(65_536),
        };
        let old = Snapshot {
            release: "5.10.0".to_owned(),
            memlock: small,
            ..good()
        };
        assert_eq!(memlock(&old).status, Status::Degraded);
        let new = Snapshot {
            memlock: small,
            ..good()
        };
        assert_eq!(memlock(&new).status, Status::Ok);
    }

    #[test]
    fn without_fuse_nothing_is_worse_yet() {
        let seen = Snapshot {
            release: "6.8.12".to_owned(),
            ..good()
        };
        assert!(fuse(&seen).found.contains("without passthrough"));
        let seen = Snapshot {
            fuse: Err("none".to_owned()),
            ..good()
        };
        assert_eq!(fuse(&seen).status, Status::Ok);
        assert!(fuse(&seen).found.contains("not there (none)"));
    }
}
