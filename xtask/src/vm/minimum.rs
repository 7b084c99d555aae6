//! The oldest kernel that each probe's docs name, held against the kernels of the matrix: on
//! one that is older the probe must not attach, on every other it must.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};

/// Where the probes' sources lie.
const SOURCES: &str = "ebpf/probes/src";

/// How a fact is called that lists the probes that attach.
const FACT: &str = "probes that attach";

const HEADING: &str = "/// # Minimum kernel";

/// A kernel's version: major, minor.
type Version = (u32, u32);

/// From which kernel on a probe attaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Minimum {
    x86_64: Version,
    /// `None` where it never does.
    arm64: Option<Version>,
}

/// What the docs of all probes say, by program.
#[derive(Debug, Default)]
pub struct Minimums(BTreeMap<String, Minimum>);

/// `6.12.117+deb13-amd64` and `6.12`.
fn version(text: &str) -> Option<Version> {
    let mut parts = text.splitn(3, '.');
    let major = parts.next()?.parse().ok()?;
    let minor = parts.next()?;
    let end = minor.find(|c: char| !c.is_ascii_digit());
    let minor = minor[..end.unwrap_or(minor.len())].parse().ok()?;
    Some((major, minor))
}

impl Minimum {
    /// `5.5`, `5.5; arm64: 6.4` or `5.5; arm64: never`, and behind a comma or a point why.
    fn parse(line: &str) -> Option<Self> {
        let x86_64 = version(line)?;
        let arm64 = match line.split_once("; arm64: ") {
            None => Some(x86_64),
            Some((_, rest)) if rest.starts_with("never") => None,
            Some((_, rest)) => Some(version(rest)?),
        };
        Some(Self { x86_64, arm64 })
    }

    fn is_met(self, arm64: bool, kernel: Version) -> bool {
        let least = if arm64 { self.arm64 } else { Some(self.x86_64) };
        least.is_some_and(|least| kernel >= least)
    }
}

/// Whether a line is the attribute that makes the function below it a probe.
fn is_attribute(line: &str) -> bool {
    let kinds = [
        "btf_tracepoint",
        "raw_tracepoint",
        "fentry",
        "fexit",
        "kprobe",
    ];
    let name = line.strip_prefix("#[").unwrap_or_default();
    kinds.iter().any(|kind| {
        let rest = name.strip_prefix(kind);
        rest.is_some_and(|rest| rest.starts_with(['(', ']']))
    })
}

impl Minimums {
    /// What the probes of the source tree `root` say.
    ///
    /// # Errors
    /// A source can't be read, or a probe does not say it.
    pub fn read(root: &Path) -> Result<Self> {
        let dir = root.join(SOURCES);
        let mut known = Self::default();
        for entry in
            std::fs::read_dir(&dir).with_context(|| format!("reading {}", dir.display()))?
        {
            let path = entry?.path();
            let source = std::fs::read_to_string(&path);
            let source = source.with_context(|| format!("reading {}", path.display()))?;
            known
                .add(&source)
                .with_context(|| path.display().to_string())?;
        }
        Ok(known)
    }

    /// Adds what one source file says.
    ///
    /// # Errors
    /// A probe whose docs name no minimum kernel, or one that can't be read.
    fn add(&mut self, source: &str) -> Result<()> {
        let lines: Vec<&str> = source.lines().map(str::trim).collect();
        for (at, _) in lines
            .iter()
            .enumerate()
            .filter(|(_, line)| is_attribute(line))
        {
            let after = lines[at..].iter();
            let name = after
                .filter_map(|line| line.split_once("fn "))
                .find_map(|(_, rest)| rest.split('(').next())
                .context("an attribute without a function")?;
            let docs = lines[..at].iter().rev();
            let docs: Vec<&str> = docs
                .take_while(|line| line.starts_with("///"))
                .copied()
                .collect();
            let heading = docs.iter().position(|line| *line == HEADING);
            let said = heading.and_then(|heading| docs.get(heading.checked_sub(1)?));
            let said = said.with_context(|| format!("{name}: no `{HEADING}` in its docs"))?;
            let said = said.trim_start_matches("///").trim();
            let Some(minimum) = Minimum::parse(said) else {
                bail!("{name}: no version in the minimum kernel `{said}`");
            };
            let twice = self.0.insert(name.to_owned(), minimum).is_some();
            ensure!(!twice, "{name}: two probes are called so");
        }
        Ok(())
    }

