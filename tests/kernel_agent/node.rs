//! A node: a state directory, an agent over it, and cgroups in which things start.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use headstart::attribute::mountinfo;
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::process::Signal;
use serde_json::Value;

use crate::arrival::Arrival;

pub(crate) const HEADSTART: &str = env!("CARGO_BIN_EXE_headstart");

/// Longest that anything here may take; a failure, not a measurement.
const DEADLINE: Duration = Duration::from_secs(60);

/// Waits until `found` gives something.
pub(crate) fn until<T>(what: &str, found: impl FnMut() -> Option<T>) -> T {
    until_or(|| format!("waited in vain until {what}"), found)
}

/// As [`until`], with what is to be said when it is in vain.
pub(crate) fn until_or<T>(why: impl Fn() -> String, mut found: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(value) = found() {
            return value;
        }
        assert!(began.elapsed() < DEADLINE, "{}", why());
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Where agents run and things start.
pub(crate) struct Node {
    dir: tempfile::TempDir,
    agent: Option<Agent>,
    /// A process in whose mount namespace everything runs: its directory in /proc.
    inside: Option<String>,
    socket: PathBuf,
    state: PathBuf,
}

struct Agent {
    child: Child,
}

impl Node {
    /// `None`, and why, where nothing can be recorded.
    pub(crate) fn new() -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            eprintln!("SKIPPED: not root");
            return None;
        }
        if let Err(error) = headstart::probe::Probes::load(4096) {
            eprintln!("SKIPPED: {error}");
            return None;
        }
        Some(Self::without_probes())
    }

    pub(crate) fn without_probes() -> Self {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
        let [socket, state] = ["agent.sock", "state"].map(|name| dir.path().join(name));
        let node = Self {
            dir,
            agent: None,
            inside: None,
            socket,
            state,
        };
        node.configure("");
        node
    }

    /// Has everything run in the mount namespace of a process.
    pub(crate) fn inside(mut self, process: String) -> Self {
        self.inside = Some(process);
        self
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Of an agent that somebody else started.
    pub(crate) fn run_elsewhere(mut self, socket: &str, state: &str) -> Self {
        self.socket = socket.into();
        self.state = state.into();
        self
    }

    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    /// Writes the configuration, with `more` keys of `[agent]`. All starts are learned,
    /// though they follow one another without a pause.
    pub(crate) fn configure(&self, more: &str) {
        self.configure_settling(1, more);
    }

    /// The same, where a start is over after so many seconds without anything new. What is
    /// planned does not depend on this machine's disk.
    pub(crate) fn configure_settling(&self, seconds: u32, more: &str) {
        let text = format!(
            "socket = {:?}\nmetrics_listen = \"\"\n[agent]\nsettle_after = \"{seconds}s\"\nlearn_at_most = \"20s\"\nhook_share = 1.0\ncpu_pressure = 100.0\nmeasure_disks = false\n{more}\n",
            self.socket()
        );
        fs::write(self.path("new.toml"), text).expect("written");
        fs::rename(self.path("new.toml"), self.path("config.toml")).expect("renamed");
    }

    /// Has a running agent take such a configuration.
    pub(crate) fn reconfigure(&self, more: &str) {
        let read = || self.json(&["status"])?["config_read_ms"].as_u64();
        let before = read();
        self.configure(more);
        until("the configuration is read", || {
            (read() > before).then_some(())
        });
    }

    /// Tells the agent that a workload will start.
    pub(crate) fn notify(&self, key: &str) {
        let output = self.run(&["notify", key]);
        assert!(output.status.success(), "{output:?}");
    }

    /// `headstart ARGS` with this node's configuration and state.
    pub(crate) fn headstart(&self, args: &[&str]) -> Command {
        let mut command = match &self.inside {
            None => Command::new(HEADSTART),
            Some(process) => {
                // It becomes the program.
                let mut command = Command::new("nsenter");
                let namespace = format!("--mount={process}/ns/mnt");
                command.args([&namespace, "--", HEADSTART]);
                command
            }
        };
        command
            .arg("--config")
            .arg(self.path("config.toml"))
            .arg("--state-dir")
            .arg(&self.state)
            // Also where the configuration is broken.
            .arg("--socket")
            .arg(self.socket())
            .args(args)
            .env_remove("HEADSTART_LOG")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    pub(crate) fn run(&self, args: &[&str]) -> Output {
        self.headstart(args).output().expect("it starts")
    }

    /// What `headstart --json ARGS` says.
    pub(crate) fn json(&self, args: &[&str]) -> Option<Value> {
        let output = self.run(&[&["--json"], args].concat());
        serde_json::from_slice(&output.stdout).ok()
    }

    /// Starts an agent, and waits until it is ready.
    pub(crate) fn start(&mut self) {
        self.follow(Self::spawn(self.headstart(&["agent"])));
    }

    /// As [`Node::start`], in mounts of its own after a shell's `setup`, in which `$0` is
    /// the state directory.
    pub(crate) fn start_apart(&mut self, setup: &str) {
        let agent = self.headstart(&["agent"]);
        let mut apart = Command::new("unshare");
        apart
            .args(["--mount", "--propagation", "private", "sh", "-ec"])
            .arg(format!("{setup}; exec \"$@\""))
            .arg(self.path("state"))
            .arg(agent.get_program())
            .args(agent.get_args())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        self.follow(Self::spawn(apart));
    }

    /// As [`Node::start`], in the cgroup whose `cgroup.procs` this is.
    pub(crate) fn start_in(&mut self, procs: &Path) {
        self.start_by("echo $$ > \"$0\"; exec \"$@\"", procs);
    }

    /// As [`Node::start_in`], and in a cgroup namespace, as a container is, to which the
    /// node's hierarchy is handed in.
    pub(crate) fn start_in_namespace(&mut self, procs: &Path) {
        self.start_by("echo $$ > \"$0\"; exec unshare --cgroup \"$@\"", procs);
    }

    fn start_by(&mut self, script: &str, argument: &Path) {
        let agent = self.headstart(&["agent"]);
        let mut within = Command::new("sh");
        within
            .args(["-ec", script])
            .arg(argument)
            .arg(agent.get_program())
            .args(agent.get_args())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        self.follow(Self::spawn(within));
    }

    /// The agent's process id.
    pub(crate) fn pid(&self) -> u32 {
        self.agent.as_ref().expect("started").child.id()
    }

    /// Starts the agent: it ends when the test's thread does, however that ends.
    fn spawn(mut command: Command) -> Child {
        // SAFETY: between fork and exec it makes one system call, and nothing else.
        unsafe {
            command.pre_exec(|| {
                rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
                Ok(())
            });
        }
        command.spawn().expect("it starts")
    }

    fn follow(&mut self, mut child: Child) {
        let stderr = child.stderr.take().expect("piped");
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                eprintln!("agent: {line}");
            }
        });
        self.agent = Some(Agent { child });
        until("the agent is ready", || {
            self.assert_alive();
            self.json(&["status"])
                .filter(|status| status["ready"] == true)
        });
    }

    fn assert_alive(&self) {
        // One that somebody else started is theirs to look after.
        let Some(agent) = &self.agent else { return };
        let path = format!("/proc/{}/stat", agent.child.id());
        let stat = fs::read_to_string(path).unwrap_or_default();
        assert!(!stat.contains(") Z "), "the agent ended");
    }

    /// Sends the agent a signal.
    pub(crate) fn signal(&self, signal: i32) {
        send(self.agent.as_ref().expect("started").child.id(), signal);
    }

    /// Ends the agent by a signal; how it ended, and the rest of what it printed.
    pub(crate) fn stop(&mut self, signal: i32) -> (std::process::ExitStatus, String) {
        let mut agent = self.agent.take().expect("started");
        send(agent.child.id(), signal);
        let status = until("the agent has ended", || {
            agent.child.try_wait().expect("waited")
        });
        let mut stdout = String::new();
        let _ = agent
            .child
            .stdout
            .take()
            .map(|mut out| out.read_to_string(&mut stdout));
        (status, stdout)
    }

    /// What the agent says of one of its features.
    pub(crate) fn feature(&self, name: &str) -> Option<Value> {
        let status = self.json(&["status"])?;
        let features = status["features"].as_array()?;
        features.iter().find(|f| f["name"] == name).cloned()
    }

    /// What is known of a workload.
    pub(crate) fn workload(&self, key: &str) -> Option<Value> {
        let all = self.json(&["workloads"])?;
        let all = all["workloads"].as_array()?;
        all.iter().find(|w| w["key"] == key).cloned()
    }

    /// Has a unit run a command until so many runs of it are learned: on a busy machine a
    /// short one may be over before it is recorded.
    pub(crate) fn learn(&self, slice: &str, name: &str, runs: u64, command: &[&str]) -> Value {
        let key = format!("unit:{name}");
        let enough = |known: &Value| known["runs"].as_u64() >= Some(runs);
        until(&format!("{key} has {runs} runs"), || {
            let starts = self
                .workload(&key)
                .map_or(0, |w| w["starts"].as_u64().unwrap_or(0));
            let unit = self.learning(|| Unit::make(slice, name));
            let output = unit.run(command[0], &command[1..]);
            assert!(output.status.success(), "{output:?}");
            drop(unit);
            let over = until(&format!("a start of {key} is over"), || {
                self.assert_alive();
                self.workload(&key)
                    .filter(|w| w["starts"].as_u64() > Some(starts) && w["last"]["over"] == true)
            });
            enough(&over).then_some(over)
        })
    }

    /// Makes a cgroup, and waits until what will run in it is being learned, or will not be;
    /// or was, where this machine is so slow that nothing new came meanwhile.
    pub(crate) fn learning<T>(&self, make: impl FnOnce() -> T) -> T {
        let status = || self.json(&["status"]);
        let ended = |status: &Value| {
            let reasons = status["totals"]["starts_not_learned"].as_object();
            let refused = reasons.into_iter().flat_map(|reasons| reasons.values());
            let learned = std::iter::once(&status["totals"]["runs_learned"]);
            refused
                .chain(learned)
                .filter_map(Value::as_u64)
                .sum::<u64>()
        };
        let before = status().map_or(0, |status| ended(&status));
        let made = make();
        until("a start is being learned", || {
            self.assert_alive();
            let status = status()?;
            let is_learned = status["learning"].as_u64() >= Some(1);
            (is_learned || ended(&status) > before).then_some(())
        });
        made
    }

    /// Has a unit learned that reads a file, all of it: on a busy machine a reader may be
    /// half through before it is recorded. The runs that it took.
    pub(crate) fn learn_reading(&self, slice: &str, name: &str, file: &Path) -> u64 {
        let path = file.display().to_string();
        let command = ["sh", "-c", "cat \"$0\" > /dev/null", &path];
        let bytes = fs::metadata(file).expect("there").len();
        let mut runs = 0;
        until(&format!("all of {path} is learned"), || {
            runs += 1;
            let known = self.learn(slice, name, runs, &command);
            runs = known["runs"].as_u64().unwrap_or(runs);
            (known["profile_bytes"].as_u64() >= Some(bytes)).then_some(runs)
        })
    }

    /// The workload once so many runs of it are learned.
    pub(crate) fn learned(&self, key: &str, runs: u64) -> Value {
        until(&format!("{key} has {runs} runs"), || {
            self.assert_alive();
            // What is learned is in the store a little before the agent tells of it.
            let seen = self.workload(key).filter(|w| w["seen"] == true);
            seen.filter(|w| w["runs"].as_u64() >= Some(runs) && w["last"]["over"] == true)
        })
    }

    /// Waits until a file that a workload reads is in memory.
    pub(crate) fn warmed(&self, key: &str, path: &Path) {
        let arrival = RefCell::new(Arrival::of(path));
        let why = || {
            format!(
                "{}\n{:#}\n{:#}",
                arrival.borrow().told(),
                self.workload(key).unwrap_or_default(),
                self.json(&["explain", key]).unwrap_or_default()
            )
        };
        until_or(why, || arrival.borrow_mut().look());
    }

    /// Throws a file's pages out of memory that the agent has just read for a workload:
    /// for two seconds it takes them to be there for the next start, and does not look.
    pub(crate) fn evict_again(&self, path: &Path) {
        let over = Instant::now() + Duration::from_secs(2);
        until("it counts as just read no more", || {
            self.assert_alive();
            (Instant::now() > over).then_some(())
        });
        evict(path);
    }

    /// A file on the disk that is not in memory.
    pub(crate) fn file(&self, name: &str, bytes: usize) -> PathBuf {
        let path = self.path(name);
        let data: Vec<u8> = (0..bytes).map(|i| (i / 7) as u8).collect();
        fs::write(&path, data).expect("written");
        evict(&path);
        path
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(agent) = &mut self.agent {
            let _ = agent.child.kill();
            let _ = agent.child.wait();
        }
    }
}

