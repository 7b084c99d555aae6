//! `cargo xtask vm`: the suites that look at the kernel, on kernels that nodes run.
//!
//! A kernel comes from the distribution's packages ([`kernel`]), unpacked and not
//! installed. It boots in QEMU ([`qemu`]) with an initramfs ([`initramfs`]) of an init
//! of ours (`bin/vm-init.rs`), modules ([`modules`]), statically linked test binaries
//! and the programs that the tests start; or, from there, a root of the distribution's with
//! systemd ([`debian`]), in which a unit does the job. What the guest is to do is a [`job::Job`];
//! what became of it comes over a serial line, and ends in one [`table`].
//!
//! What a suite needs of its guest (modules, programs, kernel parameters) is said in
//! [`suites`]: a new one is a row there. A kernel boots once for each setup in which
//! there is something to run.

mod apt;
mod cpio;
mod debian;
pub mod initramfs;
pub mod job;
pub mod kernel;
pub mod modules;
pub mod qemu;
pub mod suites;
pub mod table;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};

use crate::packages::{self, VM};
use crate::workspace::Workspace;
use kernel::{KERNELS, Kernel};
use table::{Run, Table};

/// `cargo xtask vm`
#[derive(Debug, Default, clap::Args)]
pub struct Args {
    /// Which kernel: 5.10, 6.1, 6.12, newest or all
    #[arg(long, default_value = "all", value_name = "KERNEL")]
    pub kernel: String,
    /// Only tests whose names contain this, of all suites and not only of the chosen ones;
    /// may be given several times
    #[arg(long, value_name = "TEXT")]
    pub test: Vec<String>,
    /// More kernel parameters
    #[arg(long, value_name = "PARAMETERS", default_value = "")]
    pub append: String,
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

/// As a stage of the tests, no kernel is begun later than this: it is skipped, loudly.
/// One guest takes ten minutes at most.
const STAGE: Duration = Duration::from_secs(15 * 60);

/// As `--kernel` calls all of them.
const ALL: &str = "all";

fn boot_all(args: &Args, last_begin: Duration) -> Result<Table> {
    let began = Instant::now();
    let chosen: Vec<&Kernel> = KERNELS
        .iter()
        .filter(|kernel| args.kernel == ALL || args.kernel == kernel.name)
        .collect();
    if chosen.is_empty() {
        let names: Vec<&str> = KERNELS.iter().map(|kernel| kernel.name).collect();
        bail!("no kernel `{}`: {} or {ALL}", args.kernel, names.join(", "));
    }
    let workspace = Workspace::here();
    let binaries = suites::build(&workspace)?;
    let mut table = Table::default();
    for kernel in chosen {
        let start = Instant::now();
        println!("==> kernel {}", kernel.name);
        let mut run = Run::default();
        if began.elapsed() > last_begin {
            let late = anyhow!("{} s are over", last_begin.as_secs());
            println!("SKIPPED: kernel {}: {late}", kernel.name);
            run.skip(&late);
            table.add(kernel.name, run);
            continue;
        }
        if let Err(error) = one(kernel, args, &workspace, &binaries, &mut run) {
            run.broken(&error);
        }
        println!(
            "<== kernel {}: {}, {:.0} s",
            kernel.name,
            run.summary(),
            start.elapsed().as_secs_f64()
        );
        table.add(kernel.name, run);
    }
    println!("{}", table.text());
    println!("{}", table.verdict());
    Ok(table)
}

fn one(
    kernel: &Kernel,
    args: &Args,
    workspace: &Workspace,
    binaries: &suites::Binaries,
    run: &mut Run,
) -> Result<()> {
    let root = match kernel.fetch() {
        Ok(root) => root,
        Err(error) => {
            println!("SKIPPED: kernel {}: {error:#}", kernel.name);
            run.skip(&error);
            return Ok(());
        }
    };
    println!("kernel {}: {}", kernel.name, root.version);
    let dir = workspace.target.join("vm").join(kernel.name);
    std::fs::create_dir_all(&dir).with_context(|| format!("making {}", dir.display()))?;
    for setup in suites::SETUPS {
        let job = suites::job(binaries, kernel.name, setup, &args.test);
        if job.suites.is_empty() {
            continue;
        }
        if !setup.name.is_empty() {
            println!("--> {}", setup.name);
        }
        let disk = match setup.disk() {
            Ok(disk) => disk,
            Err(error) => {
                println!("SKIPPED: {}: {error:#}", setup.name);
                run.skip(&error);
                continue;
            }
        };
        let machine = qemu::Machine {
            kernel: &root.image,
            initramfs: &initramfs::write(&dir, &root, binaries, setup, &job)?,
            disk: disk.as_deref(),
            dir: &dir,
            append: format!("{} {}", setup.parameters, args.append),
        };
        let booted = machine.boot(|message| run.take(message, args.verbose));
        // The others may come up all the same.
        if let Err(error) = booted {
            run.broken(&error);
        }
    }
    Ok(())
}
