//! `cargo xtask fuzz`: parsers of bytes from outside, under libFuzzer and
//! AddressSanitizer. What lies in `tests/fuzz/corpus` is tried first.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;

use anyhow::{Context, Result, bail};

use crate::packages::{self, FUZZ};
use crate::run;
use crate::sanitize::Instrumented;
use crate::workspace::Workspace;

/// Seconds for each target in `cargo xtask test`.
const BRIEFLY: u32 = 3;

/// `cargo xtask fuzz`
#[derive(Debug, clap::Args)]
pub struct Args {
    /// One of `tests/fuzz/targets`; all if not given
    target: Option<String>,
    /// How long each runs
    #[arg(long, value_name = "N", default_value_t = 300)]
    seconds: u32,
    /// Run the target once, on this input
    #[arg(long, value_name = "FILE", requires = "target")]
    input: Option<PathBuf>,
}

/// Builds the targets and runs them.
pub fn run(args: &Args) -> Result<()> {
    let Some(fuzz) = Fuzz::new()? else {
        bail!("see above")
    };
    let all = fuzz.targets()?;
    let chosen: Vec<String> = match &args.target {
        None => all,
        Some(target) if all.contains(target) => vec![target.clone()],
        Some(target) => bail!("no target `{target}`; there are {}", all.join(" ")),
    };
    let built = fuzz.build()?;
    if let (Some(input), [target]) = (&args.input, &chosen[..]) {
        return run::run(Command::new(built.join(target)).arg(input));
    }
    // Finds of earlier runs are where this one goes on.
    fuzz.run_all(&built, &chosen, args.seconds, &fuzz.directory.join("found"))
}

/// Every target for a few seconds, from the corpus alone.
pub fn briefly() -> Result<()> {
    let Some(fuzz) = Fuzz::new()? else {
        return Ok(());
    };
    fuzz.lint()?;
    let built = fuzz.build()?;
    let scratch = fuzz.directory.join("brief");
    match fs::remove_dir_all(&scratch) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("removing {}", scratch.display()));
        }
        _ => {}
    }
    fuzz.run_all(&built, &fuzz.targets()?, BRIEFLY, &scratch)
}

struct Fuzz {
    compiler: Instrumented,
    workspace: Workspace,
    /// The targets' workspace.
    sources: PathBuf,
    /// What runs leave behind.
    directory: PathBuf,
}

impl Fuzz {
    /// `None`, and said why, where this machine can't build them.
    fn new() -> Result<Option<Self>> {
        let Some(compiler) = Instrumented::find() else {
            return Ok(None);
        };
        if let Err(error) = packages::install(&packages::missing(FUZZ)) {
            println!("SKIPPED: fuzz targets: {error:#}");
            return Ok(None);
        }
        let workspace = Workspace::here();
        Ok(Some(Self {
            compiler,
            sources: workspace.root.join("tests/fuzz"),
            directory: workspace.target.join("fuzz"),
            workspace,
        }))
    }

    fn targets(&self) -> Result<Vec<String>> {
        let directory = self.sources.join("targets");
        let mut names = Vec::new();
        for entry in
            fs::read_dir(&directory).with_context(|| format!("listing {}", directory.display()))?
        {
            let path = entry?.path();
            names.extend(path.file_stem().map(|s| s.to_string_lossy().into_owned()));
        }
        names.sort();
        Ok(names)
    }

    /// Not instrumented, and where the agent's workspace is: what is known of dependencies
    /// there need not be found out again.
    fn lint(&self) -> Result<()> {
        let mut clippy = Command::new("cargo");
        clippy
            .args(["clippy", "--locked", "--manifest-path"])
            .arg(self.sources.join("Cargo.toml"))
            .arg("--target-dir")
            .arg(&self.workspace.target);
        run::run_merged(clippy.args(["--", "-D", "warnings"]))
    }

    /// The directory with the programs.
    fn build(&self) -> Result<PathBuf> {
        let mut cargo = self.compiler.cargo("build", &self.workspace);
        cargo
            .arg("--manifest-path")
            .arg(self.sources.join("Cargo.toml"));
        run::run_merged(&mut cargo)?;
        Ok(self.compiler.built(&self.workspace))
    }

