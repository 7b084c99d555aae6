//! The kernel programs inside this binary.

/// The ELF object of the kernel programs; `None` in a binary built without a
/// BPF toolchain (see `build.rs`).
pub fn object() -> Option<&'static [u8]> {
    if cfg!(headstart_no_probes) {
        return None;
    }
    Some(aya::include_bytes_aligned!(concat!(
        env!("OUT_DIR"),
        "/probes.o"
    )))
}

#[cfg(test)]
mod tests {
    #[test]
    fn an_object_that_is_there_is_a_bpf_elf() {
        let Some(object) = super::object() else {
            return;
        };
        assert_eq!(&object[..4], b"\x7fELF");
        assert_eq!(
            u16::from_le_bytes([object[18], object[19]]),
            247,
            "e_machine is not EM_BPF"
        );
    }
}
