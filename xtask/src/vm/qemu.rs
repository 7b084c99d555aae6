//! A guest: booted, listened to, and ended when it is done or out of time.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::arch::Arch;
use super::job::Message;

/// Until the guest says that it is up: a minute with systemd on a machine that does much
/// else, and more where that is very much.
const BOOT: Duration = Duration::from_secs(300);
/// Between two messages: longer than any one test may take.
const SILENCE: Duration = Duration::from_secs(300);
/// For all that a guest does.
const WHOLE: Duration = Duration::from_secs(20 * 60);
/// Until a kernel's first line where the processor runs it by itself.
const FIRST_LINE: Duration = Duration::from_secs(5);
/// A guest's memory, MiB.
pub const MEMORY: usize = 3072;
/// Room on the guest's disk, of which only what is written is used.
const DISK: u64 = 8 << 30;

/// What boots.
#[derive(Clone, Debug)]
pub struct Machine<'a> {
    /// The kernel.
    pub kernel: &'a Path,
    /// Its first root.
    pub initramfs: &'a Path,
    /// What is on its disk; nothing, if nothing.
    pub disk: Option<&'a Path>,
    /// What kind of machine.
    pub arch: &'a Arch,
    /// Where the disk and the console's text are put.
    pub dir: &'a Path,
    /// What its clock counts.
    pub clock: Clock,
    /// More kernel parameters.
    pub append: String,
}

/// What a guest's clock counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clock {
    /// Time, as it passes on this machine.
    Time,
    /// Instructions of its one processor, each a nanosecond: emulated, and the same
    /// whatever else this machine does.
    Instructions,
}

impl Machine<'_> {
    /// Boots, hands each message to `each`, and ends. An error where the guest did not
    /// come up or did not come to its end.
    pub fn boot(&self, mut each: impl FnMut(Message)) -> Result<()> {
        self.make_disk()?;
        let counts = self.clock == Clock::Instructions;
        if !counts && self.arch.target.is_none() && usable_kvm() {
            // What it complains of is no concern where the emulator runs it.
            let mut command = self.command("kvm", "host");
            command.stderr(Stdio::null());
            let mut guest = Guest::start(command, &self.console())?;
            if guest.says_something(FIRST_LINE) {
                return guest.listen(&mut each);
            }
            println!("/dev/kvm opens, but boots nothing: emulating");
        }
        // One thread for all processors: kernels patch their code while others run it,
        // which hangs guests with a thread for each.
        let mut tcg = self.command("tcg,thread=single", self.arch.processor);
        if counts {
            tcg.args(["-icount", "shift=0,sleep=off"]);
        }
        Guest::start(tcg, &self.console())?.listen(&mut each)
    }

    fn console(&self) -> std::path::PathBuf {
        self.dir.join("console")
    }

    fn image(&self) -> std::path::PathBuf {
        self.dir.join("disk")
    }

    fn make_disk(&self) -> Result<()> {
        let disk = self.image();
        let _ = fs::remove_file(&disk);
        let file = File::create(&disk).with_context(|| format!("making {}", disk.display()))?;
        file.set_len(DISK)?;
        let options = "lazy_itable_init=1,lazy_journal_init=1,nodiscard";
        let mut mkfs = Command::new("mkfs.ext4");
        mkfs.args(["-q", "-F", "-E", options]);
        if let Some(files) = self.disk {
            mkfs.arg("-d").arg(files);
        }
        crate::run::captured(mkfs.arg(&disk)).map(drop)
    }

    fn command(&self, accelerator: &str, cpu: &str) -> Command {
        let disk = format!(
            "file={},if=virtio,format=raw,cache=unsafe",
            self.image().display()
        );
        let console = self.console().display().to_string();
        let machine = self.arch.machine.iter();
        let machine = machine.map(|word| word.replace("CONSOLE", &console));
        let append = format!(
            "console={} panic=-1 loglevel=5 {}",
            self.arch.console, self.append
        );
        let mut command = Command::new(self.arch.qemu);
        command
            .args([
                "-accel",
                accelerator,
                "-cpu",
                cpu,
                "-smp",
                match self.clock {
                    Clock::Time => "2",
                    Clock::Instructions => "1",
                },
                "-m",
                &MEMORY.to_string(),
            ])
            .args(["-nodefaults", "-display", "none", "-no-reboot"])
            .args(machine)
            .args(["-drive", &disk])
            .arg("-kernel")
            .arg(self.kernel)
            .arg("-initrd")
            .arg(self.initramfs)
            .args(["-append", &append]);
        command
    }
}

fn usable_kvm() -> bool {
    File::options()
        .read(true)
        .write(true)
        .open("/dev/kvm")
        .is_ok()
}

/// A running guest; ended when dropped.
struct Guest {
    child: Child,
    lines: Receiver<String>,
    console: std::path::PathBuf,
}

impl Guest {
    fn start(mut command: Command, console: &Path) -> Result<Self> {
        let _ = fs::remove_file(console);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().context("starting QEMU")?;
        let output = child.stdout.take().context("its output")?;
        let (send, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line).trim().to_owned();
                if send.send(line).is_err() {
                    break;
                }
            }
        });
        Ok(Self {
            child,
            lines,
            console: console.to_owned(),
        })
    }

    /// Whether the kernel prints anything in time.
    fn says_something(&mut self, limit: Duration) -> bool {
        let end = Instant::now() + limit;
        while Instant::now() < end {
            if fs::metadata(&self.console).is_ok_and(|console| console.len() > 200) {
                return true;
            }
            if !matches!(self.child.try_wait(), Ok(None)) {
                return false;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        false
    }

    fn listen(&mut self, each: &mut dyn FnMut(Message)) -> Result<()> {
        let whole = Instant::now() + WHOLE;
        let mut last = "it came up".to_owned();
        let mut limit = BOOT;
        loop {
            let left = whole.saturating_duration_since(Instant::now());
            let line = match self.lines.recv_timeout(limit.min(left)) {
                Ok(line) => line,
                Err(RecvTimeoutError::Timeout) => {
                    bail!("the guest hangs since {last}{}", self.last_words())
                }
                Err(RecvTimeoutError::Disconnected) => {
                    bail!("the guest ended early, since {last}{}", self.last_words())
                }
            };
            let Ok(message) = serde_json::from_str::<Message>(&line) else {
                continue;
            };
            limit = SILENCE;
            match &message {
                Message::End => return Ok(()),
                Message::Begin { test } => last = format!("{test} began"),
                Message::Test { test, .. } => last = format!("{test} ended"),
                _ => {}
            }
            each(message);
        }
    }

    /// The end of the console's text.
    fn last_words(&self) -> String {
        let text = fs::read(&self.console).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().rev().take(30).collect();
        let lines: Vec<&str> = lines.into_iter().rev().collect();
        format!("; its console ended with\n{}", lines.join("\n"))
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
