//! What runtimes tell before a container has a cgroup: containerd's events, and the
//! bundles that all of them write. A thread listens to each; what they hear waits in a
//! bounded queue for the loop.
//!
//! Nobody depends on it: what is missing, slow or lying costs the signal and nothing else.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::Errno;
use tokio::runtime::Runtime;

use super::lock;
use super::options::Heeded;
use super::view::Feature;
use crate::model::escape;
use crate::workload::{Bundles, Containerd, Heard, Roots, follow};

/// What was heard and waits for the loop; more is counted as lost.
const QUEUE: usize = 1024;

/// Where the queue is full the speaker is not listened to for so long.
const FULL: Duration = Duration::from_millis(10);

/// From one attempt to hear a runtime to the next.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// How often it is looked whether directories of runtimes have come.
const SEEK: Duration = Duration::from_secs(5);

/// What the loop is told.
#[derive(Debug)]
pub(super) enum Told {
    /// A container will start, or may.
    Made {
        /// The container.
        id: String,
        /// Of containerd, where its events told.
        namespace: Option<String>,
        /// The signal's name.
        signal: &'static str,
        /// When it was heard.
        at: Instant,
    },
    /// It will not.
    Removed(String),
}

/// Whether a runtime is heard; else why not, `None` where there is no socket.
type IsHeard = Result<(), Option<String>>;

/// The listening threads, and what they have heard.
pub(super) struct Signals {
    /// Ends with this.
    runtime: Option<Runtime>,
    /// Ends the other thread.
    stop: Arc<OwnedFd>,
    heard: Receiver<Told>,
    shared: Arc<Shared>,
    heeded: Heeded,
}

struct Shared {
    told: SyncSender<Told>,
    /// The loop is woken by it.
    wake: Arc<OwnedFd>,
    lost: AtomicU64,
    /// For each containerd whether its events are heard, and why not.
    runtimes: Mutex<BTreeMap<PathBuf, IsHeard>>,
    /// How many directories of runtimes are watched, and why no more.
    bundles: Mutex<(usize, String)>,
}

impl Signals {
    pub(super) fn listen(
        heeded: Heeded,
        roots: &Roots,
        wake: Arc<OwnedFd>,
    ) -> std::io::Result<Self> {
        let (told, heard) = sync_channel(QUEUE);
        let shared = Arc::new(Shared {
            told,
            wake,
            lost: AtomicU64::new(0),
            runtimes: Mutex::default(),
            bundles: Mutex::default(),
        });
        let stop = Arc::new(eventfd(0, EventfdFlags::CLOEXEC)?);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("signals")
            .enable_all()
            .build()?;
        if heeded.runtime {
            for client in Containerd::of(roots) {
                runtime.spawn(events(client.sockets().to_vec(), shared.clone()));
            }
        }
        if heeded.bundle {
            let (roots, shared, stop) = (roots.clone(), shared.clone(), stop.clone());
            std::thread::Builder::new()
                .name("bundles".into())
                .spawn(move || {
                    if let Err(error) = bundles(&roots, &shared, &stop) {
                        tracing::warn!(%error, "bundles of runtimes are not watched any more");
                        *lock(&shared.bundles) = (0, error.to_string());
                    }
                })?;
        }
        Ok(Self {
            runtime: Some(runtime),
            stop,
            heard,
            shared,
            heeded,
        })
    }

    /// What was heard next; `None`: nothing more for now.
    pub(super) fn next(&self) -> Option<Told> {
        self.heard.try_recv().ok()
    }

    /// What was not heard since the beginning: there was too much of it.
    pub(super) fn lost(&self) -> u64 {
        self.shared.lost.load(Ordering::Relaxed)
    }

