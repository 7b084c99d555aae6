//! Containers about to start, as the runtimes' directories show it: the last thing that a
//! runtime does before it has the cgroup made is to write the container's `config.json`.
//!
//! One inotify descriptor on the directories of all runtimes; nothing is polled but for
//! directories that are not there yet. A container that is started again has its file
//! written again, so the bundles of those that exist are watched, too.

use std::collections::HashMap;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::io::Errno;

use super::runtime::{Roots, TASKS, is_id};

/// Directories that are watched; more are counted as lost. Each takes the kernel about a
/// kilobyte.
const MOST: usize = 8192;

/// Below the directory of a container of Podman or CRI-O.
const USERDATA: &str = "userdata";

const CONFIG: &[u8] = b"config.json";

/// A directory that is watched, for what is made in it.
#[derive(Clone, Debug)]
enum Watched {
    /// For namespaces of containerd.
    Namespaces,
    /// For containers, whose own directory is the bundle.
    Bundles,
    /// For containers, whose own directory will have the bundle in it.
    Containers,
    /// For a container's bundle.
    Container(String),
    /// For a container's `config.json`.
    Bundle(String),
}

/// Watches the directories of runtimes.
#[derive(Debug)]
pub struct Bundles {
    inotify: OwnedFd,
    watches: HashMap<i32, (PathBuf, Watched)>,
    /// Those that are not there.
    sought: Vec<(PathBuf, Watched)>,
    lost: u64,
    /// Events were lost: what was made meanwhile is to be looked for.
    missed: bool,
    /// The system lets no more be watched.
    full: bool,
}

impl Bundles {
    /// Watches what there is; [`Bundles::seek`] takes up what comes later.
    ///
    /// # Errors
    /// The system gives no inotify descriptor.
    pub fn new(roots: &Roots) -> io::Result<Self> {
        let tasks = roots.containerd.iter();
        let tasks = tasks.map(|state| (state.join(TASKS), Watched::Namespaces));
        let storages = roots.storage.iter().flat_map(|storage| {
            let both = [&storage.run, &storage.graph];
            both.map(|root| (root.join("overlay-containers"), Watched::Containers))
        });
        let mut bundles = Self {
            inotify: inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?,
            watches: HashMap::new(),
            sought: tasks.chain(storages).collect(),
            lost: 0,
            missed: false,
            full: false,
        };
        // What is there now is not about to start.
        bundles.look_for_roots(false, &mut |_| {});
        Ok(bundles)
    }

    /// Directories of runtimes that are watched, and those that are not there.
    pub fn roots(&self) -> (usize, Vec<&Path>) {
        let watched = self.watches.values().filter(|(_, what)| is_root(what));
        let sought = self.sought.iter().map(|(path, _)| path.as_path());
        (watched.count(), sought.collect())
    }

    /// What was not seen: there were too many directories, or events.
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// Whether the system let no more be watched (fs.inotify.max_user_watches) when that was
    /// tried last.
    pub fn is_full(&self) -> bool {
        self.full
    }

    /// Looks whether directories that were missing are there now, and tells of containers
    /// whose configuration is. Where events were lost, what they would have told of is
    /// watched from now on, and not told of: most of it started long ago.
    pub fn seek(&mut self, found: &mut dyn FnMut(String)) {
        self.full = false;
        self.look_for_roots(true, found);
        if std::mem::take(&mut self.missed) {
            let roots = self.watches.values().filter(|(_, what)| is_root(what));
            for (path, watched) in roots.cloned().collect::<Vec<_>>() {
                // One that is gone says so by an event of its own.
                self.watch(path, watched, false, &mut |_| {});
            }
        }
    }

    fn look_for_roots(&mut self, fresh: bool, found: &mut dyn FnMut(String)) {
        for (path, watched) in std::mem::take(&mut self.sought) {
            if !self.watch(path.clone(), watched.clone(), fresh, found) {
                self.sought.push((path, watched));
            }
        }
    }

    /// Reads what has happened, without waiting, and tells of containers whose
    /// configuration was written.
    ///
    /// # Errors
    /// The descriptor can't be read.
    pub fn read(&mut self, found: &mut dyn FnMut(String)) -> io::Result<()> {
        let mut buffer = [MaybeUninit::uninit(); 16 << 10];
        loop {
            let mut events = Vec::new();
            let mut reader = inotify::Reader::new(&self.inotify, &mut buffer);
            let ended = loop {
                match reader.next() {
                    Ok(event) => {
                        let name = event.file_name().map(|name| name.to_bytes().to_vec());
                        events.push((event.wd(), event.events(), name.unwrap_or_default()));
                    }
                    Err(Errno::WOULDBLOCK) => break true,
                    Err(Errno::INTR) => {}
                    Err(error) => return Err(error.into()),
                }
                if reader.is_buffer_empty() {
                    break false;
                }
            };
            for (watch, what, name) in events {
                self.happened(watch, what, &name, found);
            }
            if ended {
                return Ok(());
            }
        }
    }

