//! Images of real programs, made from this machine's files; no registry is asked.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::host::{Host, Store};
use crate::bench::programs;
use crate::run;
use crate::workspace::on_path;

/// A container to start.
#[derive(Debug)]
pub(in crate::bench) struct Container {
    pub(in crate::bench) name: &'static str,
    pub(in crate::bench) what: &'static str,
    pub(in crate::bench) command: Vec<OsString>,
    /// Mounted into it at the same path, read-only.
    pub(in crate::bench) volume: Option<PathBuf>,
}

impl Container {
    /// Its image's reference.
    pub(in crate::bench) fn image(&self) -> String {
        image(self.name)
    }
}

fn image(name: &str) -> String {
    format!("localhost/headstart-bench-{name}:1")
}

/// What a start of nothing is made from.
pub(in crate::bench) const IDLE: &str = "localhost/headstart-bench-idle:1";

/// Imports of a service of some size.
const IMPORTS: &str = "import asyncio, concurrent.futures, csv, ctypes, decimal, \
    email.mime.multipart, fractions, http.server, json, logging.handlers, multiprocessing.pool, \
    sqlite3, ssl, statistics, tarfile, unittest.mock, urllib.request, uuid, xml.dom.minidom, \
    xmlrpc.client, zipfile";

/// All of node's own modules.
const MODULES: &str = "for (const name of require('module').builtinModules) \
    try { require(name) } catch {}";

/// Name, what it does, and how to find its command and the trees that it needs.
pub(in crate::bench) type Find = fn(&Path) -> Result<Option<(Vec<OsString>, Vec<PathBuf>)>>;
const CONTAINERS: [(&str, &str, Find); 4] = [
    ("python", "a Python service's imports", python),
    ("java", "a small jar", java),
    ("node", "node with all of its modules", node),
    ("weights", "reads 500 MB of a mounted volume", weights),
];

/// Names of all containers.
fn names() -> impl Iterator<Item = &'static str> {
    CONTAINERS.iter().map(|(name, ..)| *name)
}

/// The named containers, or all; their images are in each of the stores, and what they need
/// is kept in `dir`.
pub(in crate::bench) fn prepare(
    host: &Host,
    dir: &Path,
    stores: &[Store],
    wanted: &[String],
) -> Result<Vec<Container>> {
    if let Some(unknown) = wanted.iter().find(|w| !names().any(|name| name == *w)) {
        let known: Vec<_> = names().collect();
        bail!("no container `{unknown}`: there are {}", known.join(", "));
    }
    let idle = on_path("true").context("there is no `true`")?;
    make(host, dir, stores, "idle", &[idle], &[])?;
    let mut found = Vec::new();
    for (name, what, find) in CONTAINERS {
        if !wanted.is_empty() && !wanted.iter().any(|w| w == name) {
            continue;
        }
        let Some((command, trees)) = find(dir).with_context(|| format!("preparing {name}"))? else {
            eprintln!("SKIPPED: {name} is not installed");
            continue;
        };
        let volume = (name == "weights").then(|| dir.join("weights"));
        let mut files: Vec<PathBuf> = command
            .iter()
            .map(PathBuf::from)
            .filter(|path| path.is_absolute() && path.exists())
            .collect();
        files.retain(|file| volume.as_ref().is_none_or(|dir| !file.starts_with(dir)));
        make(host, dir, stores, name, &files, &trees)
            .with_context(|| format!("making the image of {name}"))?;
        found.push(Container {
            name,
            what,
            command,
            volume,
        });
    }
    Ok(found)
}

pub(in crate::bench) fn python(_: &Path) -> Result<Option<(Vec<OsString>, Vec<PathBuf>)>> {
    let ask = "import sys, sysconfig; print(sys.executable); print(sysconfig.get_path('stdlib'))";
    let said = run::quiet_output(Command::new("python3").args(["-c", ask]));
    let Some((program, library)) = said.as_deref().and_then(|said| said.split_once('\n')) else {
        return Ok(None);
    };
    let command = vec![program.into(), "-c".into(), IMPORTS.into()];
    Ok(Some((command, vec![library.into()])))
}

pub(in crate::bench) fn java(dir: &Path) -> Result<Option<(Vec<OsString>, Vec<PathBuf>)>> {
    let java = programs::prepare(dir, &["java".to_owned()])?.pop();
    let Some(java) = java else { return Ok(None) };
    let program = Path::new(&java.command[0]);
    let home = program.parent().and_then(Path::parent);
    let home = home.context("java lies in no tree")?.to_owned();
    Ok(Some((java.command, vec![home])))
}

pub(in crate::bench) fn node(_: &Path) -> Result<Option<(Vec<OsString>, Vec<PathBuf>)>> {
    let Some(node) = on_path("node") else {
        return Ok(None);
    };
    let node = node.canonicalize()?;
    let command = vec![node.into(), "-e".into(), MODULES.into()];
    Ok(Some((command, Vec::new())))
}

