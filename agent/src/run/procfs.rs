//! Texts that the kernel prints about processes and cgroups, taken apart. Pure.
//!
//! Source of the formats: `proc_pid_maps(5)`, `proc_pid_status(5)`, and the
//! kernel's Documentation/accounting/psi.rst.

use std::ops::Range;

/// Address range and name (empty for anonymous memory) of each mapping in the
/// text of `/proc/PID/maps`. Lines of another form are passed over.
pub fn mappings(maps: &[u8]) -> impl Iterator<Item = (Range<u64>, &[u8])> {
    maps.split(|&b| b == b'\n').filter_map(mapping)
}

/// `7f00-7f10 r-xp 00000000 fe:00 1234    /usr/lib/x.so`
fn mapping(line: &[u8]) -> Option<(Range<u64>, &[u8])> {
    let range = std::str::from_utf8(line.split(|&b| b == b' ').next()?).ok()?;
    let (start, end) = range.split_once('-')?;
    let start = u64::from_str_radix(start, 16).ok()?;
    let end = u64::from_str_radix(end, 16).ok()?;
    // Five fields, then the name, which may hold spaces.
    let mut rest = line;
    for _ in 0..5 {
        let space = rest.iter().position(|&b| b == b' ')?;
        rest = rest[space..].trim_ascii_start();
    }
    (start <= end).then_some((start..end, rest))
}

/// The value of a field of `/proc/PID/status`: `Tgid` of `Tgid:\t17`.
pub fn status_field<'t>(status: &'t str, name: &str) -> Option<&'t str> {
    let value = |line: &'t str| line.strip_prefix(name)?.strip_prefix(':');
    status.lines().find_map(value).map(str::trim)
}

/// µs for which some task was stalled, from the text of a pressure file.
pub fn stall_us(pressure: &str) -> Option<u64> {
    let some = pressure.lines().find(|line| line.starts_with("some"))?;
    some.split("total=").nth(1)?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_maps_are_told_apart() {
        let maps = b"7f00-8f00 r-xp 00000000 fe:00 1234                 /usr/lib/a b.so\n\
                     7f00-8f00 rw-p 00000000 00:00 0 \n\
                     7ffd000-7ffd200 r-xp 00000000 00:00 0                          [vdso]\n\
                     \nzz-1 r\n8f00-7f00 r-xp 00000000 fe:00 1234 /x\n";
        let found: Vec<_> = mappings(maps).collect();
        assert_eq!(
            found,
            [
                (0x7f00..0x8f00, &b"/usr/lib/a b.so"[..]),
                (0x7f00..0x8f00, b""),
                (0x7ffd000..0x7ffd200, b"[vdso]"),
            ]
        );
    }

    #[test]
    fn fields_and_stalls_are_found() {
        let status = "Name:\tTgid\nTgid:\t17\nSeccomp:\t0\nSeccomp_filters:\t1\n";
        assert_eq!(status_field(status, "Tgid"), Some("17"));
        assert_eq!(status_field(status, "Seccomp"), Some("0"));
        assert_eq!(status_field(status, "Sec"), None);
        let pressure = "some avg10=0.00 avg60=0.00 avg300=0.00 total=4711\n\
                        full avg10=0.00 avg60=0.00 avg300=0.00 total=12\n";
        assert_eq!(stall_us(pressure), Some(4711));
        assert_eq!(stall_us("full total=1\n"), None);
        let text = "some avg10=1.50 avg60=0.00 avg300=0.00 total=12\nfull avg10=0 total=7\n";
        assert_eq!(stall_us(text), Some(12));
        assert_eq!(stall_us("full total=7"), None);
        assert_eq!(stall_us("some total=x"), None);
    }
}