    fn happened(
        &mut self,
        watch: i32,
        what: ReadFlags,
        name: &[u8],
        found: &mut dyn FnMut(String),
    ) {
        if what.contains(ReadFlags::QUEUE_OVERFLOW) {
            self.lost += 1;
            self.missed = true;
            return;
        }
        if what.contains(ReadFlags::IGNORED) {
            // The directory is gone.
            if let Some((path, watched)) = self.watches.remove(&watch)
                && is_root(&watched)
            {
                self.sought.push((path, watched));
            }
            return;
        }
        let Some((path, watched)) = self.watches.get(&watch) else {
            return;
        };
        if let Watched::Bundle(id) = watched {
            let is_whole = ReadFlags::CLOSE_WRITE | ReadFlags::MOVED_TO;
            if name == CONFIG && what.intersects(is_whole) {
                found(id.clone());
            }
        } else if what.contains(ReadFlags::ISDIR)
            && what.intersects(ReadFlags::CREATE | ReadFlags::MOVED_TO)
        {
            let (path, watched) = (path.clone(), watched.clone());
            self.enter(&path, &watched, name, true, found);
        }
    }

    /// Takes up a directory, and what is in it already; whether it is there.
    fn watch(
        &mut self,
        path: PathBuf,
        watched: Watched,
        fresh: bool,
        found: &mut dyn FnMut(String),
    ) -> bool {
        if self.watches.len() >= MOST {
            self.lost += 1;
            return true;
        }
        let of_files = match watched {
            Watched::Bundle(_) => WatchFlags::CLOSE_WRITE,
            _ => WatchFlags::CREATE,
        };
        let flags = of_files | WatchFlags::MOVED_TO | WatchFlags::ONLYDIR;
        let watch = match inotify::add_watch(&self.inotify, &path, flags) {
            Ok(watch) => watch,
            Err(error) => {
                // Gone again, or of a runtime that is not here; or the system's limit. Those
                // that are sought are tried again, and not counted each time.
                let is_full = error == Errno::NOSPC;
                self.full |= is_full;
                self.lost += u64::from(is_full && !is_root(&watched));
                return false;
            }
        };
        self.watches.insert(watch, (path.clone(), watched.clone()));
        // What was made before it was watched.
        if let Watched::Bundle(id) = &watched {
            if fresh && path.join("config.json").exists() {
                found(id.clone());
            }
            return true;
        }
        let entries = std::fs::read_dir(&path).into_iter().flatten();
        for entry in entries.take(MOST).flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                let name = entry.file_name();
                self.enter(&path, &watched, name.as_bytes(), fresh, found);
            }
        }
        true
    }

    /// Takes up a directory that was made, or was there, in one that is watched.
    fn enter(
        &mut self,
        path: &Path,
        watched: &Watched,
        name: &[u8],
        fresh: bool,
        found: &mut dyn FnMut(String),
    ) {
        let Ok(name) = std::str::from_utf8(name) else {
            return;
        };
        let id = || is_id(name).then(|| name.to_owned());
        let inside = match watched {
            Watched::Namespaces => Some(Watched::Bundles),
            Watched::Bundles => id().map(Watched::Bundle),
            Watched::Containers => id().map(Watched::Container),
            Watched::Container(id) if name == USERDATA => Some(Watched::Bundle(id.clone())),
            Watched::Container(_) | Watched::Bundle(_) => None,
        };
        if let Some(inside) = inside {
            self.watch(path.join(name), inside, fresh, found);
        }
    }
}

/// Whether it is a runtime's own directory, that all of its containers are in.
fn is_root(watched: &Watched) -> bool {
    matches!(watched, Watched::Namespaces | Watched::Containers)
}

impl AsFd for Bundles {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::super::runtime::Storage;
    use super::*;
    use std::fs;

    fn roots(dir: &Path) -> Roots {
        Roots {
            containerd: vec![dir.join("run/containerd")],
            storage: vec![Storage {
                graph: dir.join("storage"),
                run: dir.join("run/storage"),
            }],
            docker: Vec::new(),
            kubelet: Vec::new(),
        }
    }

