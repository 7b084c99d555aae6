//! A real program that is installed here, with arguments that make it work.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::run;
use crate::workspace::on_path;

/// A program to compare starts of.
#[derive(Debug)]
pub struct Sample {
    /// Its name.
    pub name: &'static str,
    /// What it does.
    pub what: &'static str,
    /// Program and arguments.
    pub command: Vec<OsString>,
}

/// A small Python lacks some of these.
const PYTHON: &str = "\
import importlib
for name in 'asyncio ctypes decimal email.message http.client json logging multiprocessing \
sqlite3 ssl unittest.mock urllib.request xml.dom.minidom zipfile'.split():
    try:
        importlib.import_module(name)
    except ImportError:
        pass
";
const NODE: &str =
    "for (const m of require('module').builtinModules) { try { require(m) } catch {} }";
const RUST: &str = "fn main() { println!(\"{:?}\", std::env::args().collect::<Vec<_>>()); }\n";
const JAVA: &str = "public class Hello { public static void main(String[] a) { \
    System.out.println(java.util.stream.IntStream.range(0, 9).boxed().toList()); } }\n";

/// The first that is there, of those whose start has most to gain. Files that
/// it needs are written into `dir`.
pub fn choose(dir: &Path) -> Result<Sample> {
    fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))?;
    let candidates = [rustc, node, python, java, git];
    for candidate in candidates {
        if let Some(sample) = candidate(dir)? {
            return Ok(sample);
        }
    }
    anyhow::bail!("none of rustc, node, python3, java and git is installed")
}

fn sample(
    name: &'static str,
    what: &'static str,
    program: Option<PathBuf>,
    arguments: impl IntoIterator<Item = impl Into<OsString>>,
) -> Option<Sample> {
    let command =
        std::iter::once(program?.into_os_string()).chain(arguments.into_iter().map(Into::into));
    Some(Sample {
        name,
        what,
        command: command.collect(),
    })
}

/// The Rust compiler itself, not rustup's proxy in front of it.
pub(crate) fn compiler() -> Option<PathBuf> {
    let sysroot = run::quiet_output(Command::new("rustc").args(["--print", "sysroot"]));
    sysroot
        .map(|dir| Path::new(&dir).join("bin/rustc"))
        .filter(|p| p.exists())
}

fn rustc(dir: &Path) -> Result<Option<Sample>> {
    let source = write(dir, "hello.rs", RUST)?;
    let arguments: [OsString; 6] = [
        "--edition".into(),
        "2021".into(),
        "-O".into(),
        "-o".into(),
        dir.join("hello").into(),
        source.into(),
    ];
    Ok(sample(
        "rustc",
        "compiles and links a small program",
        compiler(),
        arguments,
    ))
}

fn node(_: &Path) -> Result<Option<Sample>> {
    Ok(sample(
        "node",
        "loads all of its built-in modules",
        on_path("node"),
        ["-e", NODE],
    ))
}

fn python(_: &Path) -> Result<Option<Sample>> {
    Ok(sample(
        "python3",
        "imports a dozen modules",
        on_path("python3"),
        ["-c", PYTHON],
    ))
}

fn java(dir: &Path) -> Result<Option<Sample>> {
    let source = write(dir, "Hello.java", JAVA)?;
    Ok(sample(
        "java",
        "compiles and runs a class",
        on_path("java"),
        [source],
    ))
}

fn git(dir: &Path) -> Result<Option<Sample>> {
    let arguments: [OsString; 5] = [
        "init".into(),
        "--quiet".into(),
        "--bare".into(),
        "--".into(),
        dir.join("git").into(),
    ];
    Ok(sample(
        "git",
        "makes a repository",
        on_path("git"),
        arguments,
    ))
}

fn write(dir: &Path, name: &str, text: &str) -> Result<PathBuf> {
    let file = dir.join(name);
    fs::write(&file, text).with_context(|| format!("writing {}", file.display()))?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_chosen_here_really_runs() {
        let dir = std::env::temp_dir().join(format!("xtask-sample-{}", std::process::id()));
        let sample = choose(&dir).expect("a toolchain runs this test, so rustc is there");
        run::run(Command::new(&sample.command[0]).args(&sample.command[1..])).expect("it works");
        fs::remove_dir_all(&dir).expect("it was made above");
    }
}
