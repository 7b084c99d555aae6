//! Opening what has to be a regular file. Nobody waits for a FIFO's other end, and a device
//! or a file without end is not read.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags};

/// Opens a regular file, with what `flags` ask for besides.
///
/// # Errors
/// It is not there ([`io::ErrorKind::NotFound`]), or is something else
/// ([`io::ErrorKind::InvalidData`]).
pub(crate) fn open(path: &Path, flags: OFlags) -> io::Result<File> {
    let flags = flags | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = File::from(rustix::fs::openat(CWD, path, flags, Mode::empty())?);
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "not a regular file",
        )),
    }
}

/// Reads a regular file of at most `most` bytes.
///
/// # Errors
/// As [`open`], or it is larger ([`io::ErrorKind::InvalidData`]).
pub(crate) fn read(path: &Path, flags: OFlags, most: u64) -> io::Result<Vec<u8>> {
    let file = open(path, flags)?;
    let mut bytes = Vec::new();
    // It may grow while it is read.
    file.take(most + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("larger than {most} bytes"),
        ));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_small_regular_files_are_read() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("file");
        std::fs::write(&path, b"12345").expect("file");
        let at = |path: &Path, most| read(path, OFlags::RDONLY, most);
        assert_eq!(at(&path, 5).expect("fits"), b"12345");
        let refused = |path: &Path, most| at(path, most).expect_err("refused").kind();
        assert_eq!(refused(&path, 4), io::ErrorKind::InvalidData);
        assert_eq!(refused(dir.path(), 4), io::ErrorKind::InvalidData);
        assert_eq!(
            refused(Path::new("/dev/zero"), 4),
            io::ErrorKind::InvalidData
        );
        let fifo = dir.path().join("fifo");
        rustix::fs::mkfifoat(CWD, &fifo, Mode::from(0o600)).expect("a FIFO");
        assert_eq!(refused(&fifo, 4), io::ErrorKind::InvalidData);
        assert_eq!(
            refused(&dir.path().join("none"), 4),
            io::ErrorKind::NotFound
        );
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&path, &link).expect("link");
        assert_eq!(at(&link, 5).expect("followed"), b"12345");
        assert!(read(&link, OFlags::NOFOLLOW, 5).is_err());
    }
}
