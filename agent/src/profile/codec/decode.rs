//! A message becomes a profile, or an error that says where it is wrong.

use prost::Message;
use prost::bytes::{Buf, Bytes};
use prost::encoding::{DecodeContext, decode_key, skip_field};

use crate::model::{
    Extent, FileVersion, MAX_RUNS, NameKind, NameRecord, Profile, ProfileFile, RelPath, RunInfo,
    RunMask, Volume, VolumeId,
};

use super::super::build::block;
use super::super::extents::END_OF_PAGES;
use super::super::limits::Limits;
use super::super::name::check_name;
use super::super::wire;
use super::column::Reader;
use super::{CodecError, shown};

const LIMITS: Limits = Limits::DEFAULT;

pub(super) fn message(bytes: Vec<u8>) -> Result<(String, Profile), CodecError> {
    let bytes = Bytes::from(bytes);
    check_counts(bytes.clone()).map_err(|e| CodecError::Message(e.to_string()))??;
    let message = wire::Profile::decode(bytes).map_err(|e| CodecError::Message(e.to_string()))?;
    check_name(&message.name).map_err(CodecError::Name)?;
    let runs = runs(&message.runs)?;
    let volumes = volumes(message.volumes)?;
    let shared = Shared {
        histories: histories(&message.histories.unwrap_or_default(), runs.len())?,
        volumes: volumes.len(),
        runs: runs.len(),
        time_step_ns: message.time_step_ns.max(1),
    };
    let profile = Profile {
        runs,
        volumes,
        files: shared.files(&message.files.unwrap_or_default())?,
        names: shared.names(&message.names.unwrap_or_default())?,
        blocks: shared.blocks(&message.blocks.unwrap_or_default())?,
    };
    Ok((message.name, profile))
}

/// Counts runs and volumes before there is memory set aside for each: two bytes
/// of input make a volume of seventy.
fn check_counts(mut bytes: Bytes) -> Result<Result<(), CodecError>, prost::DecodeError> {
    let (mut runs, mut volumes) = (0, 0);
    while bytes.has_remaining() {
        let (tag, wire_type) = decode_key(&mut bytes)?;
        runs += usize::from(tag == wire::RUNS_TAG);
        volumes += usize::from(tag == wire::VOLUMES_TAG);
        if runs > MAX_RUNS {
            return Ok(Err(too_many("run", MAX_RUNS)));
        }
        if volumes > LIMITS.volumes {
            return Ok(Err(too_many("volume", LIMITS.volumes)));
        }
        skip_field(wire_type, tag, &mut bytes, DecodeContext::default())?;
    }
    Ok(Ok(()))
}

fn too_many(what: &'static str, limit: usize) -> CodecError {
    CodecError::TooMany { what, limit }
}

fn field(
    record: &'static str,
    index: usize,
    field: &'static str,
    problem: impl Into<String>,
) -> CodecError {
    CodecError::Field {
        record,
        index,
        field,
        problem: problem.into(),
    }
}

fn runs(runs: &[wire::Run]) -> Result<Vec<RunInfo>, CodecError> {
    let mut out: Vec<RunInfo> = Vec::with_capacity(runs.len());
    for (index, run) in runs.iter().enumerate() {
        let key = (run.started_ms, run.id);
        if out
            .last()
            .is_some_and(|last| (last.started_ms, last.id) >= key)
        {
            return Err(field(
                "run",
                index,
                "started_ms",
                "not after the run before it",
            ));
        }
        out.push(RunInfo {
            started_ms: run.started_ms,
            id: run.id,
            duration_ns: run.duration_ns,
            exact: run.exact,
            blind_ns: run.blind_ns,
        });
    }
    Ok(out)
}

