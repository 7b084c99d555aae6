//! tmp
#[test]
fn candidates() {
    let text = std::fs::read_to_string("/proc/kallsyms").expect("kallsyms");
    for line in text.lines() {
        let name = line.split_whitespace().nth(2).unwrap_or("");
        let base = name.split('.').next().unwrap_or("");
        if [
            "filemap_read",
            "filemap_get_pages",
            "filemap_get_read_batch",
            "generic_file_buffered_read",
            "generic_file_buffered_read_get_pages",
            "filemap_fault",
            "filemap_map_pages",
            "filemap_splice_read",
            "generic_file_splice_read",
            "mark_page_accessed",
            "folio_mark_accessed",
            "bpf_get_current_task_btf",
            "bpf_charge_memlock",
            "bpf_map_charge_init",
            "do_fault_around",
            "pagecache_get_page",
            "exc_page_fault",
        ]
        .contains(&base)
        {
            eprintln!("{line}");
        }
    }
    let btf = std::fs::read("/sys/kernel/btf/vmlinux").expect("btf");
    for name in [
        "filemap_read",
        "filemap_get_pages",
        "filemap_get_read_batch",
        "generic_file_buffered_read",
        "filemap_fault",
        "filemap_map_pages",
        "filemap_splice_read",
        "bpf_get_current_task_btf",
        "bpf_charge_memlock",
        "bpf_map_charge_init",
        "bpf_map_charge_memlock",
    ] {
        let needle = [b"\0", name.as_bytes(), b"\0"].concat();
        eprintln!(
            "btf string {name}: {}",
            btf.windows(needle.len()).any(|w| w == needle)
        );
    }
}
