//! Files of a server at the end of a slow link: NFS from the kernel's own server, which
//! has network namespace and mounts of its own.

mod server;
mod starts;

use std::fs;
use std::path::Path;

use self::server::Served;
use crate::residency::resident_pages;
use crate::scene::{MIB, Scene, json};
use crate::tools;

const PAGE: usize = 4096;

/// Pages that `dd` is to read: first, and how many.
const PARTS: [(usize, usize); 3] = [(5, 1), (100, 4), (700, 64)];

/// Pages of a file that a profile says were certainly used.
fn certain(scene: &Scene, file: &str) -> Vec<usize> {
    let shown = scene.shown("p", file).expect("recorded");
    let extents = shown["extents"].as_array().expect("extents");
    let mut pages = Vec::new();
    for extent in extents {
        let number = |key: &str| extent[key].as_u64().expect("a number") as usize;
        assert!(number("certain_runs") > 0, "{extent}");
        let first = number("offset_bytes") / PAGE;
        pages.extend(first..first + number("length_bytes") / PAGE);
    }
    pages.sort_unstable();
    pages
}

fn all_there(path: &Path, pages: &[usize]) {
    let there = resident_pages(path);
    let missing: Vec<_> = pages.iter().filter(|&&page| !there[page]).collect();
    assert!(missing.is_empty(), "{}: {missing:?}", path.display());
}

#[test]
fn what_is_read_is_recorded_and_a_warmed_start_reads_nothing_over_the_link() {
    let Some(scene) = Scene::recording() else {
        return;
    };
    let Some(served) = Served::new(&scene) else {
        return;
    };
    served.write("whole", MIB);
    served.write("parts", 4 * MIB);
    let reads = PARTS.map(|(first, count)| {
        format!("dd if=mount/parts of=/dev/null bs=4096 skip={first} count={count} 2>/dev/null")
    });
    let script = format!("cat mount/whole >/dev/null; {}", reads.join("; "));
    assert!(served.mount(""));
    scene.record("p", &script);
    let whole: Vec<usize> = (0..MIB / PAGE).collect();
    let parts = PARTS
        .iter()
        .flat_map(|&(first, count)| first..first + count);
    let parts: Vec<usize> = parts.collect();
    assert_eq!(certain(&scene, "mount/whole"), whole);
    assert_eq!(certain(&scene, "mount/parts"), parts);

    served.forget();
    assert!(served.mount(""));
    let path = |name: &str| scene.path("mount").join(name);
    assert!(!resident_pages(&path("whole")).contains(&true));
    let output = scene.run(&["--json", "warm", "p"]);
    let said = json(&output);
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(said["bytes_read"].as_u64() >= Some(MIB as u64), "{said}");
    all_there(&path("whole"), &whole);
    all_there(&path("parts"), &parts);
    let before = served.reads();
    assert!(before > 0);
    let output = tools::prepare(
        "sh",
        &[
            "-c",
            &format!("cd {}; {script}", scene.dir.path().display()),
        ],
    );
    assert!(output.is_some());
    assert_eq!(served.reads(), before);
    assert!(fs::metadata(path("whole")).is_ok());
}

#[test]
fn a_server_that_does_not_answer_holds_up_nothing_but_its_own_files() {
    let Some(scene) = Scene::recording() else {
        return;
    };
    let Some(served) = Served::new(&scene) else {
        return;
    };
    served.write("remote", MIB);
    let local = scene.path("local");
    fs::write(&local, vec![1; MIB]).expect("written");
    assert!(served.mount(""));
    scene.record("p", "cat mount/remote local >/dev/null");
    served.forget();
    assert!(served.mount(""));
    crate::scene::evict(&local);

    served.answers(false);
    let mut warm = scene
        .headstart(["--json", "warm", "p", "--deadline", "3s"])
        .spawn()
        .expect("starts");
    // The process may stay until the client gives its request up. What it has to say does
    // not wait, nor what it can do.
    let said = tools::said(&mut warm);
    assert_eq!(said["deadline_reached"], true, "{said}");
    assert!(said["bytes_left"].as_u64() >= Some(MIB as u64), "{said}");
    let pages: Vec<usize> = (0..MIB / PAGE).collect();
    all_there(&local, &pages);
    served.answers(true);
    assert_eq!(tools::ended(&mut warm).code(), Some(1));

    // It is there again.
    let output = scene.run(&["--json", "warm", "p"]);
    assert_eq!(output.status.code(), Some(0), "{}", json(&output));
    all_there(&scene.path("mount/remote"), &pages);
}
