//! To what the kernel is locked down.

use std::fs;
use std::io;

use rustix::fs::{Mode, OFlags};

use super::mount::detached_mount;

/// As in the kernel's lockdown file: `none`, `integrity`, `confidentiality`; `None` where
/// it does not say.
pub fn lockdown() -> Option<String> {
    let text = fs::read_to_string("/sys/kernel/security/lockdown")
        .or_else(|_| unmounted())
        .ok()?;
    active(&text).map(str::to_owned)
}

/// Where securityfs is not mounted: from a mount that no path leads to. Needs privileges.
fn unmounted() -> io::Result<String> {
    let root = detached_mount("securityfs")?;
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let file = rustix::fs::openat(root, "lockdown", flags, Mode::empty())?;
    io::read_to_string(fs::File::from(file))
}

/// The word in brackets.
fn active(text: &str) -> Option<&str> {
    let (_, rest) = text.split_once('[')?;
    rest.split_once(']').map(|(word, _)| word)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_word_in_brackets_is_the_mode() {
        let mode = super::active("none [integrity] confidentiality\n");
        assert_eq!(mode, Some("integrity"));
        assert_eq!(super::active(""), None);
    }
}
