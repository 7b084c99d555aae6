//! Attaching a hook: at the first of its places that this kernel takes. That is found
//! out by trying, never by the kernel's version.

use std::collections::{BTreeMap, VecDeque};
use std::panic::resume_unwind;
use std::sync::{Mutex, PoisonError};

use aya::programs::{Program, ProgramError};
use aya::{Btf, BtfError};

use super::hooks::{Hook, HookState, Kind, Place};
use super::load::chain;

/// What is known of the kernel.
pub(super) struct Kernel<'k> {
    /// Its types, for programs that follow pointers.
    pub(super) btf: &'k Result<Btf, BtfError>,
    /// Functions that it has, of those that matter.
    pub(super) functions: &'k [&'static str],
}

/// What holds a program at its place: dropped, the program is detached.
pub(super) type Link = Box<dyn Send>;

/// What holds the programs of one place, and the instructions that the verifier went
/// through, where the kernel says.
struct Placed {
    links: Vec<Link>,
    verified: Option<u32>,
}

/// Programs by name.
type Programs<'p> = BTreeMap<String, &'p mut Program>;

/// Attaches hooks, several at a time: having the kernel check the programs is most of
/// what it takes to begin. Of each hook's places those that `takes` says are tried.
pub(super) fn attach<'p>(
    hooks: &[&'static Hook],
    programs: impl Iterator<Item = (&'p str, &'p mut Program)>,
    kernel: &Kernel<'_>,
    takes: &(dyn Fn(&Place) -> bool + Sync),
) -> Vec<(HookState, Vec<Link>)> {
    let mut programs: Programs<'p> = programs
        .map(|(name, program)| (name.to_owned(), program))
        .collect();
    let work: VecDeque<_> = hooks
        .iter()
        .enumerate()
        .map(|(number, &hook)| (number, hook, of(hook, &mut programs)))
        .collect();
    let queue = Mutex::new(work);
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get().min(4));
    let next = || {
        let mut queue = queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue.pop_front()
    };
    let each = || {
        let mut done = Vec::new();
        while let Some((number, hook, mut programs)) = next() {
            done.push((number, one(hook, &mut programs, kernel, takes)));
        }
        done
    };
    let mut states: Vec<_> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(each)).collect();
        let results = workers.into_iter().map(|worker| worker.join());
        results
            .flat_map(|done| done.unwrap_or_else(|panic| resume_unwind(panic)))
            .collect()
    });
    states.sort_by_key(|(number, _)| *number);
    states.into_iter().map(|(_, state)| state).collect()
}

/// Takes the programs of one hook out of all.
fn of<'p>(hook: &Hook, programs: &mut Programs<'p>) -> Programs<'p> {
    let names = hook.places.iter().flat_map(|place| {
        let beside = place.beside.map(|(program, _)| program);
        [Some(place.program), beside].into_iter().flatten()
    });
    names
        .filter_map(|name| programs.remove_entry(name))
        .collect()
}

fn one(
    hook: &Hook,
    programs: &mut Programs<'_>,
    kernel: &Kernel<'_>,
    takes: &(dyn Fn(&Place) -> bool + Sync),
) -> (HookState, Vec<Link>) {
    let mut state = HookState {
        program: hook.program,
        group: hook.group,
        sees_pages: hook.sees_pages,
        place: hook
            .places
            .first()
            .map_or_else(String::new, Place::to_string),
        live: false,
        reason: String::new(),
        verified: None,
        without: hook.without,
    };
    let mut reasons = Vec::new();
    for place in hook.places.iter().filter(|place| takes(place)) {
        match try_place(place, programs, kernel) {
            Ok(placed) => {
                state.live = true;
                state.place = place.to_string();
                state.verified = placed.verified;
                return (state, placed.links);
            }
            Err(reason) => reasons.push((place, reason)),
        }
    }
    state.reason = match &reasons[..] {
        [] => "no place for it was asked for".to_owned(),
        [(_, reason)] => reason.clone(),
        several => several
            .iter()
            .map(|(place, reason)| format!("{place}: {reason}"))
            .collect::<Vec<_>>()
            .join("; "),
    };
    tracing::debug!(hook = hook.program, state.reason, "hook is not live");
    (state, Vec::new())
}

fn try_place(
    place: &Place,
    programs: &mut Programs<'_>,
    kernel: &Kernel<'_>,
) -> Result<Placed, String> {
    let (link, verified) = put(place.kind, place.program, place.at, programs, kernel)?;
    let mut placed = Placed {
        links: vec![link],
        verified,
    };
    if let Some((program, function)) = place.beside
        && kernel.functions.contains(&function)
    {
        let (link, verified) = put(place.kind, program, function, programs, kernel)
            .map_err(|reason| format!("{function}: {reason}"))?;
        placed.links.push(link);
        let both = placed.verified.zip(verified);
        placed.verified = both.map(|(one, other)| one + other);
    }
    Ok(placed)
}

fn put(
    kind: Kind,
    name: &str,
    at: &str,
    programs: &mut Programs<'_>,
    kernel: &Kernel<'_>,
) -> Result<(Link, Option<u32>), String> {
    let program = programs
        .get_mut(name)
        .ok_or_else(|| format!("the object has no program `{name}`"))?;
    let again = load(kind, name, at, program, kernel)?;
    let link = match attach_loaded(at, program) {
        // Before 5.13 a traced function's program can be attached once only.
        Err(_) if again => {
            load(kind, name, at, program, kernel)?;
            attach_loaded(at, program)
        }
        other => other,
    };
    let info = program.info().ok();
    let verified = info.and_then(|info| info.verified_instruction_count());
    link.map(|link| (link, verified))
}

/// Has the kernel check a program; whether it had already.
fn load(
    kind: Kind,
    name: &str,
    at: &str,
    program: &mut Program,
    kernel: &Kernel<'_>,
) -> Result<bool, String> {
    let types = || kernel.btf.as_ref().map_err(|error| chain(error));
    let loaded = match (kind, program) {
        (Kind::RawTracepoint, Program::RawTracePoint(program)) => program.load(),
        (Kind::BtfTracepoint, Program::BtfTracePoint(program)) => program.load(at, types()?),
        (Kind::Fentry, Program::FEntry(program)) => program.load(at, types()?),
        (Kind::Fexit, Program::FExit(program)) => program.load(at, types()?),
        (Kind::Kprobe, Program::KProbe(program)) => program.load(),
        _ => return Err(format!("`{name}` is no program for a {}", kind.name())),
    };
    match loaded {
        // Two groups may share it.
        Ok(()) => Ok(false),
        Err(ProgramError::AlreadyLoaded) => Ok(true),
        Err(error) => Err(chain(&error)),
    }
}

/// Attaches a program that is loaded; one that can't be is unloaded.
fn attach_loaded(at: &str, program: &mut Program) -> Result<Link, String> {
    // One that is not attached is unloaded: the next place may be of the same program.
    macro_rules! attach {
        ($program:ident, $attached:expr) => {
            $attached
                .and_then(|id| $program.take_link(id))
                .map(|link| Box::new(link) as Link)
                .inspect_err(|_| drop($program.unload()))
        };
    }
    match program {
        Program::RawTracePoint(program) => attach!(program, program.attach(at)),
        Program::BtfTracePoint(program) => attach!(program, program.attach()),
        Program::FEntry(program) => attach!(program, program.attach()),
        Program::FExit(program) => attach!(program, program.attach()),
        Program::KProbe(program) => attach!(program, program.attach(at, 0)),
        _ => return Err("a kind of program that is attached nowhere".to_owned()),
    }
    .map_err(|error| chain(&error))
}
