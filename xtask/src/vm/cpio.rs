//! Archives that the kernel unpacks into its first root: "newc", as in its
//! Documentation/driver-api/early-userspace/buffer-format.rst.

use std::io::{self, Write};

const DIRECTORY: u32 = 0o040_000;
const FILE: u32 = 0o100_000;
const LINK: u32 = 0o120_000;
const DEVICE: u32 = 0o020_000;

/// Writes entries one after the other; a directory before what is in it.
pub(super) struct Archive<W> {
    out: W,
    inode: u32,
}

impl<W: Write> Archive<W> {
    pub(super) fn new(out: W) -> Self {
        Self { out, inode: 0 }
    }

    pub(super) fn directory(&mut self, name: &str) -> io::Result<()> {
        self.entry(name, DIRECTORY | 0o755, (0, 0), &[])
    }

    pub(super) fn file(&mut self, name: &str, permissions: u32, data: &[u8]) -> io::Result<()> {
        self.entry(name, FILE | permissions, (0, 0), data)
    }

    pub(super) fn link(&mut self, name: &str, target: &str) -> io::Result<()> {
        self.entry(name, LINK | 0o777, (0, 0), target.as_bytes())
    }

    pub(super) fn device(&mut self, name: &str, number: (u32, u32)) -> io::Result<()> {
        self.entry(name, DEVICE | 0o600, number, &[])
    }

    pub(super) fn finish(mut self) -> io::Result<W> {
        self.entry("TRAILER!!!", 0, (0, 0), &[])?;
        self.out.flush()?;
        Ok(self.out)
    }

    fn entry(&mut self, name: &str, mode: u32, device: (u32, u32), data: &[u8]) -> io::Result<()> {
        let name = name.trim_start_matches('/');
        self.inode += 1;
        let size = u32::try_from(data.len()).map_err(io::Error::other)?;
        let links = 1;
        let fields = [
            self.inode,
            mode,
            0,
            0,
            links,
            0,
            size,
            0,
            0,
            device.0,
            device.1,
            name.len() as u32 + 1,
            0,
        ];
        self.out.write_all(b"070701")?;
        for field in fields {
            write!(self.out, "{field:08x}")?;
        }
        self.out.write_all(name.as_bytes())?;
        // The header has 110 bytes; name and data end on multiples of four.
        self.out
            .write_all(&[0; 4][..1 + padding(110 + name.len() + 1)])?;
        self.out.write_all(data)?;
        self.out.write_all(&[0; 3][..padding(data.len())])
    }
}

fn padding(length: usize) -> usize {
    length.next_multiple_of(4) - length
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_data_end_on_words() {
        for (name, data) in [("a", "x"), ("/ab", ""), ("abc", "four"), ("d/e", "seven77")] {
            let mut archive = Archive::new(Vec::new());
            archive.file(name, 0o644, data.as_bytes()).expect("written");
            let bytes = archive.finish().expect("finished");
            assert_eq!(bytes.len() % 4, 0);
            let name = name.trim_start_matches('/');
            assert_eq!(&bytes[110..110 + name.len()], name.as_bytes());
            let begin = (110 + name.len() + 1).next_multiple_of(4);
            assert_eq!(&bytes[begin..begin + data.len()], data.as_bytes());
            let next = (begin + data.len()).next_multiple_of(4);
            assert_eq!(&bytes[next..next + 6], b"070701");
        }
    }
}
