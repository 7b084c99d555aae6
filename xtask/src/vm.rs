//! `cargo xtask vm`: the suites that look at the kernel, on kernels that nodes run.
//!
//! A kernel comes from the distribution's packages ([`kernel`]), unpacked and not
//! installed. It boots in QEMU ([`qemu`]) with an initramfs ([`initramfs`]) of an init
//! of ours (`bin/vm-init.rs`), modules ([`modules`]), this machine's test binaries and the
//! programs that the tests start, with their libraries; or, from there, a root of the
//! distribution's with systemd (`debian`), in which a unit does the job. What the guest is
//! to do is a [`job::Job`];
//! what became of it comes over a serial line, and ends in one [`table`].
//!
//! What a suite needs of its guest (modules, programs, kernel parameters) is said in
//! [`suites`]: a new one is a row there. A kernel boots once for each setup in which
//! there is something to run, beside as many others as there is room for.

mod apt;
mod cpio;
mod debian;
pub mod arch;
pub mod initramfs;
pub mod job;
pub mod kernel;
pub mod minimum;
pub mod modules;
pub mod qemu;
pub mod suites;
pub mod table;
pub mod verified;

use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};

use crate::packages::{self, VM};
use crate::run::at_once;
use crate::workspace::Workspace;
use arch::Arch;
use job::Job;
use kernel::{KERNELS, Kernel, Unpacked};
use minimum::Minimums;
use suites::{Binaries, Setup};
use table::{Run, Table};
use verified::Verified;

/// `cargo xtask vm`
#[derive(Debug, Default, clap::Args)]
pub struct Args {
    /// Which kernel: 5.10, 6.1, 6.12, newest or all of these; arm64 (6.12 there)
    #[arg(long, default_value = "all", value_name = "KERNEL")]
    pub kernel: String,
    /// Only tests whose names contain this, of all suites and not only of the chosen ones;
    /// may be given several times
    #[arg(long, value_name = "TEXT")]
    pub test: Vec<String>,
    /// More kernel parameters
    #[arg(long, value_name = "PARAMETERS", default_value = "")]
    pub append: String,
    /// Have the guest's clock tick once for each instruction, not with time: what tests
    /// measure are then instructions, whatever else this machine does
    #[arg(long)]
    pub count: bool,
    /// Print what each test printed
    #[arg(long)]
    pub verbose: bool,
}

/// Boots each kernel and runs the suites in it. The last line printed is
/// `vm: N passed, M failed, K skipped`.
pub fn run(args: &Args) -> Result<ExitCode> {
    packages::install(&packages::missing(VM)).context("what virtual machines need")?;
    Ok(if boot_all(args, Duration::MAX)?.failed() == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// The same as a part of `cargo xtask test`, which skips it where there is no emulator.
pub fn stage() -> Result<()> {
    if let Err(error) = packages::install(&packages::missing(VM)) {
        println!("SKIPPED: kernels in virtual machines: {error:#}");
        return Ok(());
    }
    let args = Args {
        kernel: ALL.to_owned(),
        ..Args::default()
    };
    match boot_all(&args, STAGE)?.failed() {
        0 => Ok(()),
        failed => bail!("{failed} failed in virtual machines"),
    }
}

/// As a stage of the tests, no guest is begun later than this: it is skipped, loudly.
/// One guest takes twenty minutes at most.
const STAGE: Duration = Duration::from_secs(20 * 60);

/// As `--kernel` calls all of them.
const ALL: &str = "all";

fn boot_all(args: &Args, last_begin: Duration) -> Result<Table> {
    let last_begin = Instant::now().checked_add(last_begin);
    let chosen: Vec<&Kernel> = KERNELS
        .iter()
        .filter(|kernel| match args.kernel.as_str() {
            ALL => !kernel.by_name_only,
            name => kernel.name == name,
        })
        .collect();
    if chosen.is_empty() {
        let names: Vec<&str> = KERNELS.iter().map(|kernel| kernel.name).collect();
        bail!("no kernel `{}`: {} or {ALL}", args.kernel, names.join(", "));
    }
    let workspace = Workspace::here();
    let mut table = Table::default();
    let mut guests = Vec::new();
    let mut built: Vec<(&Arch, Arc<Binaries>)> = Vec::new();
    for kernel in chosen {
        let arch = kernel.arch;
        let binaries = match built.iter().find(|(of, _)| *of == arch) {
            Some((_, binaries)) => binaries.clone(),
            None => {
                packages::install(&packages::missing(arch.needs))?;
                built.push((arch, Arc::new(suites::build(&workspace, arch)?)));
                built[built.len() - 1].1.clone()
            }
        };
        let mut run = Run::default();
        match kernel.fetch() {
            Ok(root) => guests.extend(Guest::all(kernel, &root, &binaries, &args.test)),
            Err(error) => {
                println!("SKIPPED: kernel {}: {error:#}", kernel.name);
                run.skip(&error);
            }
        }
        table.add(kernel.name, run);
    }
    // The longest is not to be the last.
    guests.sort_by_key(|guest| std::cmp::Reverse(guest.job.suites.len()));
    let table = Mutex::new(table);
    at_once(room(), guests, |guest| {
        let run = match last_begin {
            Some(last) if Instant::now() > last => {
                guest.skip(&anyhow!("{} s are over", STAGE.as_secs()))
            }
            _ => guest.boot(args, &workspace),
        };
        if let Ok(mut table) = table.lock() {
            table.add(guest.kernel.name, run);
        }
    });
    let mut table = table
        .into_inner()
        .map_err(|_| anyhow!("a guest's thread panicked"))?;
    table.compare(
        &Verified::read(&workspace.root)?,
        &Minimums::read(&workspace.root)?,
    );
    println!("{}", table.text());
    println!("{}", table.verdict());
    Ok(table)
}

/// How many guests have room beside one another: a processor for each, and memory.
fn room() -> usize {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let available = text
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))
        .and_then(|rest| rest.split_whitespace().next()?.parse::<usize>().ok());
    let memory = available.map_or(1, |kib| kib / 1024 / (qemu::MEMORY + qemu::MEMORY / 2));
    processors.min(memory).max(1)
}