    fn write(path: &Path) {
        fs::create_dir_all(path).expect("directory");
        fs::write(path.join("config.json"), "{}").expect("file");
    }

    fn told(bundles: &mut Bundles) -> Vec<String> {
        let mut ids = Vec::new();
        bundles.read(&mut |id| ids.push(id)).expect("read");
        // Of one that was made while it was looked at it is told twice.
        ids.dedup();
        ids
    }

    #[test]
    fn what_was_made_while_events_were_lost_is_watched_from_then_on() {
        let dir = tempfile::tempdir().expect("temp dir");
        let roots = roots(dir.path());
        let tasks = roots.containerd[0].join(TASKS);
        fs::create_dir_all(&tasks).expect("directory");
        let mut bundles = Bundles::new(&roots).expect("inotify");
        write(&tasks.join("k8s.io/one"));
        // As the kernel does where its queue is full.
        let mut buffer = [0u8; 4096];
        rustix::io::read(&bundles, &mut buffer[..]).expect("events");
        bundles.happened(-1, ReadFlags::QUEUE_OVERFLOW, b"", &mut |_| {});
        assert_eq!(bundles.lost(), 1);
        let mut early = Vec::new();
        bundles.seek(&mut |id| early.push(id));
        assert_eq!(early, [""; 0], "it may have started long ago");
        for id in ["one", "two"] {
            write(&tasks.join("k8s.io").join(id));
            assert_eq!(told(&mut bundles), [id]);
        }
        assert_eq!((bundles.lost(), bundles.roots().0), (1, 1));
    }

    #[test]
    fn a_configuration_that_is_written_tells_of_its_container_each_time() {
        let dir = tempfile::tempdir().expect("temp dir");
        let roots = roots(dir.path());
        let tasks = roots.containerd[0].join(TASKS);
        let storage = roots.storage[0].graph.join("overlay-containers");
        write(&storage.join("old/userdata"));
        fs::create_dir_all(&tasks).expect("directory");
        let mut bundles = Bundles::new(&roots).expect("inotify");
        assert_eq!(bundles.roots().0, 2);
        assert_eq!(told(&mut bundles), [""; 0]);
        write(&tasks.join("k8s.io/one"));
        assert_eq!(told(&mut bundles), ["one"]);
        write(&storage.join("two/userdata"));
        assert_eq!(told(&mut bundles), ["two"]);
        fs::write(storage.join("two/userdata/ctr.log"), "x").expect("file");
        fs::write(storage.join("containers.json"), "[]").expect("file");
        assert_eq!(told(&mut bundles), [""; 0]);
        for id in ["old", "two"] {
            write(&storage.join(id).join("userdata"));
            assert_eq!(told(&mut bundles), [id]);
        }
        // It is gone, and made again.
        fs::remove_dir_all(tasks.join("k8s.io/one")).expect("removed");
        assert_eq!(told(&mut bundles), [""; 0]);
        write(&tasks.join("k8s.io/one"));
        assert_eq!(told(&mut bundles), ["one"]);
        assert_eq!(bundles.lost(), 0);
    }

    #[test]
    fn directories_that_come_later_or_go_are_sought() {
        let dir = tempfile::tempdir().expect("temp dir");
        let roots = roots(dir.path());
        let mut bundles = Bundles::new(&roots).expect("inotify");
        assert_eq!(bundles.roots().0, 0);
        let tasks = roots.containerd[0].join(TASKS);
        write(&tasks.join("default/a"));
        let mut ids = Vec::new();
        bundles.seek(&mut |id| ids.push(id));
        assert_eq!(ids, ["a"]);
        assert_eq!(bundles.roots().0, 1);
        fs::remove_dir_all(&tasks).expect("removed");
        assert_eq!(told(&mut bundles), [""; 0]);
        assert_eq!(bundles.roots().0, 0);
        assert_eq!(bundles.watches.len(), 0);
        assert_eq!(bundles.roots().1.len(), 3);
    }

    #[test]
    fn what_is_no_id_is_passed_over() {
        let dir = tempfile::tempdir().expect("temp dir");
        let roots = roots(dir.path());
        let tasks = roots.containerd[0].join(TASKS);
        fs::create_dir_all(tasks.join("default")).expect("directory");
        let mut bundles = Bundles::new(&roots).expect("inotify");
        let odd = std::ffi::OsStr::from_bytes(b"\xff\n");
        for name in [
            odd,
            std::ffi::OsStr::new(".hidden"),
            std::ffi::OsStr::new("a b"),
        ] {
            write(&tasks.join("default").join(name));
        }
        assert_eq!(told(&mut bundles), [""; 0]);
    }
}
