//! Sizes as people write them.

/// `2GiB`, `500MB`, `4096`, with binary (KiB, MiB, GiB, TiB; K, M, G, T) or
/// decimal units (kB, MB, GB, TB).
///
/// # Errors
/// What is wrong with it.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let (number, unit) = number_and_unit(text)?;
    let factor: f64 = match unit {
        "" | "B" => 1.0,
        "K" | "KiB" | "Ki" => 1024.0,
        "M" | "MiB" | "Mi" => 1048576.0,
        "G" | "GiB" | "Gi" => 1073741824.0,
        "T" | "TiB" | "Ti" => 1099511627776.0,
        "kB" | "KB" => 1e3,
        "MB" => 1e6,
        "GB" => 1e9,
        "TB" => 1e12,
        other => {
            return Err(format!(
                "unknown unit `{other}`: use KiB, MiB, GiB or bytes"
            ));
        }
    };
    let bytes = number * factor;
    if bytes > u64::MAX as f64 {
        return Err(format!("`{text}` is too large"));
    }
    Ok(bytes as u64)
}

/// The number that a text starts with, and what follows it, without white space around.
///
/// # Errors
/// It starts with no number.
pub fn number_and_unit(text: &str) -> Result<(f64, &str), String> {
    let digits = text
        .find(|c: char| !(c.is_ascii_digit() || c == '.'))
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number = number
        .parse()
        .map_err(|_| format!("`{text}` does not start with a number"))?;
    Ok((number, unit.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        assert_eq!(parse_size("2GiB"), Ok(2 << 30));
        assert_eq!(parse_size("500MB"), Ok(500_000_000));
        assert_eq!(parse_size("17"), Ok(17));
        assert!(parse_size("2 parsecs").is_err());
        assert!(parse_size("GiB").is_err());
        assert!(parse_size("-1").is_err());
        assert!(parse_size("").is_err());
    }
}
