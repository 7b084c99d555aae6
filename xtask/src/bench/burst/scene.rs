//! Images and containers, laid out as Podman keeps them, and runc to start them: Podman
//! itself would take longer than what it starts.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::bench::agent::host::Host;
use crate::bench::agent::images::{self, compile, copy, libraries};
use crate::bench::throttle::Throttle;
use crate::run;
use crate::workspace::on_path;

/// Images to start containers of.
pub(super) const IMAGES: usize = 20;
/// Containers of each.
pub(super) const EACH: usize = 10;

/// The container after those of the images, which does nothing.
const IDLE: usize = IMAGES * EACH;

/// Starts a container: mounts its root filesystem, and runs it to its end.
const START: &str = r#"
graph=$1 lower=$2 id=$3
own=$graph/overlay/$id
mount -t overlay overlay \
    -o "lowerdir=$lower,upperdir=$own/diff,workdir=$own/work" "$own/merged"
exec runc --root "$4" run --bundle "$graph/overlay-containers/$id/userdata" "$id"
"#;

/// What is left of containers is taken away; all at once, for a process takes longer.
const CLEAN: &str = r#"
cd "$1"; shift
umount $(printf '%s/merged ' "$@") 2>/dev/null || true
parts="$(printf '%s/diff ' "$@") $(printf '%s/work ' "$@")"
rm -rf $parts
mkdir $parts
"#;

/// What an image is made of.
struct Kind {
    /// Program and arguments.
    command: Vec<String>,
    /// Its files, in a root filesystem without libraries.
    root: PathBuf,
}

/// A store of containers that can be started.
pub(super) struct Scene<'a> {
    host: &'a Host,
    dir: PathBuf,
    /// Of each image its name.
    pub(super) images: Vec<String>,
    /// What the images are copies of.
    pub(super) kinds: Vec<&'static str>,
}

impl<'a> Scene<'a> {
    /// Makes images, which are kept, and containers below `dir`.
    pub(super) fn new(host: &'a Host, dir: &Path) -> Result<Self> {
        let mut scene = Self {
            host,
            dir: dir.to_owned(),
            images: (0..IMAGES).map(image_name).collect(),
            kinds: Vec::new(),
        };
        // A measurement that was interrupted leaves it.
        let state = scene.dir.join("runc");
        if state.exists() {
            fs::remove_dir_all(&state)?;
        }
        let kinds = scene.make_kinds()?;
        scene.make_layers(&kinds)?;
        scene.make_containers(&kinds)?;
        Ok(scene)
    }

    fn graph(&self) -> PathBuf {
        self.dir.join("graph")
    }

    fn layer(&self, layer: usize) -> PathBuf {
        self.graph().join("overlay").join(layer_id(layer))
    }

    fn make_kinds(&mut self) -> Result<Vec<Kind>> {
        let mut kinds = Vec::new();
        let mut all = vec![on_path("true").context("there is no `true`")?];
        let finds = [
            ("python", images::python as images::Find),
            ("java", images::java),
            ("node", images::node),
        ];
        for (name, find) in finds {
            let Some((command, trees)) = find(&self.dir)? else {
                eprintln!("SKIPPED: {name} is not installed");
                continue;
            };
            let paths = command.iter().map(PathBuf::from);
            let mut files: Vec<PathBuf> = paths.filter(|p| p.is_absolute() && p.exists()).collect();
            files.extend(trees.iter().cloned());
            let root = self.dir.join("kinds").join(name);
            if !root.exists() {
                let new = root.with_extension("new");
                let _ = fs::remove_dir_all(&new);
                fs::create_dir_all(&new)?;
                copy(&new, &files)?;
                if name == "python" {
                    compile(&new, &files[0], &trees[0])?;
                }
                fs::rename(&new, &root)?;
            }
            all.extend(files);
            let command = command
                .iter()
                .map(|word| word.to_string_lossy().into_owned());
            let command = command.collect();
            kinds.push(Kind { command, root });
            self.kinds.push(name);
        }
        ensure!(!kinds.is_empty(), "there is nothing to start");
        // The lowest layer of all: libraries, and `true`.
        let base = self.layer(IMAGES);
        if !base.exists() {
            let new = base.with_extension("new");
            let _ = fs::remove_dir_all(&new);
            fs::create_dir_all(new.join("diff"))?;
            let mut paths: Vec<PathBuf> = libraries(&all)?.into_iter().collect();
            paths.push(all.swap_remove(0));
            copy(&new.join("diff"), &paths)?;
            for point in ["proc", "dev", "tmp"] {
                fs::create_dir_all(new.join("diff").join(point))?;
            }
            fs::rename(&new, &base)?;
        }
        Ok(kinds)
    }

    fn make_layers(&self, kinds: &[Kind]) -> Result<()> {
        for image in 0..IMAGES {
            let layer = self.layer(image);
            if layer.exists() {
                continue;
            }
            let new = layer.with_extension("new");
            let _ = fs::remove_dir_all(&new);
            fs::create_dir_all(&new)?;
            let kind = &kinds[image % kinds.len()];
            let mut copy = Command::new("cp");
            run::run(copy.arg("-a").arg(&kind.root).arg(new.join("diff")))?;
            fs::rename(&new, &layer)?;
        }
        let layers = (0..=IMAGES).map(|layer| {
            let digest = format!("sha256:{}", layer_id(layer));
            json!({ "id": layer_id(layer), "diff-digest": digest })
        });
        let layers: Vec<Value> = layers.collect();
        let list = self.graph().join("overlay-layers");
        fs::create_dir_all(&list)?;
        fs::write(list.join("layers.json"), serde_json::to_vec(&layers)?)?;
        Ok(())
    }