pub(crate) fn send(pid: u32, signal: i32) {
    let signal = Signal::from_named_raw(signal).expect("a signal");
    let pid = rustix::process::Pid::from_raw(pid as i32).expect("a process");
    rustix::process::kill_process(pid, signal).expect("it is there");
}

/// Throws the file's pages out of memory.
pub(crate) fn evict(path: &Path) {
    let file = fs::File::open(path).expect("open");
    file.sync_all().expect("on disk");
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).expect("advice");
}

/// A cgroup (v2) as systemd makes one for a unit; removed when dropped.
pub(crate) struct Unit {
    root: OwnedFd,
    slice: String,
    name: String,
}

impl Unit {
    /// Makes `/SLICE/NAME`; the slice stays, as systemd's do while something is in them.
    pub(crate) fn make(slice: &str, name: &str) -> Self {
        let root = headstart::run::detached_mount("cgroup2").expect("cgroup2");
        let make = |path: &str| match rustix::fs::mkdirat(&root, path, Mode::from(0o755)) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(error) => panic!("making {path}: {error}"),
        };
        make(slice);
        make(&format!("{slice}/{name}"));
        Self {
            root,
            slice: slice.to_owned(),
            name: name.to_owned(),
        }
    }

    /// Makes a cgroup within it.
    pub(crate) fn make_within(&self, path: &str) {
        let path = format!("{}/{}/{path}", self.slice, self.name);
        rustix::fs::mkdirat(&self.root, path, Mode::from(0o755)).expect("made");
    }

    /// Removes one that is within it, and empty.
    pub(crate) fn remove_within(&self, path: &str) {
        let path = format!("{}/{}/{path}", self.slice, self.name);
        rustix::fs::unlinkat(&self.root, path, AtFlags::REMOVEDIR).expect("removed");
    }

    /// One of its files, where the hierarchy is mounted; `None`, and why, where it is not.
    pub(crate) fn mounted(&self, file: &str) -> Option<PathBuf> {
        let mounts = mountinfo::read().expect("mounts");
        let Some(mount) = mounts.iter().find(|mount| mount.fs_type == "cgroup2") else {
            eprintln!("SKIPPED: no cgroup2 is mounted");
            return None;
        };
        let root = Path::new(OsStr::from_bytes(&mount.mount_point));
        Some(root.join(&self.slice).join(&self.name).join(file))
    }

    /// Runs a command in it, to its end.
    pub(crate) fn run(&self, program: &str, args: &[&str]) -> Output {
        self.command(program, args).output().expect("it starts")
    }

    /// Starts a command in it.
    pub(crate) fn spawn(&self, program: &str, args: &[&str]) -> Child {
        let mut command = self.command(program, args);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        command.spawn().expect("it starts")
    }

    fn command(&self, program: &str, args: &[&str]) -> Command {
        let flags = OFlags::WRONLY | OFlags::CLOEXEC;
        let path = format!("{}/{}/cgroup.procs", self.slice, self.name);
        let procs = rustix::fs::openat(&self.root, path, flags, Mode::empty()).expect("open");
        let mut command = Command::new(program);
        command.args(args);
        // SAFETY: between fork and exec it writes to an open descriptor, and nothing else.
        unsafe {
            command.pre_exec(move || {
                rustix::io::write(&procs, b"0")?;
                Ok(())
            });
        }
        command
    }
}

impl Drop for Unit {
    fn drop(&mut self) {
        let path = format!("{}/{}", self.slice, self.name);
        let removed = || rustix::fs::unlinkat(&self.root, &*path, AtFlags::REMOVEDIR).ok();
        if std::thread::panicking() {
            // What still waits in it would wait for ever; and to panic once more is to abort.
            let flags = OFlags::WRONLY | OFlags::CLOEXEC;
            let kill = format!("{path}/cgroup.kill");
            if let Ok(kill) = rustix::fs::openat(&self.root, kill, flags, Mode::empty()) {
                let _ = rustix::io::write(&kill, b"1");
            }
            let began = Instant::now();
            while removed().is_none() && began.elapsed() < Duration::from_secs(5) {
                std::thread::sleep(Duration::from_millis(10));
            }
        } else {
            until("the cgroup is empty", removed);
        }
        // Others may be in it.
        let _ = rustix::fs::unlinkat(&self.root, &*self.slice, AtFlags::REMOVEDIR);
    }
}