fn weights(dir: &Path) -> Result<Option<(Vec<OsString>, Vec<PathBuf>)>> {
    let volume = dir.join("weights");
    fs::create_dir_all(&volume)?;
    let file = programs::large_file(&volume)?;
    // To a pipe: what goes to /dev/null need not be read.
    let script = format!("cat '{}' | wc -c", file.display());
    let programs = ["sh", "cat", "wc"].map(on_path);
    let trees: Option<Vec<PathBuf>> = programs.into_iter().collect();
    let Some(trees) = trees else { return Ok(None) };
    let command = vec!["/bin/sh".into(), "-c".into(), script.into()];
    Ok(Some((command, trees)))
}

/// Copies trees and files to where they are here, links followed.
const COPY: &str = r#"
root=$1; shift
for path; do
    tar -C / -chf - --ignore-failed-read --exclude='*/test' --exclude='*/site-packages' \
        --exclude='*/src.zip' --exclude='*/jmods' "${path#/}" 2>/dev/null | tar -C "$root" -xf -
done
"#;

/// Copies trees and files into a root filesystem, to where they are here.
pub(in crate::bench) fn copy(root: &Path, paths: &[PathBuf]) -> Result<()> {
    // Programs are found by these names, whatever they are links to here.
    for (link, to) in [
        ("bin", "usr/bin"),
        ("lib", "usr/lib"),
        ("lib64", "usr/lib64"),
    ] {
        fs::create_dir_all(root.join(to))?;
        std::os::unix::fs::symlink(to, root.join(link))?;
    }
    let mut copy = Command::new("sh");
    run::run(copy.args(["-e", "-c", COPY, "sh"]).arg(root).args(paths))
}

/// Compiles Python's library, as images have it: what an import compiles is not kept in a
/// container.
pub(in crate::bench) fn compile(root: &Path, python: &Path, library: &Path) -> Result<()> {
    let library = root.join(library.strip_prefix("/")?);
    let mut compile = Command::new(python);
    let _ = run::quiet_output(compile.args(["-m", "compileall", "-q"]).arg(library));
    Ok(())
}

/// Makes an image in the first store, where it is not there, and brings it to the others.
fn make(
    host: &Host,
    dir: &Path,
    stores: &[Store],
    name: &str,
    files: &[PathBuf],
    trees: &[PathBuf],
) -> Result<()> {
    let image = image(name);
    let archive = dir.join(format!("{name}.archive"));
    let Some((first, others)) = stores.split_first() else {
        return Ok(());
    };
    let has = |store: &Store| {
        let mut look = host.podman(store);
        run::quiet_output(look.args(["image", "exists", &image])).is_some()
    };
    if !has(first) {
        let root = dir.join("root");
        let _ = fs::remove_dir_all(&root);
        fs::create_dir_all(&root)?;
        let mut all = files.to_vec();
        all.extend(trees.iter().cloned());
        all.extend(libraries(&all)?);
        copy(&root, &all)?;
        if let Some(python) = files.first().filter(|_| name == "python") {
            compile(&root, python, &trees[0])?;
        }
        let tar = dir.join("root.tar");
        run::run(
            Command::new("tar")
                .arg("-C")
                .arg(&root)
                .arg("-cf")
                .arg(&tar)
                .arg("."),
        )?;
        fs::remove_dir_all(&root)?;
        run::captured(
            host.podman(first)
                .args(["import", "-q"])
                .arg(&tar)
                .arg(&image),
        )?;
        fs::remove_file(&tar)?;
    }
    for store in others {
        if has(store) {
            continue;
        }
        let mut save = host.podman(first);
        save.args(["save", "-q", "--format", "oci-archive", "-o"]);
        run::captured(save.arg(&archive).arg(&image))?;
        run::captured(host.podman(store).args(["load", "-q", "-i"]).arg(&archive))?;
        fs::remove_file(&archive)?;
    }
    Ok(())
}

/// Libraries that programs and libraries in `paths` are linked to.
pub(in crate::bench) fn libraries(paths: &[PathBuf]) -> Result<BTreeSet<PathBuf>> {
    let look = "find -L \"$@\" -type f \\( -name '*.so*' -o -perm -100 \\) -exec ldd {} + \
                2>/dev/null || true";
    let mut ldd = Command::new("sh");
    let said = run::captured(ldd.args(["-c", look, "sh"]).args(paths))?;
    let of_line = |line: &str| {
        let path = line.split_once("=> ").map_or(line, |(_, path)| path);
        let path = path.trim().split(" (").next()?;
        (path.starts_with('/') && !path.ends_with(':')).then(|| PathBuf::from(path))
    };
    Ok(said.lines().filter_map(of_line).collect())
}
