//! Loading the probes, attaching them, and reading what they send.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::os::fd::{AsFd, AsRawFd};
use std::panic::resume_unwind;
use std::path::Path;

use aya::maps::{self, Array, MapData, MapError, PerCpuArray};
use aya::{Btf, BtfError, Ebpf, EbpfLoader, Endianness};
use headstart_abi::{Counts, Outcome, SYSCALL_MAP, Stage, TRACK_SLOTS, TrackEntry, track_slot};
use rustix::process::chroot;
use rustix::thread::{UnshareFlags, unshare_unsafe};

use super::attach::{Kernel, Link, attach};
use super::counters::{Counters, Ran};
use super::hooks::{Group, HOOKS, Hook, HookState, OLD_SYSCALLS, Place, READS, SYSCALLS};
use super::layout::{KERNEL_BTF, KernelTypes, LayoutError, kernel_types};
use super::memlock::Memlock;
use super::object::object;
use super::ring::Reader;
use crate::model::{PAGE_SIZE, with_causes};

/// Why there are no probes.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// Built without them.
    #[error("this binary was built without probes: build it with `cargo xtask build`")]
    NotBuilt,
    /// The kernel counts files in pages of this many bytes.
    #[error(
        "this kernel's pages are of {0} bytes, and the probes know those of {PAGE_SIZE} only: \
         nothing can be recorded here (profiles that are imported can be warmed)"
    )]
    PageSize(usize),
    /// The kernel's types are not known.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// The kernel refused the object.
    #[error("loading the probes: {reason}{}", hint(.reason))]
    Load {
        /// The whole chain of causes.
        reason: String,
    },
    /// A map that should be there is not.
    #[error("the probes have no usable map `{map}`: {reason}")]
    Map {
        /// Its name.
        map: &'static str,
        /// Cause.
        reason: String,
    },
    /// A cgroup's slot in the table of watched cgroups is taken by another.
    #[error("cgroup {0} can't be watched: its slot is taken by another watched cgroup")]
    SlotTaken(u64),
}

/// What to do about the commonest refusals.
fn hint(reason: &str) -> &'static str {
    if reason.contains("os error 1)") || reason.contains("ermission") {
        " (recording needs root, or CAP_BPF and CAP_PERFMON; `headstart doctor` says what is missing)"
    } else {
        ""
    }
}

/// Loaded programs. Dropping it detaches and unloads everything.
pub struct Probes {
    /// Before the programs, so that they are dropped before them.
    links: Vec<(Group, Link)>,
    ebpf: Ebpf,
    btf: Result<Btf, BtfError>,
    types: KernelTypes,
    generation: u64,
    watched: Vec<u64>,
    /// Of watched cgroups: the process that is passed over.
    excepted: HashMap<u64, u32>,
    /// Slots whose touches of this generation may be in the maps.
    slots_used: HashSet<u32>,
    /// Of watched cgroups: how many had been made within any, as of when it began.
    children: HashMap<u64, u64>,
}

impl Probes {
    /// Loads the programs with a ring buffer of `ring_bytes` (a power of two).
    /// Nothing is attached yet.
    pub fn load(ring_bytes: u32) -> Result<Self, ProbeError> {
        let object = object().ok_or(ProbeError::NotBuilt)?;
        let page_size = rustix::param::page_size();
        if page_size as u64 != PAGE_SIZE {
            return Err(ProbeError::PageSize(page_size));
        }
        let (types, loader) = std::thread::scope(|scope| {
            let loader = scope.spawn(loader_without_btf);
            let types = kernel_types(Path::new(KERNEL_BTF));
            (types, loader.join().unwrap_or_else(|p| resume_unwind(p)))
        });
        let types = types?;
        let _raised = types.charges_memory().then(Memlock::raise);
        let layout = types.layout;
        let mut loader = loader;
        let ebpf = loader
            .btf(None)
            .override_global("CONFIG", &layout, true)
            .map_max_entries("EVENTS", ring_bytes)
            .load(object)
            .map_err(|error| ProbeError::Load {
                reason: chain(&error),
            })?;
        let mut probes = Self {
            links: Vec::new(),
            ebpf,
            btf: Btf::parse(&types.places, Endianness::default()),
            types,
            generation: 0,
            watched: Vec::new(),
            excepted: HashMap::new(),
            slots_used: HashSet::new(),
            children: HashMap::new(),
        };
        probes.tell_of_calls("SYSCALLS", SYSCALLS.iter().chain(OLD_SYSCALLS))?;
        probes.tell_of_calls("READS", READS)?;
        Ok(probes)
    }

