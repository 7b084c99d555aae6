//! Asks the machine. Decides nothing.

mod calls;
mod mounts;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags, CWD, accessat, statvfs};
use rustix::process::{Resource, getrlimit};

use super::super::format;
use super::nearest_existing;
use super::snapshot::{Limit, Snapshot, StateDir, Tried};
use crate::attribute::mountinfo;
use crate::probe::{Group, HOOKS, Place, Probes};
use crate::profile::store::FILE_NAME;
use crate::run::{lockdown, may_narrow, may_trace, procfs};
use crate::workload::{Containerd, Roots};

/// Every group: what is not attached while nothing is learned is tried too.
const ALL: [Group; 5] = [
    Group::Use,
    Group::Miss,
    Group::Names,
    Group::Lifecycle,
    Group::Signal,
];

/// Container runtimes whose directories are there. containerd is asked for the layers of
/// an image; of the others the files tell all.
fn runtimes(roots: &Roots) -> Vec<(PathBuf, Tried)> {
    let asked = roots
        .containerd
        .iter()
        .filter(|dir| dir.is_dir())
        .map(|dir| {
            let socket = dir.join("containerd.sock");
            let sockets = vec![socket.clone(), dir.with_extension("sock")];
            let answers = Containerd::new(sockets).and_then(|client| client.answers());
            let refused = |error| format!("{} can't be asked: {error}", socket.display());
            (dir.clone(), answers.map_err(refused))
        });
    let storages = roots.storage.iter().map(|storage| &storage.graph);
    let read = storages.chain(&roots.docker).filter(|dir| dir.is_dir());
    asked.chain(read.map(|dir| (dir.clone(), Ok(())))).collect()
}

/// Looks at this machine; `state_dir` is where profiles would be kept, `roots` where runtimes
/// keep what they know. Attaches every hook once, with a ring buffer of `ring_bytes`, and lets
/// go of it.
pub(super) fn look(
    state_dir: &Path,
    ring_bytes: u32,
    roots: &Roots,
    broken_config: Option<String>,
) -> Snapshot {
    let mounts = mountinfo::read().unwrap_or_default();
    let btf = fs::read("/sys/kernel/btf/vmlinux").map_err(|e| e.to_string());
    let hooks = Probes::load(ring_bytes)
        .map(|mut probes| probes.attach(&ALL))
        .map_err(|e| e.to_string());
    let places = match (&hooks, &btf) {
        (Err(_), Ok(btf)) => HOOKS
            .iter()
            .flat_map(|hook| hook.places)
            .filter(|place| has_place(place, btf))
            .map(Place::to_string)
            .collect(),
        _ => BTreeSet::new(),
    };
    Snapshot {
        release: rustix::system::uname()
            .release()
            .to_string_lossy()
            .into_owned(),
        page_size: rustix::param::page_size() as u64,
        btf: btf.map(|bytes| bytes.len() as u64),
        lockdown: lockdown(),
        capabilities: capabilities(),
        cgroups: mounts::cgroups(&mounts),
        runtimes: runtimes(roots),
        bpffs: mounts::first_of_type(&mounts, "bpf"),
        tracefs: mounts::first_of_type(&mounts, "tracefs"),
        hooks,
        places,
        fault_around: may_narrow().map_err(|e| e.to_string()),
        tracing: may_trace().map_err(|e| e.to_string()),
        cachestat: calls::cachestat(),
        openat2: calls::openat2(),
        mincore: calls::mincore(),
        fuse: open("/dev/fuse"),
        pressure: open("/proc/pressure/io"),
        drop_caches: may_write(Path::new("/proc/sys/vm/drop_caches")),
        state_dir: look_at_state_dir(state_dir),
        broken_config,
        memlock: limit(Resource::Memlock),
        nofile: limit(Resource::Nofile),
        probes: crate::probe::object().map(<[u8]>::len),
    }
}