    /// Whether each of the signals can be heard.
    pub(super) fn features(&self) -> [Feature; 2] {
        let feature = |name, wanted: bool, works: Result<(), String>| {
            let off = || Err(format!("{name} = false in the configuration"));
            let works = if wanted { works } else { off() };
            Feature {
                name,
                live: works.is_ok(),
                reason: works.err().unwrap_or_default(),
            }
        };
        let runtimes = lock(&self.shared.runtimes);
        let is_heard = runtimes.values().any(Result::is_ok);
        let heard = is_heard.then_some(()).ok_or_else(|| unheard(&runtimes));
        let (watched, why) = &*lock(&self.shared.bundles);
        let is_watched = *watched > 0;
        let watched = is_watched.then_some(()).ok_or_else(|| why.clone());
        [
            feature("signal_runtime", self.heeded.runtime, heard),
            feature("signal_bundle", self.heeded.bundle, watched),
        ]
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
        // It is not waited for: a look into a directory may take for ever.
        let _ = rustix::io::write(&*self.stop, &1u64.to_ne_bytes());
    }
}

impl Shared {
    /// Whether there was room.
    fn tell(&self, told: Told) -> bool {
        let is_told = self.told.try_send(told).is_ok();
        if !is_told {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
        // Full of wake-ups is woken.
        let _ = rustix::io::write(&*self.wake, &1u64.to_ne_bytes());
        is_told
    }
}

/// Listens to a containerd for as long as the agent runs.
async fn events(sockets: Vec<PathBuf>, shared: Arc<Shared>) {
    let socket = sockets.first().cloned().unwrap_or_default();
    let mut pause = FIRST_PAUSE;
    loop {
        let began = Instant::now();
        let live = || {
            lock(&shared.runtimes).insert(socket.clone(), Ok(()));
        };
        let each = |heard| {
            shared.tell(match heard {
                Heard::Made { namespace, id } => Told::Made {
                    id,
                    namespace: Some(namespace),
                    signal: "runtime",
                    at: Instant::now(),
                },
                Heard::Removed { id } => Told::Removed(id),
            })
        };
        let error = follow(sockets.clone(), FULL, live, each).await;
        tracing::debug!(%error, "events of a runtime are not heard");
        let is_there = sockets.iter().any(|socket| socket.exists());
        let why = is_there.then(|| error.to_string());
        lock(&shared.runtimes).insert(socket.clone(), Err(why));
        if began.elapsed() > LONGEST_PAUSE {
            pause = FIRST_PAUSE;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Why none of the runtimes is heard: those that are not there in one, for there are many
/// places where one might be.
fn unheard(runtimes: &BTreeMap<PathBuf, IsHeard>) -> String {
    let (mut reasons, mut missing) = (Vec::new(), Vec::new());
    for (socket, state) in runtimes {
        let socket = escape(socket.as_os_str().as_encoded_bytes());
        match state {
            Ok(()) => {}
            Err(Some(why)) => reasons.push(format!("{socket}: {why}")),
            Err(None) => missing.push(socket),
        }
    }
    if reasons.is_empty() && !missing.is_empty() {
        reasons.push(format!("not there: {}", missing.join(", ")));
    }
    reasons.join("; ")
}

/// Watches bundles until `stop` can be read.
fn bundles(roots: &Roots, shared: &Shared, stop: &OwnedFd) -> std::io::Result<()> {
    let mut bundles = Bundles::new(roots)?;
    let mut found = |id| {
        shared.tell(Told::Made {
            id,
            namespace: None,
            signal: "bundle",
            at: Instant::now(),
        });
    };
    let seek = Timespec::try_from(SEEK).map_err(std::io::Error::other)?;
    let mut sought = Instant::now();
    let mut lost = 0;
    loop {
        let (watched, missing) = bundles.roots();
        let missing = missing.iter().map(|path| path.as_os_str());
        let missing: Vec<String> = missing
            .map(|path| escape(path.as_encoded_bytes()))
            .collect();
        let why = match bundles.is_full() {
            true => "the system lets no more be watched: raise fs.inotify.max_user_watches",
            false => "not there",
        };
        *lock(&shared.bundles) = (watched, format!("{why}: {}", missing.join(", ")));
        let now_lost = bundles.lost();
        shared.lost.fetch_add(now_lost - lost, Ordering::Relaxed);
        lost = now_lost;
        let mut ready = [
            PollFd::new(stop, PollFlags::IN),
            PollFd::new(&bundles, PollFlags::IN),
        ];
        match poll(&mut ready, Some(&seek)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        if !ready[0].revents().is_empty() {
            return Ok(());
        }
        bundles.read(&mut found)?;
        if sought.elapsed() >= SEEK {
            sought = Instant::now();
            bundles.seek(&mut found);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::runtime::Storage;
    use std::io::Write;
    use std::os::unix::net::UnixListener;
    use std::path::Path;

    fn roots(dir: &Path) -> Roots {
        Roots {
            containerd: vec![dir.join("containerd")],
            storage: vec![Storage {
                graph: dir.join("graph"),
                run: dir.join("run"),
            }],
            docker: Vec::new(),
            kubelet: Vec::new(),
        }
    }

    fn listen(heeded: Heeded, roots: &Roots) -> Signals {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).expect("eventfd");
        Signals::listen(heeded, roots, Arc::new(wake)).expect("threads")
    }

    fn until<T>(mut found: impl FnMut() -> Option<T>) -> T {
        let began = Instant::now();
        loop {
            if let Some(found) = found() {
                return found;
            }
            assert!(began.elapsed() < Duration::from_secs(30), "never");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Why the events of a runtime are not heard.
    fn refused(signals: &Signals) -> String {
        until(|| {
            let [runtime, _] = signals.features();
            assert!(!runtime.live);
            (!runtime.reason.is_empty()).then_some(runtime.reason)
        })
    }

    #[test]
    fn a_runtime_that_is_missing_mute_or_odd_costs_its_signal_alone() {
        let dir = tempfile::tempdir().expect("temp dir");
        let roots = roots(dir.path());
        let socket = roots.containerd[0].join("containerd.sock");
        std::fs::create_dir(&roots.containerd[0]).expect("directory");
        let containers = roots.storage[0].graph.join("overlay-containers");
        std::fs::create_dir_all(&containers).expect("directory");
        let speak = |with: &'static [u8]| {
            let _ = std::fs::remove_file(&socket);
            let listener = UnixListener::bind(&socket).expect("socket");
            std::thread::spawn(move || {
                // Connections stay open.
                let mut streams = Vec::new();
                while let Ok((mut stream, _)) = listener.accept() {
                    let _ = stream.write_all(with);
                    streams.push(stream);
                }
            });
        };
        for with in [
            None,
            Some(&b""[..]),
            Some(b"HTTP/1.1 200 OK\r\n\r\n"),
            Some(&[0; 4096]),
        ] {
            if let Some(with) = with {
                speak(with);
            }
            let signals = listen(Heeded::default(), &roots);
            let reason = refused(&signals);
            assert!(reason.contains("containerd.sock"), "{with:?}: {reason}");
            assert_eq!(
                reason.starts_with("not there: "),
                with.is_none(),
                "{reason}"
            );
            // The other one is heard.
            let bundle = containers.join("ab12/userdata");
            until(|| signals.features()[1].live.then_some(()));
            std::fs::create_dir_all(&bundle).expect("directory");
            std::fs::write(bundle.join("config.json"), "{}").expect("file");
            let told = until(|| signals.next());
            assert!(
                matches!(&told, Told::Made { id, signal: "bundle", .. } if id == "ab12"),
                "{told:?}"
            );
            assert_eq!(signals.lost(), 0);
            std::fs::remove_dir_all(containers.join("ab12")).expect("removed");
        }
    }

    #[test]
    fn what_is_not_wanted_is_not_heard_and_says_so() {
        let dir = tempfile::tempdir().expect("temp dir");
        let heeded = Heeded {
            runtime: false,
            bundle: false,
        };
        let signals = listen(heeded, &roots(dir.path()));
        for feature in signals.features() {
            assert!(!feature.live);
            assert!(
                feature.reason.contains("configuration"),
                "{}",
                feature.reason
            );
        }
    }

    #[test]
    fn a_flood_is_counted_and_kept_out() {
        let dir = tempfile::tempdir().expect("temp dir");
        let signals = listen(Heeded::default(), &roots(dir.path()));
        for n in 0..QUEUE + 3 {
            let told = signals.shared.tell(Told::Removed(n.to_string()));
            assert_eq!(told, n < QUEUE, "{n}");
        }
        assert_eq!(signals.lost(), 3);
    }
}