/// One boot: a kernel, and what it does.
struct Guest {
    kernel: Kernel,
    root: Unpacked,
    binaries: Arc<Binaries>,
    setup: &'static Setup,
    job: Job,
}

impl Guest {
    /// One for each setup in which this kernel has something to do.
    fn all(
        kernel: &Kernel,
        root: &Unpacked,
        binaries: &Arc<Binaries>,
        tests: &[String],
    ) -> Vec<Self> {
        let guests = suites::SETUPS.iter().map(|setup| Self {
            kernel: *kernel,
            root: root.clone(),
            binaries: binaries.clone(),
            setup,
            job: suites::job(binaries, kernel.name, setup, tests),
        });
        guests
            .filter(|guest| !guest.job.suites.is_empty())
            .collect()
    }

    /// Kernel and setup.
    fn name(&self) -> String {
        format!("{} {}", self.kernel.name, self.setup.name)
            .trim()
            .to_owned()
    }

    /// What became of it, boot and all.
    fn boot(&self, args: &Args, workspace: &Workspace) -> Run {
        let disk = match self.setup.disk() {
            Ok(disk) => disk,
            Err(error) => return self.skip(&error),
        };
        let start = Instant::now();
        let name = self.name();
        println!("==> kernel {name}: {}", self.root.version);
        let mut run = Run::of(&name);
        let dir = workspace.target.join("vm").join(name.replace(' ', "-"));
        let mut boot = || {
            std::fs::create_dir_all(&dir).with_context(|| format!("making {}", dir.display()))?;
            let machine = qemu::Machine {
                kernel: &self.root.image,
                initramfs: &initramfs::write(
                    &dir,
                    &self.root,
                    &self.binaries,
                    self.setup,
                    &self.job,
                )?,
                disk: disk.as_deref(),
                arch: self.kernel.arch,
                dir: &dir,
                clock: if args.count {
                    qemu::Clock::Instructions
                } else {
                    qemu::Clock::Time
                },
                append: format!("{} {}", self.setup.parameters, args.append),
            };
            machine.boot(|message| run.take(message, args.verbose))
        };
        if let Err(error) = boot() {
            run.broken(&error);
        }
        println!(
            "<== kernel {name}: {}, {:.0} s",
            run.summary(),
            start.elapsed().as_secs_f64()
        );
        run
    }

    /// It can't be had, or there is no time left for it.
    fn skip(&self, reason: &anyhow::Error) -> Run {
        let mut run = Run::of(&self.name());
        println!("SKIPPED: kernel {}: {reason:#}", self.name());
        run.skip(reason);
        run
    }
}
