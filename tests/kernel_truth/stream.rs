//! A file read from its beginning to its end, by each of the calls that can.

use std::fs::File;
use std::io::{IoSliceMut, Read, Seek};
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::{copy_file_range, sendfile};
use rustix::io::{ReadWriteFlags, preadv, preadv2, readv};
use rustix::pipe::{SpliceFlags, splice};
use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
enum Call {
    Read,
    Vectored,
    VectoredWithFlags,
    Sendfile,
    Splice,
    CopyFileRange,
}

/// All of a file in pieces.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Stream {
    call: Call,
    /// The caller says from where on; else from where the descriptor is.
    offset: bool,
    /// Bytes.
    piece: usize,
}

impl Stream {
    /// Each call there is.
    pub(crate) fn all(piece: usize) -> Vec<Self> {
        let calls = [
            Call::Read,
            Call::Vectored,
            Call::VectoredWithFlags,
            Call::Sendfile,
            Call::Splice,
            Call::CopyFileRange,
        ];
        let both = calls.map(|call| [(call, false), (call, true)]);
        let of = |(call, offset)| Self {
            call,
            offset,
            piece,
        };
        both.into_iter().flatten().map(of).collect()
    }

    /// Reads all of `file`, which is at `path`.
    pub(crate) fn perform(&self, file: &File, path: &Path) {
        let sink = match self.call {
            Call::CopyFileRange => File::create(path.with_extension("copy")).expect("a file"),
            _ => File::options().write(true).open("/dev/null").expect("null"),
        };
        let (size, mut at) = (file.metadata().expect("size").len(), 0);
        while at < size {
            let got = self.next(file, at, &sink);
            assert!(got > 0, "{self:?}: {at} of {size}");
            at += got as u64;
        }
        let position = { file }.stream_position().expect("position");
        assert_eq!(position, if self.offset { 0 } else { size }, "{self:?}");
    }

    fn next(&self, mut file: &File, at: u64, sink: &File) -> usize {
        let mut from = at;
        let offset = self.offset.then_some(&mut from);
        let (mut room, flags) = (vec![0; self.piece], ReadWriteFlags::empty());
        let (one, two) = room.split_at_mut(self.piece / 3);
        let parts = &mut [IoSliceMut::new(one), IoSliceMut::new(two)];
        let got = match (self.call, offset) {
            (Call::Read, None) => return file.read(&mut room).expect("read"),
            (Call::Read, Some(at)) => return file.read_at(&mut room, *at).expect("pread64"),
            (Call::Vectored, None) => readv(file, parts),
            (Call::Vectored, Some(at)) => preadv(file, parts, *at),
            (Call::VectoredWithFlags, None) => preadv2(file, parts, u64::MAX, flags),
            (Call::VectoredWithFlags, Some(at)) => preadv2(file, parts, *at, flags),
            (Call::Sendfile, at) => sendfile(sink, file, at, self.piece),
            (Call::CopyFileRange, at) => copy_file_range(file, at, sink, None, self.piece),
            (Call::Splice, at) => {
                // Emptied by being closed.
                let (_out, to) = rustix::pipe::pipe().expect("pipe");
                splice(file, at, &to, None, self.piece, SpliceFlags::empty())
            }
        };
        got.unwrap_or_else(|error| panic!("{self:?}: {error}"))
    }
}