fn volumes(volumes: Vec<wire::Volume>) -> Result<Vec<Volume>, CodecError> {
    let mut out: Vec<Volume> = Vec::with_capacity(volumes.len());
    for (index, volume) in volumes.into_iter().enumerate() {
        if volume.id.is_empty() {
            return Err(field("volume", index, "id", "is empty"));
        }
        if out.last().is_some_and(|last| last.id.0 >= volume.id) {
            let problem = format!(
                "{} is not after the volume before it",
                shown(volume.id.as_bytes())
            );
            return Err(field("volume", index, "id", problem));
        }
        if volume.mount_point.first() != Some(&b'/') || volume.mount_point.contains(&0) {
            let problem = format!("{} is no absolute path", shown(&volume.mount_point));
            return Err(field("volume", index, "mount_point", problem));
        }
        out.push(Volume {
            id: VolumeId(volume.id),
            fs_type: volume.fs_type,
            mount_point: volume.mount_point,
        });
    }
    Ok(out)
}

/// The pairs (certain, seen).
fn histories(
    columns: &wire::Histories,
    runs: usize,
) -> Result<Vec<(RunMask, RunMask)>, CodecError> {
    // One each for extents, names and blocks is all that can be referred to.
    const LIMIT: usize = LIMITS.extents + LIMITS.names + LIMITS.blocks;
    let mut certain = Reader::new(&columns.certain, "history", "certain");
    let mut seen = Reader::new(&columns.seen, "history", "seen");
    let all = u32::try_from((1_u64 << runs) - 1).unwrap_or(RunMask::MAX);
    let mut out = Vec::new();
    while !seen.is_empty() {
        if out.len() == LIMIT {
            return Err(too_many("history", LIMIT));
        }
        let pair = (certain.next_u32()?, seen.next_u32()?);
        if pair.1 == 0 {
            return Err(seen.error("seen by no run"));
        }
        if pair.1 & !all != 0 {
            return Err(seen.error(format!(
                "{:#x} has a run that is not among the {runs}",
                pair.1
            )));
        }
        if pair.0 & !pair.1 != 0 {
            return Err(certain.error("certain in a run that did not see it"));
        }
        out.push(pair);
    }
    certain.finish()?;
    Ok(out)
}

/// Paths, each followed by a NUL, sorted within their volume.
struct Paths<'a> {
    rest: &'a [u8],
    record: &'static str,
    index: usize,
    last_volume: Option<u32>,
    last: &'a [u8],
}

impl<'a> Paths<'a> {
    fn new(bytes: &'a [u8], record: &'static str) -> Self {
        Paths {
            rest: bytes,
            record,
            index: 0,
            last_volume: None,
            last: &[],
        }
    }

    fn next(&mut self, volume: u32) -> Result<RelPath, CodecError> {
        let error = |problem| field(self.record, self.index, "path", problem);
        let Some(end) = self.rest.iter().position(|&b| b == 0) else {
            return Err(error("is missing".to_owned()));
        };
        let path = &self.rest[..end];
        if self
            .last_volume
            .is_some_and(|last| (last, self.last) >= (volume, path))
        {
            let problem = format!("{} is not after the one before it", shown(path));
            return Err(error(problem));
        }
        let checked = RelPath::new(path).map_err(|e| error(format!("{}: {e}", shown(path))))?;
        self.rest = &self.rest[end + 1..];
        self.index += 1;
        (self.last_volume, self.last) = (Some(volume), path);
        Ok(checked)
    }

    fn finish(self) -> Result<(), CodecError> {
        if self.rest.is_empty() {
            return Ok(());
        }
        let problem = format!("there are only {} {}s", self.index, self.record);
        Err(field(self.record, self.index, "path", problem))
    }
}

/// What all parts of a profile refer to.
struct Shared {
    histories: Vec<(RunMask, RunMask)>,
    volumes: usize,
    runs: usize,
    time_step_ns: u64,
}

impl Shared {
    fn volume(&self, column: &mut Reader<'_>) -> Result<u32, CodecError> {
        let volume = column.next_u32()?;
        if volume as usize >= self.volumes {
            return Err(column.error(format!("{volume} of only {} volumes", self.volumes)));
        }
        Ok(volume)
    }

