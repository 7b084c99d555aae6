//! Threads that carry a plan out, and the one that watches them.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use rustix::io::Errno;

use super::arrivals::Arrivals;
use super::cursor::{Cursors, Part};
use super::files::{Device, FileTable, Source, descriptors};
use super::huge::HugeReads;
use super::lookup::Opener;
use super::progress::Progress;
use super::report::{Failure, FailureKind, MAX_FAILURES, WarmReport};
use super::roots::{VolumeRoot, VolumeRoots};
use super::submit::Depth;
use super::verify::{Check, MAX_RETRIES, Of};
use super::work::Worker;
use super::{Cancel, Lead, WarmOptions, sys};
use crate::model::{Plan, escape};

/// How long threads have to notice that they should stop.
const GRACE: Duration = Duration::from_millis(200);

/// How often the watching thread looks.
const WATCH: Duration = Duration::from_millis(20);

/// What the threads of an execution share.
pub(super) struct Shared {
    pub(super) plan: Arc<Plan>,
    pub(super) options: WarmOptions,
    pub(super) progress: Arc<Progress>,
    pub(super) files: FileTable,
    /// For each name, whether opening a file serves for its look-up; may be
    /// shorter than the names.
    served: Vec<bool>,
    pub(super) opener: Opener,
    pub(super) cursors: Cursors,
    pub(super) huge: HugeReads,
    /// Threads that share what may be in flight.
    pub(super) threads: usize,
    /// Filled for the second phase.
    pub(super) checks: Mutex<Arc<Vec<Check>>>,
    pub(super) next_check: AtomicUsize,
    pub(super) retries: AtomicUsize,
    /// Settled as failed, gone or evicted: not to be found missing once more.
    pub(super) settled: Mutex<Vec<(Of, u64, u64)>>,
    pub(super) unverified_bytes: AtomicU64,
    pub(super) arrivals: Arrivals,
    roots: Arc<VolumeRoots>,
    volumes: Vec<VolumeState>,
    failures: Mutex<(Vec<Failure>, u64)>,
    /// At most one for each volume.
    without_device: Mutex<Vec<Failure>>,
    cancel: Cancel,
    /// Set when [`execute`] returns: who is left behind stops.
    stop: AtomicBool,
    pub(super) began: Instant,
    pool: Mutex<Pool>,
    changed: Condvar,
}

#[derive(Default)]
struct VolumeState {
    root: OnceLock<Option<VolumeRoot>>,
    device: OnceLock<Option<Arc<Source>>>,
    /// ms since the beginning, of the last answer.
    answered_ms: AtomicU64,
    stuck: AtomicBool,
}

#[derive(Default)]
struct Pool {
    running: usize,
    slots: Vec<Arc<Slot>>,
}

/// What a thread is waiting for.
#[derive(Default)]
pub(super) struct Slot {
    /// Index of the volume, plus one; 0 for none.
    volume: AtomicU32,
    since_ms: AtomicU64,
    /// It was given up: it must not count itself out when it ends.
    abandoned: AtomicBool,
    ended: AtomicBool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Warm,
    Check,
}

