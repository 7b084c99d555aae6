//! The order of the agent's modules, and what some of them may not do.

use super::paths::{Named, named};
use super::text::{before_tests, code_only};
use super::{Complaint, Source};

/// A module of the agent; each uses only those before it.
struct Layer {
    name: &'static str,
    /// Takes time and chance as arguments, does no I/O.
    pure: bool,
}

const LAYERS: [Layer; 12] = [
    Layer {
        name: "model",
        pure: true,
    },
    Layer {
        name: "probe",
        pure: false,
    },
    Layer {
        name: "attribute",
        pure: false,
    },
    Layer {
        name: "workload",
        pure: false,
    },
    Layer {
        name: "profile",
        pure: false,
    },
    Layer {
        name: "predict",
        pure: true,
    },
    Layer {
        name: "plan",
        pure: true,
    },
    Layer {
        name: "warm",
        pure: false,
    },
    Layer {
        name: "run",
        pure: false,
    },
    Layer {
        name: "daemon",
        pure: false,
    },
    Layer {
        name: "api",
        pure: false,
    },
    Layer {
        name: "cli",
        pure: false,
    },
];

/// What a pure module does not name; a path that contains one of these.
const IMPURE: [&[&str]; 6] = [
    &["std", "fs"],
    &["std", "process"],
    &["std", "thread"],
    &["std", "net"],
    &["Instant", "now"],
    &["SystemTime", "now"],
];

const WHY_ORDER: &str = "data flows one way: what must flow back is a plain snapshot of `model`, \
    handed over where the stages are joined";
const WHY_PURE: &str = "a recorded trace must give the same plan in a test: time, files and \
    chance come in as arguments";
const WHY_PROBE: &str = "only `probe` knows how programs get into the kernel, so that the rest \
    runs without it";

/// Complaints about one file; files outside the agent's library have none.
pub(super) fn check(source: &Source) -> Vec<Complaint> {
    let Some(parts) = modules(&source.path) else {
        return Vec::new();
    };
    let Some(rank) = rank(parts[0]) else {
        let message = format!(
            "`{}` has no place in the order of modules: give it one in xtask/src/tidy/layers.rs",
            parts[0]
        );
        return vec![Complaint {
            path: source.path.clone(),
            line: 0,
            message,
        }];
    };
    let depth = parts.len();
    let layer = &LAYERS[rank];
    // Blanked first: a string in a test may spell a path.
    let code = code_only(&source.text);
    let tested = before_tests(&code).lines().count();
    let complain = |name: &Named, message: String| Complaint {
        path: source.path.clone(),
        line: name.line,
        message,
    };
    let mut complaints = Vec::new();
    for name in named(&code) {
        if let Some(other) = target(&name.path, depth)
            && other > rank
        {
            let message = format!(
                "`{}` uses `{}`, which comes after it: {WHY_ORDER}",
                layer.name, LAYERS[other].name
            );
            complaints.push(complain(&name, message));
        }
        if layer.pure && name.line <= tested && is_impure(&name.path) {
            let message = format!(
                "`{}` names `{}`: {WHY_PURE}",
                layer.name,
                name.path.join("::")
            );
            complaints.push(complain(&name, message));
        }
        if layer.name != "probe" && name.path[0] == "aya" {
            let message = format!("`{}` names aya: {WHY_PROBE}", layer.name);
            complaints.push(complain(&name, message));
        }
    }
    complaints
}

/// The modules that lead to a file of the agent's library, outermost first.
fn modules(path: &str) -> Option<Vec<&str>> {
    let module = path.strip_prefix("agent/src/")?.strip_suffix(".rs")?;
    let parts: Vec<&str> = module.split('/').filter(|part| *part != "mod").collect();
    let in_library = !matches!(parts.first()?, &"lib" | &"main" | &"bin");
    in_library.then_some(parts)
}

fn rank(name: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.name == name)
}

/// The layer that a path leads into, by way of `crate`, or of so many `super`
/// that it ends at the crate's root.
fn target(path: &[String], depth: usize) -> Option<usize> {
    let supers = path.iter().take_while(|part| *part == "super").count();
    let from_root = match path[0].as_str() {
        "crate" | "headstart" => 1,
        // An inline module lies one deeper than its file.
        "super" if supers >= depth => supers,
        _ => return None,
    };
    rank(path.get(from_root)?)
}

fn is_impure(path: &[String]) -> bool {
    IMPURE
        .iter()
        .any(|wanted| path.windows(wanted.len()).any(|window| window == *wanted))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complaints(path: &str, text: &str) -> Vec<(usize, String)> {
        let source = Source {
            path: path.to_owned(),
            text: text.to_owned(),
        };
        check(&source)
            .into_iter()
            .map(|c| (c.line, c.message))
            .collect()
    }

    #[test]
    fn a_module_uses_those_before_it() {
        assert!(complaints("agent/src/plan/mod.rs", "use crate::{model, predict::X};").is_empty());
        let found = complaints("agent/src/plan/mod.rs", "\nuse crate::{model, warm::X};");
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].0, 2);
        assert!(
            found[0]
                .1
                .starts_with("`plan` uses `warm`, which comes after it: data flows")
        );
        assert!(complaints("agent/src/cli/run.rs", "use crate::warm::X;").is_empty());
    }

    #[test]
    fn the_way_over_super_is_seen_too() {
        assert_eq!(
            complaints("agent/src/warm/a.rs", "use super::super::cli;").len(),
            1
        );
        assert!(complaints("agent/src/warm/a.rs", "use super::cli;").is_empty());
        assert_eq!(
            complaints("agent/src/model/mod.rs", "use super::warm;").len(),
            1
        );
    }

    #[test]
    fn a_new_module_needs_a_place() {
        assert_eq!(complaints("agent/src/surprise/mod.rs", "").len(), 1);
        assert!(complaints("agent/src/main.rs", "use headstart::cli;").is_empty());
        assert!(complaints("xtask/src/surprise.rs", "").is_empty());
    }

    #[test]
    fn comments_do_not_count() {
        assert!(complaints("agent/src/model/a.rs", "//! See [`crate::warm::X`].").is_empty());
    }

    #[test]
    fn pure_modules_do_no_io_outside_their_tests() {
        for code in [
            "use std::{fs, io};",
            "use std::fs::File;",
            "let now = Instant::now();",
            "let now = std::time::SystemTime::now();",
            "use std::thread;",
        ] {
            assert_eq!(complaints("agent/src/plan/a.rs", code).len(), 1, "{code}");
            assert!(complaints("agent/src/warm/a.rs", code).is_empty(), "{code}");
            let tested = format!("fn f() {{}}\n#[cfg(test)]\nmod tests {{ {code} }}");
            assert!(
                complaints("agent/src/plan/a.rs", &tested).is_empty(),
                "{code}"
            );
        }
    }

    #[test]
    fn only_probe_names_aya() {
        assert!(complaints("agent/src/probe/a.rs", "use aya::Ebpf;").is_empty());
        assert_eq!(
            complaints("agent/src/warm/a.rs", "fn f(e: aya::Ebpf) {}").len(),
            1
        );
    }
}
