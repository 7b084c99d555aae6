//! What differs between the architectures of guests.

use std::process::Command;

use anyhow::{Context, Result};

use crate::packages::{Package, VM_ARM64};
use crate::run;

/// An architecture that guests have.
#[derive(Debug, PartialEq, Eq)]
pub struct Arch {
    /// As Debian calls it.
    pub debian: &'static str,
    /// What tests are built for; `None`: this machine.
    pub target: Option<&'static str>,
    /// The emulator.
    pub qemu: &'static str,
    /// What it is told of the machine, its first line for the console and its second for
    /// answers, to standard output. `CONSOLE` stands for the console's file.
    pub machine: &'static [&'static str],
    /// The processor, where it is emulated.
    pub processor: &'static str,
    /// What the guest's kernel calls the console.
    pub console: &'static str,
    /// Packages with programs that the tests start; none: this machine's own.
    pub programs: &'static [&'static str],
    /// What it needs beside what all need.
    pub needs: &'static [Package],
}

/// x86-64: programs of this machine, which is one.
pub const AMD64: Arch = Arch {
    debian: "amd64",
    target: None,
    qemu: "qemu-system-x86_64",
    machine: &["-serial", "file:CONSOLE", "-serial", "stdio"],
    processor: "max",
    console: "ttyS0",
    programs: &[],
    needs: &[],
};

/// arm64: statically linked tests, and programs of packages.
pub const ARM64: Arch = Arch {
    debian: "arm64",
    target: Some("aarch64-unknown-linux-musl"),
    qemu: "qemu-system-aarch64",
    machine: &[
        "-M",
        "virt",
        "-serial",
        "file:CONSOLE",
        "-chardev",
        "stdio,id=answers",
        "-device",
        "pci-serial,chardev=answers",
    ],
    // Newer ones sign pointers, which takes an emulator long.
    processor: "cortex-a72",
    console: "ttyAMA0",
    programs: &[
        "busybox-static",
        "e2fsprogs",
        "libext2fs2t64",
        "libcom-err2",
        "libblkid1",
        "libuuid1",
        "libc6",
    ],
    needs: VM_ARM64,
};

impl Arch {
    /// Sees to it that the compiler can build for it: rustup is asked for what is missing.
    ///
    /// # Errors
    /// It can't.
    pub fn ensure_target(&self) -> Result<()> {
        let Some(target) = self.target else {
            return Ok(());
        };
        let mut directory = Command::new("rustc");
        directory.args(["--print", "target-libdir", "--target", target]);
        let there = run::quiet_output(&mut directory)
            .is_some_and(|directory| std::path::Path::new(&directory).exists());
        if there {
            return Ok(());
        }
        run::run(Command::new("rustup").args(["target", "add", target]))
            .with_context(|| format!("building for {target}"))
    }
}
