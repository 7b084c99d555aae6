//! What the head of a program tells: who interprets it, and where its mappings
//! begin. Pure.

/// Kinds of program headers (`elf(5)`).
const LOAD: u32 = 1;
const INTERP: u32 = 3;
const RELRO: u32 = 0x6474_e552;

/// One program header of a 64-bit little-endian ELF file.
struct Segment {
    kind: u32,
    offset: u64,
    file_size: u64,
    memory_size: u64,
}

/// The program headers that lie in `head`, the first bytes of a file; `None` if
/// it is not such a file.
fn segments(head: &[u8]) -> Option<impl Iterator<Item = Segment>> {
    if head.get(..6)? != b"\x7fELF\x02\x01" {
        return None;
    }
    let bytes = move |at: usize, len: usize| head.get(at..at.checked_add(len)?);
    let half = move |at: usize| Some(u16::from_le_bytes(bytes(at, 2)?.try_into().ok()?));
    let word = move |at: usize| Some(u64::from_le_bytes(bytes(at, 8)?.try_into().ok()?));
    let table = usize::try_from(word(0x20)?).ok()?;
    let (size, count) = (usize::from(half(0x36)?), usize::from(half(0x38)?));
    Some((0..count).map_while(move |i| {
        let header = table.checked_add(i.checked_mul(size)?)?;
        // Checked once: what follows lies in the header's 56 bytes.
        bytes(header, 56)?;
        Some(Segment {
            kind: u32::from_le_bytes(bytes(header, 4)?.try_into().ok()?),
            offset: word(header + 8)?,
            file_size: word(header + 0x20)?,
            memory_size: word(header + 0x28)?,
        })
    }))
}

/// Path of the interpreter named in the first bytes of a program, which the
/// kernel looks up when it executes the file: no system call names it. `#!` line,
/// or PT_INTERP when it lies in `head`.
pub fn interpreter(head: &[u8]) -> Option<&[u8]> {
    if let Some(line) = head.strip_prefix(b"#!") {
        // Where it ends for the kernel too.
        let line = line.split(|&b| b == b'\n' || b == 0).next()?;
        return line
            .split(|&b| b == b' ' || b == b'\t')
            .find(|word| !word.is_empty());
    }
    let named = segments(head)?.find(|segment| segment.kind == INTERP)?;
    let from = usize::try_from(named.offset).ok()?;
    let len = usize::try_from(named.file_size).ok()?;
    let bytes = head.get(from..from.checked_add(len)?)?;
    bytes
        .split(|&b| b == 0)
        .next()
        .filter(|path| !path.is_empty())
}

/// File pages at which mappings of a program or library begin, sorted: those of
/// its segments, and where its relocations are made read-only. `None` if it is
/// no such file.
pub fn mapping_starts(head: &[u8]) -> Option<Vec<u64>> {
    const PAGE: u64 = crate::model::PAGE_SIZE;
    let mut starts: Vec<u64> = segments(head)?
        .filter_map(|segment| match segment.kind {
            LOAD => Some(segment.offset / PAGE),
            RELRO => Some(segment.offset.checked_add(segment.memory_size)? / PAGE),
            _ => None,
        })
        .collect();
    starts.sort_unstable();
    starts.dedup();
    (!starts.is_empty()).then_some(starts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn own_head() -> Vec<u8> {
        let mut own = std::fs::read("/proc/self/exe").expect("own program");
        own.truncate(4096);
        own
    }

    #[test]
    fn scripts_and_programs_name_their_interpreter() {
        assert_eq!(interpreter(b"#! /bin/sh -e\nrest"), Some(&b"/bin/sh"[..]));
        assert_eq!(interpreter(b"#!/bin/s\0h\n"), Some(&b"/bin/s"[..]));
        assert_eq!(interpreter(b"plain text"), None);
        if let Some(path) = interpreter(&own_head()) {
            assert!(
                path.starts_with(b"/lib"),
                "{}",
                String::from_utf8_lossy(path)
            );
        }
    }

    #[test]
    fn a_program_is_mapped_where_its_head_says() {
        let starts = mapping_starts(&own_head()).expect("an ELF file");
        let exe = std::fs::read_link("/proc/self/exe").expect("own path");
        let maps = std::fs::read_to_string("/proc/self/maps").expect("maps");
        let mut mapped: Vec<u64> = maps
            .lines()
            .filter(|line| line.ends_with(exe.to_str().expect("UTF-8")))
            .filter_map(|line| line.split(' ').nth(2))
            .map(|offset| u64::from_str_radix(offset, 16).expect("hexadecimal") / 4096)
            .collect();
        mapped.sort_unstable();
        mapped.dedup();
        assert!(!mapped.is_empty());
        assert!(
            mapped.iter().all(|page| starts.contains(page)),
            "{mapped:?} {starts:?}"
        );
        assert_eq!(mapping_starts(b"\x7fELF\x02\x01"), None);
        assert_eq!(mapping_starts(b"plain text"), None);
    }

    proptest! {
        #[test]
        fn any_head_is_survived(mut head in proptest::collection::vec(any::<u8>(), 0..256), elf in any::<bool>()) {
            if elf && head.len() > 6 {
                head[..6].copy_from_slice(b"\x7fELF\x02\x01");
            }
            let _ = interpreter(&head);
            let _ = mapping_starts(&head);
        }
    }
}