    fn make_containers(&self, kinds: &[Kind]) -> Result<()> {
        let all = self.graph().join("overlay-containers");
        let mut records = Vec::new();
        for container in 0..=IDLE {
            let id = container_id(container);
            let own = self.graph().join("overlay").join(&id);
            for part in ["diff", "work", "merged"] {
                fs::create_dir_all(own.join(part))?;
            }
            let (image, command) = match container {
                IDLE => (IDLE, vec!["/bin/true".to_owned()]),
                _ => {
                    let image = container % IMAGES;
                    (image, kinds[image % kinds.len()].command.clone())
                }
            };
            let bundle = all.join(&id).join("userdata");
            fs::create_dir_all(&bundle)?;
            let config = config(&id, &own.join("merged"), &command);
            fs::write(bundle.join("config.json"), serde_json::to_vec(&config)?)?;
            let name = format!("burst-{container}");
            let metadata = json!({ "image-name": image_name(image), "name": name });
            records.push(json!({
                "id": id,
                "names": [name],
                "image": image_id(image),
                "metadata": metadata.to_string(),
            }));
        }
        fs::write(all.join("containers.json"), serde_json::to_vec(&records)?)?;
        self.clean()
    }

    /// Takes away what is left of containers.
    pub(super) fn clean(&self) -> Result<()> {
        let mut clean = self.host.command(None, Path::new("sh"));
        clean.args(["-e", "-c", CLEAN, "sh"]);
        clean.arg(self.graph().join("overlay"));
        clean.args((0..=IDLE).map(container_id));
        run::captured(&mut clean)?;
        Ok(())
    }

    /// Starts a container and waits for its end: seconds.
    pub(super) fn start(&self, container: usize, throttle: Option<&Throttle>) -> Result<f64> {
        let id = container_id(container);
        let layers = match container {
            IDLE => vec![IMAGES],
            _ => vec![container % IMAGES, IMAGES],
        };
        let layers = layers
            .into_iter()
            .map(|layer| self.layer(layer).join("diff"));
        let lower: Vec<String> = layers.map(|path| path.display().to_string()).collect();
        let mut command = self.host.command(throttle, Path::new("sh"));
        command.args(["-e", "-c", START, "sh"]).arg(self.graph());
        command.args([&lower.join(":"), &id]);
        command.arg(self.dir.join("runc"));
        let began = Instant::now();
        let output = command.output().context("starting a container")?;
        let took = began.elapsed().as_secs_f64();
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            bail!("container {container} failed: {}: {said}", output.status);
        }
        Ok(took)
    }

    /// Has runc and what it needs in memory, as on a node that runs containers.
    pub(super) fn start_nothing(&self) -> Result<()> {
        self.start(IDLE, None)?;
        self.clean()
    }

    /// Starts all containers at once: when each ended, seconds after the first was begun.
    pub(super) fn burst(&self, throttle: &Throttle) -> Result<Vec<f64>> {
        let began = Instant::now();
        std::thread::scope(|scope| {
            let starts = (0..IDLE).map(|container| {
                scope.spawn(move || {
                    self.start(container, Some(throttle))?;
                    Ok(began.elapsed().as_secs_f64())
                })
            });
            let starts: Vec<_> = starts.collect();
            let ended = starts.into_iter().map(|start| match start.join() {
                Ok(ended) => ended,
                Err(panic) => std::panic::resume_unwind(panic),
            });
            ended.collect()
        })
    }
}

impl Drop for Scene<'_> {
    fn drop(&mut self) {
        let _ = self.clean();
    }
}

fn image_name(image: usize) -> String {
    format!("localhost/headstart-burst-{image}:1")
}

/// Identifiers are told apart by their first digits.
fn identifier(number: usize, of: u8) -> String {
    format!("{number:012x}{of:052x}")
}

fn image_id(image: usize) -> String {
    identifier(image, 1)
}

fn layer_id(layer: usize) -> String {
    identifier(layer, 2)
}

fn container_id(container: usize) -> String {
    identifier(container, 3)
}

/// A container's configuration, as runtimes hand it to runc.
fn config(id: &str, root: &Path, command: &[String]) -> Value {
    let mount = |at: &str, kind: &str| json!({ "destination": at, "type": kind, "source": kind });
    let namespaces = ["pid", "ipc", "uts", "mount", "network"].map(|kind| json!({ "type": kind }));
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "user": { "uid": 0, "gid": 0 },
            "args": command,
            "env": ["PATH=/usr/local/bin:/usr/bin:/bin"],
            "cwd": "/",
        },
        "root": { "path": root },
        "mounts": [mount("/proc", "proc"), mount("/dev", "tmpfs")],
        "linux": {
            "cgroupsPath": format!("/libpod_parent/libpod-{id}"),
            "namespaces": namespaces,
        },
    })
}
