//! The first process of a guest of `cargo xtask vm`: makes it a machine that tests can
//! run on, does its job, says what became of it, and ends the guest.

use std::ffi::CString;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use xtask::vm::job::{ANSWERS, Cgroups, JOB, Job, MODULES, Message, Outcome, Suite};

/// Source, where, type.
const MOUNTS: &[(&str, &str, &str)] = &[
    ("proc", "/proc", "proc"),
    ("sysfs", "/sys", "sysfs"),
    ("devtmpfs", "/dev", "devtmpfs"),
    ("tmpfs", "/run", "tmpfs"),
    ("tracefs", "/sys/kernel/tracing", "tracefs"),
    ("debugfs", "/sys/kernel/debug", "debugfs"),
    ("bpf", "/sys/fs/bpf", "bpf"),
];

/// Where control groups are.
const CGROUPS: &str = "/sys/fs/cgroup";
/// Controllers that the root of the cgroup tree hands on.
const CONTROLLERS: &[&str] = &["memory", "io", "cpu", "pids"];
/// Controllers of version 1.
const V1_CONTROLLERS: &[&str] = &["memory", "blkio", "cpu", "pids"];

fn main() {
    let mut trouble = Vec::new();
    if std::process::id() == 1 {
        make_machine(&mut trouble);
    }
    do_job(trouble);
}

/// As the first process. Does not return where another takes over, which starts this
/// program once more.
fn make_machine(trouble: &mut Vec<String>) {
    if let Err(error) = mount("devtmpfs", "/dev", "devtmpfs") {
        trouble.push(format!("mounting /dev: {error}"));
    }
    load_modules(trouble);
    if let Err(error) = enter_disk() {
        trouble.push(format!("moving to the disk: {error}"));
    }
    let job = job().unwrap_or_default();
    if let Some(init) = job.init.filter(|_| trouble.is_empty()) {
        let error = Command::new(&init).exec();
        trouble.push(format!("handing over to {}: {error}", init.display()));
    }
    for (source, at, kind) in MOUNTS {
        if let Err(error) = mount(source, at, kind) {
            trouble.push(format!("mounting {at}: {error}"));
        }
    }
    let made = match job.cgroups {
        Cgroups::V2 => one_tree(),
        Cgroups::V1 => a_tree_each(),
    };
    if let Err(error) = made {
        trouble.push(format!("control groups: {error}"));
    }
}

fn do_job(mut trouble: Vec<String>) {
    let answers = File::options().write(true).open(ANSWERS);
    let mut answers = Answers(answers.expect("a second serial line"));
    let version = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    answers.send(&Message::Ready {
        kernel: version.trim().to_owned(),
    });
    let job = job().unwrap_or_else(|error| {
        trouble.push(format!("reading the job: {error}"));
        Job::default()
    });
    for what in trouble {
        answers.send(&Message::Trouble { what });
    }
    for suite in &job.suites {
        perform(suite, &mut answers);
    }
    answers.send(&Message::End);
    rustix::fs::sync();
    // With -no-reboot QEMU ends.
    let _ = rustix::system::reboot(rustix::system::RebootCommand::Restart);
}

/// Copies the kernel's first root, which is in memory, to the disk, and makes that the
/// root: names below a root in memory are nobody's to warm.
fn enter_disk() -> io::Result<()> {
    const DISK: &str = "/dev/vda";
    const ROOT: &str = "/mnt";
    wait_for(Path::new(DISK))?;
    mount(DISK, ROOT, "ext4")?;
    for entry in fs::read_dir("/")? {
        let from = entry?.path();
        let to = Path::new(ROOT).join(from.strip_prefix("/").unwrap_or(&from));
        let stays = ["/dev", "/mnt", "/init"].map(Path::new);
        if !stays.contains(&from.as_path()) {
            copy(&from, &to)?;
        }
    }
    std::env::set_current_dir(ROOT)?;
    rustix::mount::mount_move(".", "/")?;
    std::os::unix::fs::chroot(".")?;
    std::env::set_current_dir("/")
}

fn copy(from: &Path, to: &Path) -> io::Result<()> {
    let kind = fs::symlink_metadata(from)?.file_type();
    if kind.is_symlink() {
        return std::os::unix::fs::symlink(fs::read_link(from)?, to);
    }
    if !kind.is_dir() {
        return fs::copy(from, to).map(drop);
    }
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        copy(&entry.path(), &to.join(entry.file_name()))?;
    }
    Ok(())
}

struct Answers(File);

impl Answers {
    fn send(&mut self, message: &Message) {
        let mut line = serde_json::to_string(message).expect("plain data");
        line.push('\n');
        // Nobody is left to tell.
        let _ = self.0.write_all(line.as_bytes());
        let _ = rustix::termios::tcdrain(&self.0);
    }
}

fn mount(source: &str, at: &str, kind: &str) -> io::Result<()> {
    mount_with(source, at, kind, "")
}