    /// A run by its number from 1, as a mask; 0 is none.
    fn run(&self, column: &mut Reader<'_>) -> Result<RunMask, CodecError> {
        let number = column.next_u32()?;
        if number as usize > self.runs {
            return Err(column.error(format!("run {number} of only {}", self.runs)));
        }
        Ok(number.checked_sub(1).map_or(0, |bit| 1 << bit))
    }

    #[inline]
    fn time(&self, column: &mut Reader<'_>) -> Result<u64, CodecError> {
        let steps = column.next_delta()?;
        steps
            .checked_mul(self.time_step_ns)
            .ok_or_else(|| column.error("later than 584 years"))
    }

    #[inline]
    fn history(&self, column: &mut Reader<'_>) -> Result<(RunMask, RunMask), CodecError> {
        let index = column.next()?;
        let found = usize::try_from(index)
            .ok()
            .and_then(|i| self.histories.get(i));
        found.copied().ok_or_else(|| {
            column.error(format!(
                "{index} of only {} histories",
                self.histories.len()
            ))
        })
    }

    /// The runs of a name or block, which are never unsure.
    fn seen(&self, column: &mut Reader<'_>) -> Result<RunMask, CodecError> {
        match self.history(column)? {
            (0, seen) => Ok(seen),
            _ => Err(column.error("has certain runs, which only a file's extents have")),
        }
    }

    fn files(&self, columns: &wire::Files) -> Result<Vec<ProfileFile>, CodecError> {
        let mut volume = Reader::new(&columns.volume, "file", "volume");
        let mut paths = Paths::new(&columns.path, "file");
        let mut size = Reader::new(&columns.size, "file", "size");
        let mut mtime = Reader::new(&columns.mtime_delta_ns, "file", "mtime_delta_ns");
        let mut counts = Reader::new(&columns.extents, "file", "extents");
        let mut changed = Reader::new(&columns.changed, "file", "changed");
        let any_changed = !changed.is_empty();
        let no_extents = wire::ExtentColumns::default();
        let mut extents = Extents::new(columns.extent.as_ref().unwrap_or(&no_extents), "extent");
        let (mut out, mut left) = (Vec::new(), LIMITS.extents);
        while !volume.is_empty() {
            if out.len() == LIMITS.files {
                return Err(too_many("file", LIMITS.files));
            }
            let volume = self.volume(&mut volume)?;
            let count = counts.next()?;
            let count = usize::try_from(count).unwrap_or(usize::MAX);
            if count == 0 {
                return Err(counts.error("a file without extents"));
            }
            left = left
                .checked_sub(count)
                .ok_or(too_many("extent", LIMITS.extents))?;
            let mut file = ProfileFile {
                volume,
                path: paths.next(volume)?,
                version: FileVersion {
                    size: size.next()?,
                    mtime_ns: mtime.next_delta()? as i64,
                },
                changed: if any_changed {
                    self.run(&mut changed)?
                } else {
                    0
                },
                // The columns may be shorter than the count says.
                extents: Vec::with_capacity(count.min(extents.pages.rest_len())),
            };
            extents.end = 0;
            for _ in 0..count {
                file.extents.push(extents.next(self)?);
            }
            out.push(file);
        }
        paths.finish()?;
        size.finish()?;
        mtime.finish()?;
        counts.finish()?;
        changed.finish()?;
        extents.finish()?;
        Ok(out)
    }

