//! What a run did before the probes were there. Pure.

use crate::model::{Certainty, FileTouches, NameTouch, PageTouch, Profile, Trace};

/// Adds to a trace what earlier runs did in the time this one was not seen.
///
/// Not seen is not the same as not done: without this, a run that was joined
/// late would count against everything that happens early.
pub fn fill_blind(trace: &mut Trace, profile: &Profile) {
    if trace.blind_ns == 0 {
        return;
    }
    let blind = trace.blind_ns;
    let volumes: Vec<u32> = profile
        .volumes
        .iter()
        .map(
            |volume| match trace.volumes.iter().position(|v| v.id == volume.id) {
                Some(index) => index as u32,
                None => {
                    trace.volumes.push(volume.clone());
                    trace.volumes.len() as u32 - 1
                }
            },
        )
        .collect();
    for file in &profile.files {
        let touches: Vec<PageTouch> = file
            .extents
            .iter()
            .filter(|extent| extent.first_use_ns < blind)
            .map(|extent| PageTouch {
                start_page: extent.start_page,
                pages: extent.pages,
                certainty: if extent.certain != 0 {
                    Certainty::Certain
                } else {
                    Certainty::Maybe
                },
                first_use_ns: extent.first_use_ns,
            })
            .collect();
        if !touches.is_empty() {
            trace.files.push(FileTouches {
                volume: volumes[file.volume as usize],
                path: file.path.clone(),
                version: file.version,
                touches,
            });
        }
    }
    for name in profile
        .names
        .iter()
        .filter(|name| name.first_use_ns < blind)
    {
        trace.names.push(NameTouch {
            volume: volumes[name.volume as usize],
            path: name.path.clone(),
            kind: name.kind,
            listed: name.listed,
            first_use_ns: name.first_use_ns,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Extent, FileVersion, ProfileFile, RelPath, Volume, VolumeId};

    #[test]
    fn only_what_came_before_the_probes_is_filled_in() {
        let extent = |start_page, first_use_ns| Extent {
            start_page,
            pages: 1,
            first_use_ns,
            certain: 1,
            seen: 1,
        };
        let profile = Profile {
            volumes: vec![Volume {
                id: VolumeId("uuid:1".into()),
                fs_type: "ext4".into(),
                mount_point: b"/".to_vec(),
            }],
            files: vec![ProfileFile {
                volume: 0,
                path: RelPath::new(b"a".to_vec()).expect("path"),
                version: FileVersion::default(),
                changed: 0,
                extents: vec![extent(0, 5), extent(9, 50)],
            }],
            ..Profile::default()
        };
        let mut trace = Trace {
            blind_ns: 20,
            ..Trace::default()
        };
        fill_blind(&mut trace, &profile);
        assert_eq!(trace.files.len(), 1);
        assert_eq!(trace.files[0].touches.len(), 1);
        assert_eq!(trace.files[0].touches[0].start_page, 0);
        let mut seen = Trace::default();
        fill_blind(&mut seen, &profile);
        assert_eq!(seen, Trace::default());
    }
}
