//! A file system that stops answering under what a workload uses: that workload waits for
//! it, and nobody else.

use std::io::{BufRead, BufReader};

use crate::fuse::Fuse;
use crate::node::{Node, Unit, evict, until};

const SLICE: &str = "headstart-test.slice";
const BYTES: u64 = 64 << 10;

#[test]
fn a_file_system_that_does_not_answer_costs_nobody_but_who_uses_it() {
    let Some(mut node) = Node::new() else { return };
    let Some(mut served) = Fuse::mount(node.path("served"), BYTES) else {
        return;
    };
    let (remote, local) = (served.file(), node.file("local", 1 << 20));
    let cat = |file: &std::path::Path| format!("cat {} > /dev/null", file.display());
    let others = ["sh", "-c", &cat(&local)];
    node.start();
    node.learn(SLICE, "remote.service", 1, &["sh", "-c", &cat(&remote)]);
    node.learn(SLICE, "local.service", 1, &others);

    // It dies while a start that has used it is being learned, and is to be warmed.
    let unit = Unit::make(SLICE, "remote.service");
    let script = format!("{}; echo read; exec sleep 1000", cat(&remote));
    let mut process = unit.spawn("sh", &["-c", &script]);
    let mut line = String::new();
    let output = process.stdout.take().expect("piped");
    BufReader::new(output).read_line(&mut line).expect("a line");
    assert_eq!(line, "read\n");
    until("its plan is carried out", || {
        let status = node.json(&["status"])?;
        (status["warming"] == 0).then_some(())
    });
    served.die();
    process.kill().expect("killed");
    process.wait().expect("waited for");
    drop(unit);
    // And is there when the next start is to be warmed: that one is not held up.
    let unit = Unit::make(SLICE, "remote.service");
    assert!(unit.run("true", &[]).status.success());
    drop(unit);

    evict(&local);
    let unit = Unit::make(SLICE, "local.service");
    node.warmed("unit:local.service", &local);
    drop(unit);
    node.learn(SLICE, "local.service", 2, &others);
    let workers = until("it is told", || {
        let status = node.json(&["status"])?;
        let features = status["features"].as_array()?;
        let workers = features.iter().find(|f| f["name"] == "workers")?;
        (workers["live"] == false).then(|| workers.clone())
    });
    let reason = workers["reason"].as_str().expect("a reason");
    assert!(reason.contains("does not answer"), "{reason}");
    // Nor is its end.
    let (status, _) = node.stop(libc::SIGTERM);
    assert!(status.success(), "{status:?}");
}