/// The kernel's type information names every function that is not inlined, and every
/// trace point: each has a typedef `btf_trace_<name>`.
fn has_place(place: &Place, btf: &[u8]) -> bool {
    let at = place.at;
    let name = match place.kind.is_function() {
        true => format!("\0{at}\0"),
        false => format!("\0btf_trace_{at}\0"),
    };
    contains(btf, name.as_bytes())
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack
        .windows(needle.len())
        .any(|window| window == needle)
}

fn capabilities() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    procfs::status_field(&status, "CapEff")
        .and_then(|hex| u64::from_str_radix(hex, 16).ok())
        .unwrap_or(0)
}

fn open(path: &str) -> Tried {
    fs::File::open(path)
        .map(drop)
        .map_err(|e| format!("{path}: {e}"))
}

fn may_write(path: &Path) -> Tried {
    accessat(CWD, path, Access::WRITE_OK, AtFlags::EACCESS)
        .map_err(|e| format!("{}: {e}", path.display()))
}

fn limit(resource: Resource) -> Limit {
    let limit = getrlimit(resource);
    Limit {
        soft: limit.current,
        hard: limit.maximum,
    }
}

fn look_at_state_dir(path: &Path) -> StateDir {
    let there = nearest_existing(path);
    StateDir {
        path: path.to_owned(),
        exists: there == path,
        writable: may_write(there).and_then(|()| is_usable(there)),
        free_bytes: statvfs(there).map_or(0, |s| s.f_bavail.saturating_mul(s.f_frsize)),
        read_ahead_kb: read_ahead_kb(there),
    }
}

/// It is a directory, and if there is a store it is a file.
fn is_usable(there: &Path) -> Tried {
    let is_not = |what: &Path, kind: &str| Err(format!("{} is no {kind}", format::path(what)));
    if !there.is_dir() {
        return is_not(there, "directory");
    }
    let store = there.join(FILE_NAME);
    match fs::metadata(&store) {
        Ok(meta) if !meta.is_file() => is_not(&store, "file"),
        _ => Ok(()),
    }
}

/// Readahead is set per backing device: file systems without a disk of their
/// own have one too; a partition's is its disk's.
fn read_ahead_kb(path: &Path) -> Option<u64> {
    let device = fs::metadata(path).ok()?.dev();
    let id = format!(
        "{}:{}",
        rustix::fs::major(device),
        rustix::fs::minor(device)
    );
    let disk = PathBuf::from("/sys/dev/block").join(&id);
    [
        PathBuf::from("/sys/class/bdi")
            .join(&id)
            .join("read_ahead_kb"),
        disk.join("queue/read_ahead_kb"),
        disk.join("../queue/read_ahead_kb"),
    ]
    .iter()
    .find_map(|file| fs::read_to_string(file).ok())
    .and_then(|text| text.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tracepoint_is_found_in_type_information() {
        let btf = b"\0btf_trace_cgroup_mkdir\0btf_trace_page_fault_user_exit\0";
        let place = |program| {
            let mut hooks = HOOKS.iter();
            let hook = hooks.find(|hook| hook.program == program);
            &hook.expect("in the table").places[0]
        };
        assert!(has_place(place("cgroup_mkdir"), btf));
        assert!(!has_place(place("page_fault_user"), btf));
    }

    #[test]
    fn this_machine_can_be_looked_at() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let seen = look(dir.path(), 4096, &Roots::default(), None);
        assert!(seen.version() > (3, 0), "{}", seen.release);
        assert!(seen.state_dir.exists);
        assert!(seen.state_dir.writable.is_ok());
        assert!(seen.state_dir.free_bytes > 0);
    }

    #[test]
    fn a_state_dir_that_is_not_there_is_judged_by_what_is_above() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let seen = look_at_state_dir(&dir.path().join("not/yet"));
        assert!(!seen.exists);
        assert!(seen.writable.is_ok());
    }
}
