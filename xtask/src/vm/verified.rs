//! What the verifier goes through for each hook, held against the table in the docs: a
//! program that grows takes longer to load everywhere, and at some size no kernel takes it.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, Result};

/// The page, and the beginning of its table's first row.
const PAGE: &str = "docs/kernels.md";
const HEAD: &str = "| hook | 6.1 |";

/// How a fact is called that a test tells of a hook.
const FACT: &str = "verified ";

/// More than so many percent of what the page says is too many.
const MOST: u64 = 110;

/// Instructions, by column and hook.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Verified(BTreeMap<(String, String), u64>);

fn cells(row: &str) -> impl Iterator<Item = &str> {
    row.trim_matches('|').split('|').map(str::trim)
}

impl Verified {
    /// What the page of the source tree `root` says.
    ///
    /// # Errors
    /// The page can't be read.
    pub fn read(root: &Path) -> Result<Self> {
        let page = root.join(PAGE);
        let text = std::fs::read_to_string(&page);
        let text = text.with_context(|| format!("reading {}", page.display()))?;
        Ok(Self::parse(&text))
    }

    /// What the page says; nothing where it has no such table.
    fn parse(page: &str) -> Self {
        let mut rows = page.lines().skip_while(|line| !line.starts_with(HEAD));
        let columns: Vec<&str> = rows.next().map(cells).into_iter().flatten().collect();
        let mut known = BTreeMap::new();
        for row in rows.take_while(|line| line.starts_with('|')) {
            let mut row = cells(row);
            let hook = row.next().unwrap_or_default();
            for (column, cell) in columns.iter().skip(1).zip(row) {
                if let Ok(count) = cell.parse() {
                    known.insert(((*column).to_owned(), hook.to_owned()), count);
                }
            }
        }
        Self(known)
    }

    /// What is wrong with a fact, if it is one of these.
    pub fn complaint(&self, kernel: &str, fact: &str, value: &str) -> Option<String> {
        let name = fact.strip_prefix(FACT)?;
        let (hook, column) = match name.split_once(" (") {
            Some((hook, variant)) => (hook, format!("{kernel}, {}", variant.trim_end_matches(')'))),
            None if kernel == "arm64" => (name, "6.12, arm64".to_owned()),
            None => (name, kernel.to_owned()),
        };
        let known = *self.0.get(&(column.clone(), hook.to_owned()))?;
        let found: u64 = value.trim().parse().ok()?;
        (found.saturating_mul(100) > known.saturating_mul(MOST)).then(|| {
            format!(
                "{hook}: the verifier goes through {found} instructions, {known} in the column \
                 `{column}` of {PAGE}: put the number there if it has to be"
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_grew_is_named() {
        let page = include_str!("../../../docs/kernels.md");
        let known = Verified::parse(page);
        let of = |column: &str, hook: &str| known.0.get(&(column.to_owned(), hook.to_owned()));
        let sys_exit = *of("6.12", "sys_exit").expect("in the table");
        assert!(of("6.12, fentry", "filemap_get_pages") > of("6.12", "filemap_get_pages"));
        assert_eq!(of("6.12, arm64", "page_fault_kernel"), None);

        let complaint = |kernel: &str, fact: &str, count: u64| {
            known.complaint(kernel, fact, &count.to_string())
        };
        assert_eq!(complaint("6.12", "verified sys_exit", sys_exit), None);
        assert_eq!(
            complaint("6.12", "verified sys_exit", sys_exit * 11 / 10),
            None
        );
        for (kernel, fact) in [
            ("6.12", "verified sys_exit"),
            ("6.12", "verified sys_exit (kprobe)"),
            ("arm64", "verified sys_exit"),
        ] {
            let said = complaint(kernel, fact, sys_exit * 2).expect("twice as many");
            assert!(said.starts_with("sys_exit: "), "{said}");
        }
        // Others are not in the table.
        assert_eq!(complaint("newest", "verified sys_exit", 1 << 40), None);
        assert_eq!(complaint("6.12", "verified new", 1 << 40), None);
        assert_eq!(complaint("6.12", "hook sys_exit", 1 << 40), None);
        assert_eq!(Verified::parse("# Nothing"), Verified::default());
    }
}