    /// What is wrong with a fact, if it is the one about this. `kernel` is the column of
    /// the matrix, `release` what the kernel says of itself.
    pub fn complaints(&self, kernel: &str, release: &str, fact: &str, value: &str) -> Vec<String> {
        if fact != FACT {
            return Vec::new();
        }
        let Some(at) = version(release) else {
            return vec![format!("no version in the kernel's release `{release}`")];
        };
        let attached: BTreeSet<&str> = value.split_whitespace().collect();
        let unknown = attached.iter().filter(|name| !self.0.contains_key(**name));
        let unknown = unknown.map(|name| format!("{name}: no such probe in {SOURCES}"));
        let wrong = self.0.iter().filter_map(|(name, minimum)| {
            let expected = minimum.is_met(kernel == "arm64", at);
            let found = attached.contains(name.as_str());
            (found != expected).then(|| {
                let does = if found { "attaches" } else { "does not attach" };
                format!("{name} {does} on {release}, which its minimum kernel in {SOURCES} denies")
            })
        });
        unknown.chain(wrong).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: &str = "
        /// Reads.
        /// # Minimum kernel
        /// 6.12, where the tracepoint appeared.
        /// # Cost
        /// Little.
        #[btf_tracepoint(function = \"reads\")]
        pub(crate) fn reads(ctx: BtfTracePointContext) -> i32 {

        /// # Minimum kernel
        /// 5.5; arm64: 6.4.
        #[fentry(function = \"reads\")]
        fn entry(ctx: FEntryContext) -> i32 {

        /// # Minimum kernel
        /// 5.5; arm64: never, which has no such tracepoint.
        #[raw_tracepoint(tracepoint = \"faults\")]
        fn faults(ctx: RawTracePointContext) -> i32 {
    ";

    fn known() -> Minimums {
        let mut known = Minimums::default();
        known.add(SOURCE).expect("readable");
        known
    }

    #[test]
    fn what_docs_and_kernels_disagree_on_is_named() {
        let known = known();
        let said = |kernel: &str, release: &str, value: &str| {
            known.complaints(kernel, release, FACT, value)
        };
        let none: [String; 0] = [];
        assert_eq!(said("6.1", "6.1.0-50-amd64", "entry faults"), none);
        assert_eq!(
            said("newest", "7.2.13+deb14-amd64", "faults reads entry"),
            none
        );
        assert_eq!(said("arm64", "6.12.117+deb13-arm64", "reads entry"), none);
        assert_eq!(said("arm64", "6.1.0-50-arm64", ""), none);

        for (release, value, first) in [
            ("6.1.0", "entry faults reads", "reads attaches on 6.1.0"),
            ("6.12.0", "entry faults", "reads does not attach on 6.12.0"),
            ("6.1.0", "entry faults new", "new: no such probe"),
            ("x", "", "no version"),
        ] {
            let said = said("6.1", release, value);
            assert_eq!(said.len(), 1, "{said:?}");
            assert!(said[0].starts_with(first), "{said:?}");
        }
        assert_eq!(known.complaints("6.1", "6.1.0", "hook reads", ""), none);
    }

    /// All probes of the tree say it, and can be read.
    #[test]
    fn the_probes_of_this_tree_say_it() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"))
            .parent()
            .expect("a root");
        let known = Minimums::read(root).expect("readable");
        assert!(known.0.contains_key("read_probe"), "{known:?}");
    }

    #[test]
    fn probes_that_do_not_say_it_are_refused() {
        for docs in [
            "",
            "/// # Minimum kernel\n",
            "/// # Minimum kernel\n/// Any.\n",
        ] {
            let source = format!("{docs}#[kprobe]\nfn probe(ctx: ProbeContext) -> u32 {{\n");
            let error = Minimums::default().add(&source).expect_err(docs);
            assert!(error.to_string().starts_with("probe: "), "{error}");
        }
        known().add(SOURCE).expect_err("twice");
    }
}