    fn names(&self, columns: &wire::Names) -> Result<Vec<NameRecord>, CodecError> {
        let mut volume = Reader::new(&columns.volume, "name", "volume");
        let mut paths = Paths::new(&columns.path, "name");
        let mut kind = Reader::new(&columns.kind, "name", "kind");
        let mut listed = Reader::new(&columns.listed, "name", "listed");
        let mut first_use = Reader::new(&columns.first_use_delta, "name", "first_use_delta");
        let mut history = Reader::new(&columns.history, "name", "history");
        let mut out = Vec::new();
        while !volume.is_empty() {
            if out.len() == LIMITS.names {
                return Err(too_many("name", LIMITS.names));
            }
            let volume = self.volume(&mut volume)?;
            out.push(NameRecord {
                volume,
                path: paths.next(volume)?,
                kind: match kind.next()? {
                    0 => NameKind::File,
                    1 => NameKind::Directory,
                    2 => NameKind::Symlink,
                    3 => NameKind::Missing,
                    other => return Err(kind.error(format!("{other} is no kind"))),
                },
                listed: match listed.next()? {
                    0 => false,
                    1 => true,
                    other => return Err(listed.error(format!("{other} is neither 0 nor 1"))),
                },
                first_use_ns: self.time(&mut first_use)?,
                seen: self.seen(&mut history)?,
            });
        }
        paths.finish()?;
        kind.finish()?;
        listed.finish()?;
        first_use.finish()?;
        history.finish()?;
        Ok(out)
    }

    fn blocks(&self, columns: &wire::Blocks) -> Result<Vec<crate::model::BlockExtent>, CodecError> {
        let mut volumes = Reader::new(&columns.volume, "block", "volume");
        let no_extents = wire::ExtentColumns::default();
        let mut extents = Extents::new(columns.extent.as_ref().unwrap_or(&no_extents), "block");
        let mut out: Vec<crate::model::BlockExtent> = Vec::new();
        while !volumes.is_empty() {
            if out.len() == LIMITS.blocks {
                return Err(too_many("block", LIMITS.blocks));
            }
            let volume = self.volume(&mut volumes)?;
            match out.last() {
                Some(last) if last.volume > volume => {
                    return Err(volumes.error("not after the volume of the block before it"));
                }
                Some(last) if last.volume == volume => {}
                _ => extents.end = 0,
            }
            let extent = extents.next(self)?;
            if extent.certain != 0 {
                let problem = "has certain runs, which only a file's extents have";
                return Err(extents.history.error(problem));
            }
            out.push(block(volume, &extent));
        }
        extents.finish()?;
        Ok(out)
    }
}

struct Extents<'a> {
    gap: Reader<'a>,
    pages: Reader<'a>,
    first_use: Reader<'a>,
    history: Reader<'a>,
    /// End of the extent before, in pages.
    end: u64,
}

impl<'a> Extents<'a> {
    fn new(columns: &'a wire::ExtentColumns, record: &'static str) -> Self {
        Extents {
            gap: Reader::new(&columns.gap, record, "gap"),
            pages: Reader::new(&columns.pages, record, "pages"),
            first_use: Reader::new(&columns.first_use_delta, record, "first_use_delta"),
            history: Reader::new(&columns.history, record, "history"),
            end: 0,
        }
    }

    #[inline]
    fn next(&mut self, shared: &Shared) -> Result<Extent, CodecError> {
        let (gap, pages) = (self.gap.next()?, self.pages.next_u32()?);
        if pages == 0 {
            return Err(self.pages.error("an extent without pages"));
        }
        let start_page = self.end.checked_add(gap).filter(|&s| s < END_OF_PAGES);
        let Some(start_page) = start_page else {
            return Err(self.gap.error("starts past the largest possible file"));
        };
        self.end = start_page + u64::from(pages);
        if self.end > END_OF_PAGES {
            return Err(self.pages.error("ends past the largest possible file"));
        }
        let (certain, seen) = shared.history(&mut self.history)?;
        Ok(Extent {
            start_page,
            pages,
            first_use_ns: shared.time(&mut self.first_use)?,
            certain,
            seen,
        })
    }

    fn finish(self) -> Result<(), CodecError> {
        self.gap.finish()?;
        self.pages.finish()?;
        self.first_use.finish()?;
        self.history.finish()
    }
}
