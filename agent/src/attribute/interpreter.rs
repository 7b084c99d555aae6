//! The interpreter that the kernel looks up when it executes a file: no system
//! call names it.

/// Path of the interpreter named in the first bytes of a program: `#!` line, or
/// PT_INTERP of a 64-bit little-endian ELF file (`elf(5)`), when it lies in
/// `head`.
pub(super) fn interpreter(head: &[u8]) -> Option<&[u8]> {
    if let Some(line) = head.strip_prefix(b"#!") {
        let line = line.split(|&b| b == b'\n').next()?;
        return line
            .split(|&b| b == b' ' || b == b'\t')
            .find(|word| !word.is_empty());
    }
    if head.get(..6)? != b"\x7fELF\x02\x01" {
        return None;
    }
    let word = |at: usize| {
        Some(u64::from_le_bytes(
            head.get(at..at.checked_add(8)?)?.try_into().ok()?,
        ))
    };
    let half = |at: usize| {
        Some(u16::from_le_bytes(
            head.get(at..at.checked_add(2)?)?.try_into().ok()?,
        ))
    };
    let table = usize::try_from(word(0x20)?).ok()?;
    let (size, count) = (usize::from(half(0x36)?), usize::from(half(0x38)?));
    for i in 0..count {
        let header = table.checked_add(i.checked_mul(size)?)?;
        let kind = u32::from_le_bytes(head.get(header..header.checked_add(4)?)?.try_into().ok()?);
        if kind == 3 {
            let from = usize::try_from(word(header + 8)?).ok()?;
            let len = usize::try_from(word(header + 0x20)?).ok()?;
            let bytes = head.get(from..from.checked_add(len)?)?;
            return bytes
                .split(|&b| b == 0)
                .next()
                .filter(|path| !path.is_empty());
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn scripts_and_programs_name_their_interpreter() {
        assert_eq!(interpreter(b"#! /bin/sh -e\nrest"), Some(&b"/bin/sh"[..]));
        assert_eq!(interpreter(b"plain text"), None);
        let own = std::fs::read("/proc/self/exe").expect("own program");
        if let Some(path) = interpreter(&own[..own.len().min(4096)]) {
            assert!(
                path.starts_with(b"/lib"),
                "{}",
                String::from_utf8_lossy(path)
            );
        }
    }

    proptest! {
        #[test]
        fn any_head_is_survived(mut head in proptest::collection::vec(any::<u8>(), 0..256), elf in any::<bool>()) {
            if elf && head.len() > 6 {
                head[..6].copy_from_slice(b"\x7fELF\x02\x01");
            }
            let _ = interpreter(&head);
        }
    }
}
