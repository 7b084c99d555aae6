//! Real programs to measure starts of, and what they work on.
//!
//! What they need is made once, below one directory, and kept. Programs are
//! named by their real files: a shim in front of one (rustup's, pyenv's) has a
//! start of its own.

use std::ffi::OsString;
use std::fs;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::load::sample;
use crate::run;
use crate::workspace::on_path;

/// A program, ready to be started.
#[derive(Debug)]
pub struct Program {
    /// Its name here.
    pub name: &'static str,
    /// What it does.
    pub what: &'static str,
    /// Program and arguments.
    pub command: Vec<OsString>,
}

/// Files of the tree whose status git looks up.
const TREE_FILES: u32 = 20_000;
/// Size of the file that one program reads through.
const LARGE_BYTES: u64 = 500_000_000;

/// Makes ready in a directory; `None` where the program is not installed.
type Prepare = fn(&Path) -> Result<Option<Vec<OsString>>>;

const PROGRAMS: [(&str, &str, Prepare); 8] = [
    ("rustc", "compiles and links a small program", rustc),
    ("node", "`node -e 1`", node),
    (
        "python",
        "imports json, ssl, asyncio, sqlite3, email",
        python,
    ),
    ("javac", "`javac -version`", javac),
    ("clang", "compiles a small C program to an object", clang),
    ("git", "`git status` on 20,000 files", git),
    ("java", "runs a small jar", java),
    ("wc", "`wc -l` of 500 MB", wc),
];

/// Names of all programs.
pub fn names() -> impl Iterator<Item = &'static str> {
    PROGRAMS.iter().map(|(name, ..)| *name)
}

/// The named ones that are installed, or all that are; what they need is made
/// in `dir`.
pub fn prepare(dir: &Path, wanted: &[String]) -> Result<Vec<Program>> {
    fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))?;
    if let Some(unknown) = wanted
        .iter()
        .find(|w| !names().any(|name| name == w.as_str()))
    {
        let known: Vec<_> = names().collect();
        bail!("no program `{unknown}`: there are {}", known.join(", "));
    }
    let mut found = Vec::new();
    for (name, what, prepare) in PROGRAMS {
        if !wanted.is_empty() && !wanted.iter().any(|w| w == name) {
            continue;
        }
        match prepare(dir).with_context(|| format!("preparing {name}"))? {
            Some(command) => found.push(Program {
                name,
                what,
                command,
            }),
            None => eprintln!("SKIPPED: {name} is not installed"),
        }
    }
    Ok(found)
}

/// A command line, if its program is there.
fn command<const N: usize>(program: Option<PathBuf>, args: [OsString; N]) -> Option<Vec<OsString>> {
    let program = program?.canonicalize().ok()?;
    Some(
        std::iter::once(program.into_os_string())
            .chain(args)
            .collect(),
    )
}

fn rustc(dir: &Path) -> Result<Option<Vec<OsString>>> {
    let source = write(dir, "hello.rs", "fn main() { println!(\"hello\"); }\n")?;
    let output = dir.join("hello");
    Ok(command(
        sample::compiler(),
        ["-o".into(), output.into(), source.into()],
    ))
}

fn node(_: &Path) -> Result<Option<Vec<OsString>>> {
    Ok(command(on_path("node"), ["-e".into(), "1".into()]))
}

fn python(_: &Path) -> Result<Option<Vec<OsString>>> {
    let real = run::quiet_output(
        Command::new("python3").args(["-c", "import sys; print(sys.executable)"]),
    );
    // Not made canonical: an interpreter finds its library from its own name.
    Ok(real.map(|real| {
        let imports = "import json, ssl, asyncio, sqlite3, email";
        vec![real.into(), "-c".into(), imports.into()]
    }))
}

fn javac(_: &Path) -> Result<Option<Vec<OsString>>> {
    Ok(command(on_path("javac"), ["-version".into()]))
}

fn clang(dir: &Path) -> Result<Option<Vec<OsString>>> {
    let text = "#include <stdio.h>\nint main(void) { return puts(\"hello\") < 0; }\n";
    let source = write(dir, "hello.c", text)?;
    let output = dir.join("hello.o");
    let args = ["-c".into(), source.into(), "-o".into(), output.into()];
    Ok(command(on_path("clang"), args))
}

fn git(dir: &Path) -> Result<Option<Vec<OsString>>> {
    let Some(git) = on_path("git") else {
        return Ok(None);
    };
    let tree = dir.join("tree");
    if !tree.join(".git/complete").exists() {
        make_tree(&git, &tree)?;
    }
    // Without optional locks, status leaves the index as it is.
    let args = [
        "--no-optional-locks".into(),
        "-C".into(),
        tree.into(),
        "status".into(),
        "--porcelain".into(),
    ];
    Ok(command(Some(git), args))
}

