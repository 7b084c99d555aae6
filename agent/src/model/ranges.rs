//! Ranges of pages.

/// What ranges (from the first page, to before the second) cover together: in order, apart
/// from one another.
pub fn union(mut ranges: Vec<(u64, u64)>) -> Vec<(u64, u64)> {
    ranges.sort_unstable();
    let mut out: Vec<(u64, u64)> = Vec::with_capacity(ranges.len());
    for (start, end) in ranges {
        match out.last_mut() {
            Some(last) if start <= last.1 => last.1 = last.1.max(end),
            _ => out.push((start, end)),
        }
    }
    out
}

/// Pages of ranges that are apart from one another.
pub fn total(ranges: &[(u64, u64)]) -> u64 {
    ranges.iter().map(|(start, end)| end - start).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_overlaps_or_touches_is_one() {
        let of = |ranges: &[(u64, u64)]| union(ranges.to_vec());
        assert_eq!(of(&[(4, 6), (0, 2), (1, 3), (2, 4)]), [(0, 6)]);
        assert_eq!(of(&[(2, 3), (0, 1)]), [(0, 1), (2, 3)]);
        assert_eq!(of(&[(0, 9), (2, 3)]), [(0, 9)]);
        assert_eq!(of(&[]), []);
        assert_eq!(total(&[(0, 1), (2, 4)]), 3);
    }
}