    /// Fills in the classes of system calls, by their numbers.
    fn tell_of_calls<'a>(
        &mut self,
        name: &'static str,
        calls: impl IntoIterator<Item = &'a (i64, u32)>,
    ) -> Result<(), ProbeError> {
        let mut classes: Array<_, u32> = self.array(name)?;
        for &(number, class) in calls {
            classes
                .set(number as u32, class, 0)
                .map_err(|e| map_error(name, &e))?;
        }
        Ok(())
    }

    /// Kernel fields that were not found: parts of some records are missing.
    pub fn missing_fields(&self) -> &[String] {
        &self.types.missing
    }

    /// What the programs that are loaded have cost so far (nothing where the kernel does not
    /// measure that: kernel.bpf_stats_enabled), and what they missed.
    pub fn programs(&self) -> BTreeMap<&'static str, Ran> {
        let of_program = |name: &&str| {
            let program = self.ebpf.program(name)?.fd().ok()?;
            let fd = program.as_fd().as_raw_fd();
            std::fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).ok()
        };
        let ran = |hook: &Hook| {
            let beside = hook.places.iter().filter_map(|place| place.beside);
            let names = hook.places.iter().map(|place| place.program);
            let names: BTreeSet<&str> = names.chain(beside.map(|(name, _)| name)).collect();
            let mut told = names.iter().filter_map(of_program).peekable();
            told.peek()?;
            let mut ran = Ran::default();
            told.for_each(|fdinfo| ran.add(&fdinfo));
            Some((hook.program, ran))
        };
        HOOKS.iter().filter_map(ran).collect()
    }

    /// Pages that the kernel maps around a fault at most, as of when the probes were loaded.
    pub fn fault_around_pages(&self) -> u64 {
        u64::from(self.types.layout.fault_around_pages)
    }

    /// Attaches every hook of `groups`, and says what became of each.
    pub fn attach(&mut self, groups: &[Group]) -> Vec<HookState> {
        self.attach_where(groups, |_| true)
    }

    /// As [`Probes::attach`], at those of each hook's places only that `takes` says: for
    /// comparing them.
    pub fn attach_where(
        &mut self,
        groups: &[Group],
        takes: impl Fn(&Place) -> bool + Sync,
    ) -> Vec<HookState> {
        let hooks: Vec<&Hook> = HOOKS
            .iter()
            .filter(|hook| groups.contains(&hook.group))
            .collect();
        let _raised = self.types.charges_memory().then(Memlock::raise);
        let kernel = Kernel {
            btf: &self.btf,
            functions: &self.types.functions,
        };
        let attached = attach(&hooks, self.ebpf.programs_mut(), &kernel, &takes);
        let (links, mut states) = (&mut self.links, Vec::with_capacity(attached.len()));
        for (state, held) in attached {
            links.extend(held.into_iter().map(|link| (state.group, link)));
            states.push(state);
        }
        states
    }

    /// Detaches every hook of `groups`: what they were on costs nothing again. The
    /// programs stay loaded, so that they can be attached again in no time.
    pub fn detach(&mut self, groups: &[Group]) {
        self.links.retain(|(group, _)| !groups.contains(group));
    }

    /// Watches a cgroup by its id (the inode number of its directory), and the
    /// children it gets from now on. What an earlier watch sent is sent again.
    pub fn watch(&mut self, cgroup: u64) -> Result<(), ProbeError> {
        self.free_slot(cgroup)?;
        self.note_children(cgroup)?;
        self.watched.retain(|&watched| watched != cgroup);
        self.watched.push(cgroup);
        self.bump_generation()
    }

    /// As [`Probes::watch`], but what is watched already does not send again what it has
    /// sent: for many that are watched at a time. What an earlier watch of this cgroup's
    /// slot sent is sent again all the same.
    ///
    /// # Errors
    /// As [`Probes::watch`].
    pub fn watch_beside(&mut self, cgroup: u64) -> Result<(), ProbeError> {
        if self.slots_used.contains(&track_slot(cgroup)) {
            return self.watch(cgroup);
        }
        let slot = self.free_slot(cgroup)?;
        self.note_children(cgroup)?;
        self.set_tracked(cgroup)?;
        self.slots_used.insert(slot);
        self.watched.push(cgroup);
        Ok(())
    }

    fn note_children(&mut self, cgroup: u64) -> Result<(), ProbeError> {
        let children = self.counters()?.get(Stage::Cgroup, Outcome::Out);
        // Watched again: those of before are still there.
        self.children.entry(cgroup).or_insert(children);
        Ok(())
    }

    /// The slot of a cgroup, if no other is in it.
    fn free_slot(&mut self, cgroup: u64) -> Result<u32, ProbeError> {
        let slot = track_slot(cgroup);
        let track = self.track()?;
        let current = track.get(&slot, 0).map_err(|e| map_error("TRACK", &e))?;
        match current.cgroup == 0 || current.cgroup == cgroup {
            true => Ok(slot),
            false => Err(ProbeError::SlotTaken(cgroup)),
        }
    }

    /// Puts a cgroup into its slot, with the generation of now.
    fn set_tracked(&mut self, cgroup: u64) -> Result<(), ProbeError> {
        let slot = track_slot(cgroup);
        let entry = TrackEntry {
            cgroup,
            key: u64::from(slot) << 40 | self.generation << 56,
            except: self.excepted.get(&cgroup).copied().map_or(0, u64::from),
        };
        self.track()?
            .set(slot, entry, 0)
            .map_err(|e| map_error("TRACK", &e))
    }

    /// Passes a process over in a cgroup, if it is watched: one of ours that is in it; or
    /// none any more. Its id is that in the initial pid namespace. (In a child of a watched
    /// cgroup none is passed over.)
    ///
    /// # Errors
    /// The table can't be written.
    pub fn except(&mut self, cgroup: u64, process: Option<u32>) -> Result<(), ProbeError> {
        if !self.watched.contains(&cgroup) {
            return Ok(());
        }
        match process {
            Some(process) => self.excepted.insert(cgroup, process),
            None => self.excepted.remove(&cgroup),
        };
        self.set_tracked(cgroup)
    }

    /// Stops watching a cgroup and whatever children it had.
    pub fn unwatch(&mut self, cgroup: u64) -> Result<(), ProbeError> {
        self.excepted.remove(&cgroup);
        self.watched.retain(|&watched| watched != cgroup);
        let watched = self.watched.clone();
        let children = self.counters()?.get(Stage::Cgroup, Outcome::Out);
        // A thousand slots, each a system call: only if a child of any came while this one
        // was watched.
        let slots = match self.children.remove(&cgroup) {
            Some(before) if before == children => {
                let own = track_slot(cgroup);
                own..own + 1
            }
            _ => 0..TRACK_SLOTS,
        };
        let mut track = self.track()?;
        for slot in slots {
            let entry = track.get(&slot, 0).map_err(|e| map_error("TRACK", &e))?;
            let is_own = entry.key >> 40 & 0xffff == u64::from(track_slot(cgroup));
            if is_own && entry.cgroup != 0 && !watched.contains(&entry.cgroup) {
                track
                    .set(slot, TrackEntry::default(), 0)
                    .map_err(|e| map_error("TRACK", &e))?;
            }
        }
        Ok(())
    }

    /// Has every touch of the watched cgroups sent once more when it next
    /// happens: what an earlier watch sent, of this inode or of another that was
    /// at its address, hides nothing from this one.
    fn bump_generation(&mut self) -> Result<(), ProbeError> {
        self.generation = (self.generation + 1) & 0xff;
        let watched = self.watched.clone();
        self.slots_used = watched.iter().map(|&cgroup| track_slot(cgroup)).collect();
        watched
            .into_iter()
            .try_for_each(|cgroup| self.set_tracked(cgroup))
    }

    fn track(&mut self) -> Result<Array<&mut MapData, TrackEntry>, ProbeError> {
        self.array("TRACK")
    }

    /// Asks to be told, once, when somebody comes into a cgroup in which nobody is then.
    ///
    /// # Errors
    /// As many as can be are waited for already.
    pub fn await_refill(&mut self, cgroup: u64) -> Result<(), ProbeError> {
        let mut refills = self.refills()?;
        let inserted = refills.insert(cgroup, 0, 0);
        inserted.map_err(|e| map_error("REFILLS", &e))
    }

    /// Takes that back, where it was asked for.
    ///
    /// # Errors
    /// The map can't be written.
    pub fn forget_refill(&mut self, cgroup: u64) -> Result<(), ProbeError> {
        match self.refills()?.remove(&cgroup) {
            Ok(()) | Err(MapError::KeyNotFound) => Ok(()),
            Err(error) => Err(map_error("REFILLS", &error)),
        }
    }

    fn refills(&mut self) -> Result<maps::HashMap<&mut MapData, u64, u8>, ProbeError> {
        let map = self.ebpf.map_mut("REFILLS");
        let map = map.ok_or_else(|| no_map("REFILLS"))?;
        maps::HashMap::try_from(map).map_err(|e| map_error("REFILLS", &e))
    }

    fn array<T: aya::Pod>(
        &mut self,
        name: &'static str,
    ) -> Result<Array<&mut MapData, T>, ProbeError> {
        let map = self.ebpf.map_mut(name).ok_or_else(|| no_map(name))?;
        Array::try_from(map).map_err(|e| map_error(name, &e))
    }

    /// Has threads of watched cgroups stop, if they are traced, when they have
    /// mapped a file: see [`headstart_abi::MAP_SIGNAL`].
    pub fn stop_at_maps(&mut self, stop: bool) -> Result<(), ProbeError> {
        let class = if stop { SYSCALL_MAP } else { 0 };
        self.tell_of_calls("SYSCALLS", &[(libc::SYS_mmap, class)])
    }

    /// Waits until no program is under way that began before: what it sent is in
    /// the ring then, and counted. Some 10 ms.
    pub fn settle(&self) {
        // A barrier for all processes waits for all that runs with preemption
        // off, as programs on tracepoints do. Where a sandbox refuses it, counts
        // may be off by those few that were under way.
        let waited = rustix::thread::membarrier(rustix::thread::MembarrierCommand::Global);
        if let Err(error) = waited {
            tracing::debug!(%error, "programs may be under way");
        }
    }

    /// What the probes counted so far.
    pub fn counters(&self) -> Result<Counters, ProbeError> {
        let map = self.ebpf.map("COUNTS").ok_or_else(|| no_map("COUNTS"))?;
        let counts: PerCpuArray<_, Counts> =
            PerCpuArray::try_from(map).map_err(|e| map_error("COUNTS", &e))?;
        let mut sums = Counters::default();
        let cpus = counts.get(&0, 0).map_err(|e| map_error("COUNTS", &e))?;
        cpus.iter().for_each(|cpu| sums.add(cpu));
        Ok(sums)
    }

    /// The reading end of the ring buffer; there is one.
    pub fn reader(&mut self) -> Result<Reader, ProbeError> {
        self.ring("EVENTS")
    }

    /// The reading end of the ring of signals: cgroups made, removed and filled again; there
    /// is one.
    pub fn signals(&mut self) -> Result<Reader, ProbeError> {
        self.ring("SIGNALS")
    }

    fn ring(&mut self, name: &'static str) -> Result<Reader, ProbeError> {
        let map = self.ebpf.take_map(name).ok_or_else(|| no_map(name))?;
        Reader::of(map).map_err(|e| map_error(name, &e))
    }
}