impl Shared {
    /// Whether to begin nothing more.
    pub(super) fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed) || self.cancel.is_cancelled() || self.is_late()
    }

    fn is_late(&self) -> bool {
        self.options.deadline.is_some_and(|at| Instant::now() >= at)
    }

    /// Time since the beginning, µs.
    pub(super) fn now_us(&self) -> u32 {
        u32::try_from(self.began.elapsed().as_micros()).unwrap_or(u32::MAX)
    }

    fn now_ms(&self) -> u64 {
        self.began.elapsed().as_millis() as u64
    }

    /// Whether a name needs no look-up of its own.
    pub(super) fn is_served(&self, name: u32) -> bool {
        self.served.get(name as usize).is_some_and(|&served| served)
    }

    /// Runs something that may block on a volume.
    pub(super) fn on_volume<T>(&self, slot: &Slot, volume: u32, call: impl FnOnce() -> T) -> T {
        slot.since_ms.store(self.now_ms(), Ordering::Relaxed);
        slot.volume
            .store(volume.saturating_add(1), Ordering::Release);
        let result = call();
        slot.volume.store(0, Ordering::Release);
        if let Some(state) = self.volumes.get(volume as usize) {
            state.answered_ms.store(self.now_ms(), Ordering::Relaxed);
        }
        result
    }

    /// Whether the volume was given up.
    pub(super) fn is_stuck(&self, volume: u32) -> bool {
        let state = self.volumes.get(volume as usize);
        state.is_some_and(|v| v.stuck.load(Ordering::Relaxed))
    }

    /// The volume's root; may block. A failure is reported once.
    pub(super) fn root(&self, volume: u32) -> Option<&VolumeRoot> {
        let state = self.volumes.get(volume as usize)?;
        let root = state.root.get_or_init(|| {
            let volume = self.plan.volumes.get(volume as usize)?;
            match self.roots.resolve(volume) {
                Ok(root) => {
                    if let Some(pace) = self.options.pace_to_keep() {
                        pace.reads_from(root.device);
                    }
                    Some(root)
                }
                Err(error) => {
                    self.fail(Failure {
                        volume: volume.id.0.clone(),
                        path: String::new(),
                        kind: FailureKind::Volume,
                        error: error.to_string(),
                        start_page: 0,
                        bytes: 0,
                    });
                    None
                }
            }
        });
        root.as_ref()
    }

    /// The volume's block device; may block. That there is none to read from is
    /// told once, and no failure.
    pub(super) fn device(&self, volume: u32) -> Device {
        let (Some(root), Some(state)) = (self.root(volume), self.volumes.get(volume as usize))
        else {
            return Device::NoVolume;
        };
        let device = state.device.get_or_init(|| {
            let opened = root.open_device();
            let (fd, bytes) = opened
                .inspect_err(|error| {
                    lock(&self.without_device).push(Failure {
                        volume: self.volume_id(volume),
                        path: String::new(),
                        kind: FailureKind::NoDevice,
                        error: error.to_string(),
                        start_page: 0,
                        bytes: 0,
                    });
                })
                .ok()?;
            Some(Arc::new(Source::device(fd, bytes, volume, root.window)))
        });
        device.clone().map_or(Device::Unreadable, Device::Open)
    }

    fn volume_id(&self, volume: u32) -> String {
        let volume = self.plan.volumes.get(volume as usize);
        volume.map(|v| v.id.0.clone()).unwrap_or_default()
    }

    /// Reports a failure of some of a source's pages, or of a name.
    pub(super) fn fail_at(
        &self,
        volume: u32,
        path: &[u8],
        kind: FailureKind,
        errno: Errno,
        start_page: u64,
        bytes: u64,
    ) {
        let error = match kind {
            FailureKind::NotRegular => "not a regular file".to_owned(),
            _ => std::io::Error::from(errno).to_string(),
        };
        self.fail(Failure {
            volume: self.volume_id(volume),
            path: escape(path),
            kind,
            error,
            start_page,
            bytes,
        });
    }

    /// Pages that lie together are one failure, whatever steps they were read in.
    fn fail(&self, mut failure: Failure) {
        let mut failures = lock(&self.failures);
        while let Some(at) = failures.0.iter().position(|other| other.joins(&failure)) {
            let other = failures.0.remove(at);
            failure.start_page = failure.start_page.min(other.start_page);
            failure.bytes += other.bytes;
        }
        if failures.0.len() < MAX_FAILURES {
            failures.0.push(failure);
        } else {
            failures.1 += 1;
        }
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is guarded is consistent between any two statements.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// See [`super::execute`].
pub(super) fn execute(
    plan: &Arc<Plan>,
    roots: &Arc<VolumeRoots>,
    options: &WarmOptions,
    progress: &Arc<Progress>,
    cancel: &Cancel,
) -> WarmReport {
    let mut depth = Depth::of(&options.cost, options.lead);
    for limits in [&mut depth.before_names, &mut depth.after_names] {
        limits.ops = limits.ops.min(descriptors() as usize);
    }
    let _paced = options.pace_to_keep().map(|pace| pace.join());
    let threads = depth.before_names.threads(options);
    let opener = Opener::detect();
    let files = FileTable::new(plan.files.len(), opener);
    let served = super::planned::count(plan, options, progress, &files);
    let shared = Arc::new(Shared {
        plan: plan.clone(),
        options: options.clone(),
        progress: progress.clone(),
        files,
        served,
        opener,
        cursors: Cursors::default(),
        huge: HugeReads::of(options, plan),
        threads,
        checks: Mutex::default(),
        next_check: AtomicUsize::new(0),
        retries: AtomicUsize::new(0),
        settled: Mutex::default(),
        unverified_bytes: AtomicU64::new(0),
        arrivals: Arrivals::default(),
        roots: roots.clone(),
        volumes: std::iter::repeat_with(VolumeState::default)
            .take(plan.volumes.len())
            .collect(),
        failures: Mutex::default(),
        without_device: Mutex::default(),
        cancel: cancel.clone(),
        stop: AtomicBool::new(false),
        began: Instant::now(),
        pool: Mutex::default(),
        changed: Condvar::new(),
    });
    let share = depth.share(threads);
    let hands = threads * usize::from(!plan.actions.is_empty());
    run_phase(&shared, Phase::Warm, hands, share);
    let warm = shared.began.elapsed();
    let mut verified = false;
    if options.verify && !shared.stopped() {
        // Where nothing was read, the look before was the last one too.
        if !(progress.data.all_there() && progress.blocks.all_there()) {
            let threads = threads.min(std::thread::available_parallelism().map_or(2, usize::from));
            let look = || {
                *lock(&shared.checks) = Arc::new(super::verify::checks(&shared));
                shared.next_check.store(0, Ordering::Relaxed);
                run_phase(&shared, Phase::Check, threads, share);
            };
            look();
            // Where memory is short, what was read again has pushed out what was seen.
            if shared.retries.swap(MAX_RETRIES, Ordering::Relaxed) > 0 && !shared.stopped() {
                shared.unverified_bytes.store(0, Ordering::Relaxed);
                look();
            }
        }
        verified = !shared.stopped();
    }
    let late = shared.is_late();
    shared.stop.store(true, Ordering::Relaxed);
    report(&shared, warm, verified, late)
}

/// Starts threads and waits until they are done or not to be waited for.
fn run_phase(shared: &Arc<Shared>, phase: Phase, threads: usize, share: Depth) {
    let first = lock(&shared.pool).slots.len();
    let most = first + threads * (shared.volumes.len() + 1);
    let spawn = |pool: &mut Pool| {
        // Half of them begin with the names, half with the data.
        let part = if pool.slots.len().is_multiple_of(2) {
            Part::Names
        } else {
            Part::Data
        };
        let slot = Arc::new(Slot::default());
        let (theirs, mine) = (shared.clone(), slot.clone());
        let spawned = std::thread::Builder::new()
            .name("headstart-warm".to_owned())
            .spawn(move || thread(&theirs, &mine, phase, part, share));
        if spawned.is_ok() {
            pool.running += 1;
            pool.slots.push(slot);
        }
        spawned.err()
    };
    let mut pool = lock(&shared.pool);
    for _ in 0..threads {
        if let Some(error) = spawn(&mut pool) {
            if pool.running == 0 {
                drop(pool);
                shared.fail(Failure {
                    volume: String::new(),
                    path: String::new(),
                    kind: FailureKind::Other,
                    error: format!("can't start a thread: {error}"),
                    start_page: 0,
                    bytes: 0,
                });
                return;
            }
            break;
        }
    }
    let mut stopping: Option<Instant> = None;
    while pool.running > 0 {
        pool = shared
            .changed
            .wait_timeout(pool, WATCH)
            .unwrap_or_else(PoisonError::into_inner)
            .0;
        if shared.stopped() {
            let since = *stopping.get_or_insert_with(Instant::now);
            if since.elapsed() > GRACE {
                abandon_rest(&mut pool, first);
                return;
            }
            continue;
        }
        let lost = give_up_stuck(shared, &mut pool, first);
        for _ in 0..lost {
            if pool.slots.len() < most {
                spawn(&mut pool);
            }
        }
    }
}

fn abandon_rest(pool: &mut Pool, first: usize) {
    for slot in &pool.slots[first..] {
        if !slot.ended.load(Ordering::Relaxed) {
            slot.abandoned.store(true, Ordering::Relaxed);
        }
    }
    pool.running = 0;
}

/// Gives threads up that wait for a volume that answers nobody. How many.
fn give_up_stuck(shared: &Shared, pool: &mut Pool, first: usize) -> usize {
    let now = shared.now_ms();
    let mut lost = 0;
    for slot in &pool.slots[first..] {
        let waits_for = slot.volume.load(Ordering::Acquire).checked_sub(1);
        let Some(volume) = waits_for.and_then(|v| shared.volumes.get(v as usize)) else {
            continue;
        };
        let since = slot.since_ms.load(Ordering::Relaxed);
        let answered = volume.answered_ms.load(Ordering::Relaxed);
        let silent = now.saturating_sub(since.max(answered));
        if u128::from(silent) < shared.options.stall.as_millis()
            || slot.abandoned.swap(true, Ordering::Relaxed)
        {
            continue;
        }
        volume.stuck.store(true, Ordering::Relaxed);
        pool.running = pool.running.saturating_sub(1);
        lost += 1;
    }
    lost
}

fn thread(shared: &Arc<Shared>, slot: &Arc<Slot>, phase: Phase, part: Part, share: Depth) {
    struct CountOut<'a>(&'a Shared, &'a Slot);
    impl Drop for CountOut<'_> {
        fn drop(&mut self) {
            let mut pool = lock(&self.0.pool);
            self.1.ended.store(true, Ordering::Relaxed);
            if !self.1.abandoned.load(Ordering::Relaxed) {
                pool.running = pool.running.saturating_sub(1);
            }
            self.0.changed.notify_all();
        }
    }
    let _count_out = CountOut(shared, slot);
    // Neither is needed for the result, so neither failure is one.
    let _ = sys::set_io_class(shared.options.io_class);
    let is_paced = shared.options.pace_to_keep().is_some();
    if is_paced {
        let _ = sys::be_batch();
    }
    if shared.options.lead == Lead::Beside || is_paced {
        sys::give_way();
    }
    let mut worker = Worker::new(shared, slot, part, share);
    match phase {
        Phase::Warm => worker.warm(),
        Phase::Check => worker.check(),
    }
}