    /// As many at once as there are processors.
    fn run_all(&self, built: &Path, targets: &[String], seconds: u32, found: &Path) -> Result<()> {
        let failed = Mutex::new(Vec::new());
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        run::at_once(threads, targets.iter().collect(), |target| {
            match self.run_one(built, target, seconds, found) {
                Ok(done) => println!("{target}: {done}"),
                Err(error) => {
                    println!("{target}: FAILED\n{error:#}");
                    if let Ok(mut failed) = failed.lock() {
                        failed.push(target.as_str());
                    }
                }
            }
        });
        let failed = failed.into_inner().unwrap_or_default();
        if !failed.is_empty() {
            bail!("fuzz targets that failed: {}", failed.join(" "));
        }
        Ok(())
    }

    /// libFuzzer's last word, or the end of what it said and how to see it again.
    fn run_one(&self, built: &Path, target: &str, seconds: u32, found: &Path) -> Result<String> {
        let found = found.join(target);
        fs::create_dir_all(&found).with_context(|| format!("making {}", found.display()))?;
        let failures = self.directory.join("failures");
        fs::create_dir_all(&failures).with_context(|| format!("making {}", failures.display()))?;
        let log = self.directory.join(format!("{target}.log"));
        let output = File::create(&log).with_context(|| format!("writing {}", log.display()))?;
        let status = Command::new(built.join(target))
            .arg(&found)
            .arg(self.sources.join("corpus").join(target))
            .arg(format!("-max_total_time={seconds}"))
            // An input that takes this long is a find; a slow machine is not.
            .args(["-timeout=30", "-rss_limit_mb=2048"])
            .arg(format!("-artifact_prefix={}/{target}-", failures.display()))
            .stdin(Stdio::null())
            .stdout(output.try_clone().context("copying a descriptor")?)
            .stderr(output)
            .status()
            .with_context(|| format!("starting the fuzz target {target}"))?;
        let said = fs::read(&log).with_context(|| format!("reading {}", log.display()))?;
        let said = String::from_utf8_lossy(&said);
        if status.success() {
            return Ok(last_word(&said));
        }
        let lines: Vec<&str> = said.lines().collect();
        bail!(
            "{}\n{status}; all of it is in {}. See it again by \
             `cargo xtask fuzz {target} --input FILE`; its fix puts the input into \
             tests/fuzz/corpus/{target}",
            lines[lines.len().saturating_sub(40)..].join("\n"),
            log.display()
        )
    }
}

/// Runs and coverage, from `#17 DONE cov: 35 ft: 40 corp: …` and the line `Done…`.
fn last_word(said: &str) -> String {
    let coverage = said
        .lines()
        .rev()
        .find_map(|line| Some(line.split_once("cov: ")?.1.split(' ').next()?.to_owned()));
    let done = said.lines().rev().find(|line| line.starts_with("Done "));
    format!(
        "{}, {} places covered",
        done.unwrap_or("Done"),
        coverage.as_deref().unwrap_or("no")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_and_coverage_are_found() {
        let said = "#1\tINITED cov: 12 ft: 13\n#900\tDONE   cov: 35 ft: 40 corp: 3/9b\n\
                    Done 900 runs in 3 second(s)\n";
        let word = "Done 900 runs in 3 second(s), 35 places covered";
        assert_eq!(last_word(said), word);
    }

    #[test]
    fn every_target_is_declared_and_has_seeds() {
        let sources = Workspace::here().root.join("tests/fuzz");
        let manifest = fs::read_to_string(sources.join("Cargo.toml")).expect("the manifest");
        for entry in fs::read_dir(sources.join("targets")).expect("targets") {
            let path = entry.expect("a target").path();
            let name = path.file_stem().expect("a name").to_string_lossy();
            assert!(manifest.contains(&format!("name = \"{name}\"")), "{name}");
            let seeds = fs::read_dir(sources.join("corpus").join(&*name)).expect("seeds");
            assert!(seeds.count() > 0, "{name}");
        }
    }
}