/// A loader that knows no types of the kernel. A new one always parses them all, which
/// takes 15 ms and more, and nothing here needs them: programs get their offsets from
/// `CONFIG`. So it is made where there is no such file: by a thread of which the root is
/// a directory without it. Where that is not allowed, it is parsed for nothing.
fn loader_without_btf<'a>() -> EbpfLoader<'a> {
    // SAFETY: this thread alone stops sharing its root and working directory; it ends
    // when the loader is made.
    let apart = unsafe { unshare_unsafe(UnshareFlags::FS) };
    if let Err(error) = apart.and_then(|()| chroot("/proc/self/fdinfo")) {
        tracing::debug!(%error, "the kernel's types are parsed for nothing");
    }
    EbpfLoader::new()
}

fn no_map(map: &'static str) -> ProbeError {
    ProbeError::Map {
        map,
        reason: "it is not in the object".into(),
    }
}

fn map_error(map: &'static str, error: &dyn std::error::Error) -> ProbeError {
    ProbeError::Map {
        map,
        reason: chain(error),
    }
}

/// An error and its causes in one line; a verifier log is left to debug output.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let text = with_causes(error);
    match text.split_once("Verifier output:") {
        Some((head, log)) => {
            tracing::debug!(verifier = log, "verifier log");
            format!("{} (the verifier's log is in -v output)", head.trim_end())
        }
        None => text,
    }
}
