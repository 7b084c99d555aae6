//! Signals sent to headstart reach the command.

use std::io::BufReader;
use std::os::unix::process::CommandExt;

use crate::scene::{LASTS, MIB, Scene};
use crate::tools::{ended, line_with, send, state, until};

#[test]
fn signals_reach_the_command() {
    let Some(scene) = Scene::recording() else {
        return;
    };
    scene.file("data", 64 * MIB);
    scene.record("p", "cat data >/dev/null");
    let script = "for s in TERM INT HUP USR1 USR2 QUIT ALRM PROF 34; do trap \"echo got $s; exit 9\" $s; done; \
                  echo ready; while :; do sleep 0.02; done";
    let signals = [
        (libc::SIGTERM, "TERM"),
        (libc::SIGINT, "INT"),
        (libc::SIGHUP, "HUP"),
        (libc::SIGUSR1, "USR1"),
        (libc::SIGQUIT, "QUIT"),
        (libc::SIGALRM, "ALRM"),
        (libc::SIGPROF, "PROF"),
        (libc::SIGRTMIN(), "34"),
    ];
    for subcommand in ["record", "run"] {
        for (signal, name) in signals {
            // Warming beside it is at work when the signal comes.
            crate::scene::evict(&scene.path("data"));
            let mut child = scene
                .headstart([subcommand, "--profile", "p", "--", "sh", "-c", script])
                .spawn()
                .expect("starts");
            let mut out = BufReader::new(child.stdout.take().expect("piped"));
            line_with(&mut out, "ready");
            send(child.id(), signal);
            line_with(&mut out, &format!("got {name}"));
            assert_eq!(ended(&mut child).code(), Some(9), "{subcommand} {name}");
        }
    }
}

#[test]
fn a_signal_that_ends_the_command_is_its_end() {
    let Some(scene) = Scene::recording() else {
        return;
    };
    for subcommand in ["record", "run"] {
        let mut child = scene
            .headstart([
                subcommand,
                "--profile",
                "p",
                "--",
                "sh",
                "-c",
                &format!("{LASTS}echo ready; exec sleep 1000"),
            ])
            .spawn()
            .expect("starts");
        let mut out = BufReader::new(child.stdout.take().expect("piped"));
        line_with(&mut out, "ready");
        send(child.id(), libc::SIGTERM);
        assert_eq!(
            ended(&mut child).code(),
            Some(128 + libc::SIGTERM),
            "{subcommand}"
        );
    }
    assert_eq!(scene.runs("p"), 2, "what was used until then is kept");
}

#[test]
fn the_command_starts_with_the_signals_it_would_have() {
    let Some(scene) = Scene::recording() else {
        return;
    };
    // Of signals 1 to 31: the two above are the C library's own.
    let masks = |text: &str| -> Vec<u64> {
        let fields = ["SigBlk:", "SigIgn:"];
        let values = fields.map(|field| {
            let value = text
                .lines()
                .find_map(|l| l.strip_prefix(field))
                .expect("a line");
            u64::from_str_radix(value.trim(), 16).expect("a mask") & 0x7fff_ffff
        });
        values.to_vec()
    };
    let bare = std::process::Command::new("cat")
        .arg("/proc/self/status")
        .output()
        .expect("cat");
    for subcommand in ["record", "run"] {
        let output = scene.run(&[
            subcommand,
            "--profile",
            "p",
            "--",
            "cat",
            "/proc/self/status",
        ]);
        let (ours, theirs) = (
            crate::scene::stdout(&output),
            String::from_utf8_lossy(&bare.stdout),
        );
        assert_eq!(masks(&ours), masks(&theirs), "{subcommand}");
    }
}

#[test]
fn stopping_and_going_on_is_passed_on() {
    let Some(scene) = Scene::recording() else {
        return;
    };
    for subcommand in ["record", "run"] {
        let mut child = scene
            .headstart([
                subcommand,
                "--profile",
                "p",
                "--",
                "sh",
                "-c",
                "echo $$; exec sleep 1000",
            ])
            // As a shell starts a job.
            .process_group(0)
            .spawn()
            .expect("starts");
        let mut out = BufReader::new(child.stdout.take().expect("piped"));
        let pid: u32 = line_with(&mut out, "").trim().parse().expect("a number");
        send(child.id(), libc::SIGTSTP);
        until("both are stopped", || {
            // Traced ones have a stop of their own.
            matches!(state(pid), Some('T' | 't')) && state(child.id()) == Some('T')
        });
        send(child.id(), libc::SIGCONT);
        until("both go on", || {
            state(pid) == Some('S') && matches!(state(child.id()), Some('S' | 'R'))
        });
        send(child.id(), libc::SIGTERM);
        assert_eq!(
            ended(&mut child).code(),
            Some(128 + libc::SIGTERM),
            "{subcommand}"
        );
    }
}
