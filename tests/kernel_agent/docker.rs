//! The same for a container of Docker's.

mod engine;

use crate::containers::{
    READS, Shared, ended, image_file, key, named, node, profile_is_portable, spawn, starts_warmed,
    was_warmed,
};
use crate::scene::{IMAGE_NAME, Scene};
use engine::Docker;

#[test]
fn a_container_of_docker_is_learned_and_the_next_of_its_kind_is_warmed() {
    let Some(scene) = Scene::new(&["containerd"]) else {
        return;
    };
    let Some(docker) = Docker::new(&scene) else {
        return;
    };
    let Some(mut node) = node(&scene, &docker.roots()) else {
        return;
    };
    let shared = Shared::new(&scene);
    let volume = format!("--volume={}:/vol:ro", shared.directory().display());
    let start = |name: &str| {
        let mut start = docker.run(&["--name", name, &volume]);
        start.args(["/bin/sh", "-c", READS]);
        start
    };
    node.start();
    let child = spawn(&mut start("web"));
    shared.go();
    ended(child);
    let known = named(&node, "web", 1);
    assert_eq!(known["image"], IMAGE_NAME, "{known}");
    profile_is_portable(&node, &key(&known), &scene);

    let image = image_file(&docker.store());
    starts_warmed(&mut start("web"), &shared, &image);
    let again = node.learned(&key(&known), 2);
    was_warmed(&again, &["runtime", "bundle", "cgroup"]);
}