fn mount_with(source: &str, at: &str, kind: &str, options: &str) -> io::Result<()> {
    fs::create_dir_all(at)?;
    let flags = rustix::mount::MountFlags::empty();
    let options = CString::new(options).map_err(io::Error::other)?;
    Ok(rustix::mount::mount(source, at, kind, flags, &*options)?)
}

/// The tree of version 2, with all controllers for the groups below its root.
fn one_tree() -> io::Result<()> {
    mount("cgroup2", CGROUPS, "cgroup2")?;
    CONTROLLERS.iter().try_for_each(|controller| {
        fs::write(
            format!("{CGROUPS}/cgroup.subtree_control"),
            format!("+{controller}"),
        )
    })
}

/// Trees of version 1, of those controllers that this kernel has there, and none of
/// version 2.
fn a_tree_each() -> io::Result<()> {
    mount("tmpfs", CGROUPS, "tmpfs")?;
    let mut mounted = false;
    for controller in V1_CONTROLLERS {
        let at = format!("{CGROUPS}/{controller}");
        match mount_with("cgroup", &at, "cgroup", controller) {
            Ok(()) => mounted = true,
            Err(error) if error.raw_os_error() == Some(22) => fs::remove_dir(&at)?,
            Err(error) => return Err(error),
        }
    }
    match mounted {
        true => Ok(()),
        false => Err(io::Error::other("no controller of version 1")),
    }
}

fn load_modules(trouble: &mut Vec<String>) {
    let Ok(entries) = fs::read_dir(MODULES) else {
        return;
    };
    let mut files: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    files.sort();
    for file in files {
        let load = || -> io::Result<()> {
            let parameters = CString::default();
            Ok(rustix::system::finit_module(
                File::open(&file)?,
                &parameters,
                0,
            )?)
        };
        match load() {
            // Another brought it.
            Err(error) if error.raw_os_error() == Some(17) => {}
            Err(error) => trouble.push(format!("loading {}: {error}", file.display())),
            Ok(()) => {}
        }
    }
}

fn job() -> io::Result<Job> {
    let job: Job = serde_json::from_slice(&fs::read(JOB)?)?;
    fs::create_dir_all(&job.scratch)?;
    Ok(job)
}

/// A device that its driver has yet to find.
fn wait_for(path: &Path) -> io::Result<()> {
    let end = Instant::now() + Duration::from_secs(10);
    while !path.exists() {
        if Instant::now() > end {
            return Err(io::Error::from(io::ErrorKind::NotFound));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

fn perform(suite: &Suite, answers: &mut Answers) {
    let list = command(suite)
        .args(["--list", "--format", "terse"])
        .output();
    let list = match list {
        Ok(output) => String::from_utf8_lossy(&output.stdout).into_owned(),
        Err(error) => {
            let what = format!("starting {}: {error}", suite.program.display());
            answers.send(&Message::Trouble { what });
            return;
        }
    };
    let tests = list.lines().filter_map(|line| line.strip_suffix(": test"));
    for test in tests.filter(|test| suite.has(test)) {
        let name = format!("{}::{test}", suite.name);
        let variant = suite.variant.clone();
        for may_fail in [true, false] {
            answers.send(&Message::Begin { test: name.clone() });
            let start = Instant::now();
            let (mut outcome, output) =
                one(suite, test).unwrap_or_else(|error| (Outcome::Failed, error.to_string()));
            if outcome == Outcome::Failed && may_fail {
                outcome = Outcome::Again;
            }
            answers.send(&Message::Test {
                test: name.clone(),
                variant: variant.clone(),
                outcome,
                seconds: start.elapsed().as_secs_f64(),
                output,
            });
            if outcome != Outcome::Again {
                break;
            }
        }
    }
}

fn command(suite: &Suite) -> Command {
    let mut command = Command::new(&suite.program);
    command
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .env("HOME", "/root")
        .env("RUST_BACKTRACE", "1")
        .envs(suite.environment.iter().cloned())
        .stdin(Stdio::null());
    command
}

/// One test, which is killed when its time is over.
fn one(suite: &Suite, test: &str) -> io::Result<(Outcome, String)> {
    let (mut read, write) = io::pipe()?;
    let mut child = command(suite)
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .stdout(write.try_clone()?)
        .stderr(write)
        .spawn()?;
    let reader = std::thread::spawn(move || {
        let mut text = Vec::new();
        let _ = read.read_to_end(&mut text);
        text
    });
    let end = Instant::now() + Duration::from_secs(suite.seconds);
    let mut late = false;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if Instant::now() > end {
            late = true;
            child.kill()?;
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    if late {
        // What it started may hold its end of the pipe.
        return Ok((Outcome::Failed, format!("killed after {} s", suite.seconds)));
    }
    let output = reader.join().unwrap_or_default();
    let output = String::from_utf8_lossy(&output).into_owned();
    let outcome = match status.success() {
        false => Outcome::Failed,
        true if output.contains("SKIPPED") => Outcome::Skipped,
        true => Outcome::Passed,
    };
    Ok((outcome, output))
}