impl Slot {
    /// Whether this thread was replaced while it was stuck.
    pub(super) fn is_abandoned(&self) -> bool {
        self.abandoned.load(Ordering::Relaxed)
    }
}

fn report(shared: &Shared, warm: Duration, verified: bool, late: bool) -> WarmReport {
    let progress = &shared.progress;
    let mut stuck_volumes = Vec::new();
    let mut stuck_threads = 0;
    for slot in &lock(&shared.pool).slots {
        if !slot.is_abandoned() || slot.ended.load(Ordering::Relaxed) {
            continue;
        }
        stuck_threads += 1;
        if let Some(volume) = slot.volume.load(Ordering::Acquire).checked_sub(1) {
            let id = shared.volume_id(volume);
            if !stuck_volumes.contains(&id) {
                stuck_volumes.push(id);
            }
        }
    }
    let (failures, failures_unnamed) = std::mem::take(&mut *lock(&shared.failures));
    let total = shared.began.elapsed();
    let names_planned = progress.names_planned();
    WarmReport {
        data: progress.data.counts(),
        blocks: progress.blocks.counts(),
        over_budget_bytes: shared.plan.totals.over_budget_bytes,
        names_planned,
        names_warmed: progress.names_warmed.get(),
        names_gone: progress.names_gone.get(),
        names_failed: progress.names_failed.get(),
        names_left: names_planned.saturating_sub(progress.names_done()),
        files_planned: progress.files_planned(),
        files_changed: progress.files_changed.get(),
        files_missing: progress.files_missing.get(),
        files_failed: progress.files_failed.get(),
        verified,
        unverified_bytes: shared.unverified_bytes.load(Ordering::Relaxed),
        cancelled: shared.cancel.is_cancelled(),
        deadline_reached: late && !shared.cancel.is_cancelled(),
        stuck_threads,
        stuck_volumes,
        warm_seconds: warm.as_secs_f64(),
        verify_seconds: total.saturating_sub(warm).as_secs_f64(),
        seconds: total.as_secs_f64(),
        in_turns: progress.in_turns.get(),
        without_device: std::mem::take(&mut *lock(&shared.without_device)),
        failures,
        failures_unnamed,
        began: Some(shared.began),
        arrivals: {
            let settled = std::mem::take(&mut *lock(&shared.settled));
            shared.arrivals.take(settled)
        },
    }
}