fn make_tree(git: &Path, tree: &Path) -> Result<()> {
    if tree.exists() {
        fs::remove_dir_all(tree).context("removing a tree that was not finished")?;
    }
    for number in 0..TREE_FILES {
        let directory = tree.join(format!(
            "part-{:02}/section-{:02}",
            number / 1000,
            number / 50 % 20
        ));
        if number % 50 == 0 {
            fs::create_dir_all(&directory)?;
        }
        let text = format!("{number}\n").repeat(1 + number as usize % 700);
        fs::write(directory.join(format!("file-{number}.txt")), text)?;
    }
    let git = |args: &[&str]| {
        let identity = ["-c", "user.name=bench", "-c", "user.email=bench@localhost"];
        run::captured(
            Command::new(git)
                .arg("-C")
                .arg(tree)
                .args(identity)
                .args(args),
        )
    };
    git(&["init", "--quiet"])?;
    git(&["add", "--all"])?;
    git(&["commit", "--quiet", "--message", "All files"])?;
    // Files as new as the index would be read again by every status.
    git(&["status", "--porcelain"])?;
    fs::write(tree.join(".git/complete"), "").context("marking the tree as finished")
}

fn java(dir: &Path) -> Result<Option<Vec<OsString>>> {
    let (Some(java), Some(javac), Some(jar)) = (on_path("java"), on_path("javac"), on_path("jar"))
    else {
        return Ok(None);
    };
    let file = dir.join("hello.jar");
    if !file.exists() {
        let source = write(dir, "Hello.java", JAVA)?;
        let classes = dir.join("classes");
        run::captured(Command::new(javac).arg("-d").arg(&classes).arg(source))?;
        run::captured(
            Command::new(jar)
                .args(["--create", "--main-class", "Hello", "--file"])
                .arg(&file)
                .arg("-C")
                .arg(&classes)
                .arg("."),
        )?;
    }
    Ok(command(Some(java), ["-jar".into(), file.into()]))
}

const JAVA: &str = "\
import java.util.*;
import java.util.regex.Pattern;
import java.util.stream.*;
public class Hello {
    public static void main(String[] args) {
        Map<String, Integer> lengths = Stream.of(\"a\", \"bb\", \"ccc\")
            .collect(Collectors.toMap(s -> s, String::length));
        System.out.println(Pattern.compile(\"b+\").matcher(\"abba\").replaceAll(\"c\") + lengths);
    }
}
";

fn wc(dir: &Path) -> Result<Option<Vec<OsString>>> {
    let file = large_file(dir)?;
    Ok(command(on_path("wc"), ["-l".into(), file.into()]))
}

/// A file of 500 MB, made if it is not there.
pub fn large_file(dir: &Path) -> Result<PathBuf> {
    let file = dir.join("lines");
    if fs::metadata(&file).map_or(0, |m| m.len()) != LARGE_BYTES {
        make_lines(&file)?;
    }
    Ok(file)
}

fn make_lines(file: &Path) -> Result<()> {
    let mut out = BufWriter::new(fs::File::create(file)?);
    let mut left = LARGE_BYTES;
    let mut number = 1_u64;
    while left > 0 {
        // Numbers that no disk stores for less than they are long.
        number = number
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        let line = format!("{number:064x}\n");
        let part = &line.as_bytes()[..line.len().min(left as usize)];
        out.write_all(part)?;
        left -= part.len() as u64;
    }
    out.flush()
        .with_context(|| format!("writing {}", file.display()))
}

/// Leaves an equal file alone: its time is part of what a profile knows.
fn write(dir: &Path, name: &str, text: &str) -> Result<PathBuf> {
    let file = dir.join(name);
    if !fs::read(&file).is_ok_and(|old| old == text.as_bytes()) {
        fs::write(&file, text).with_context(|| format!("writing {}", file.display()))?;
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_is_not_known_is_refused_with_those_that_are() {
        let dir = std::env::temp_dir().join(format!("xtask-programs-{}", std::process::id()));
        let error = prepare(&dir, &["emacs".to_owned()]).expect_err("it is not among them");
        assert!(error.to_string().contains("rustc, node"), "{error}");
        let found = prepare(&dir, &["rustc".to_owned()]).expect("a toolchain runs this test");
        let arguments = &found[0].command;
        run::run(Command::new(&arguments[0]).args(&arguments[1..])).expect("it works");
        fs::remove_dir_all(&dir).expect("it was made above");
    }
}
