//! What a plan comes to, before it is carried out.

use std::collections::HashMap;

use super::files::FileTable;
use super::progress::Progress;
use super::{Lead, WarmOptions};
use crate::model::{Action, NameKind, PAGE_SIZE, Plan, RelPath};

/// Adds the plan up, and tells each file how many actions are to come. For which
/// names opening a file serves as well.
pub(super) fn count(
    plan: &Plan,
    options: &WarmOptions,
    progress: &Progress,
    files: &FileTable,
) -> Vec<bool> {
    let mut seen = vec![false; plan.files.len()];
    for action in &plan.actions {
        match *action {
            Action::Blocks { pages, .. } if options.metadata => {
                progress.blocks.planned.add(u64::from(pages) * PAGE_SIZE);
            }
            Action::Name { .. } if options.metadata => progress.names_planned.add(1),
            Action::Blocks { .. } | Action::Name { .. } => {}
            Action::Read { file, pages, .. } => {
                progress.data.planned.add(u64::from(pages) * PAGE_SIZE);
                files.expect(file);
                if let Some(seen) = seen.get_mut(file as usize) {
                    *seen = true;
                }
            }
        }
    }
    let planned = seen.iter().filter(|&&s| s).count() as u64;
    progress.files_planned.add(planned);
    // Beside a start a name may be needed long before the data.
    if !options.metadata || options.lead == Lead::Beside {
        return Vec::new();
    }
    let read: HashMap<(u32, &RelPath), u32> = (0..)
        .zip(plan.files.iter().zip(&seen))
        .filter(|(_, (_, seen))| **seen)
        .map(|(index, (file, _))| ((file.volume, &file.path), index))
        .collect();
    let mut served = vec![false; plan.names.len()];
    for action in &plan.actions {
        let Action::Name { name: index } = *action else {
            continue;
        };
        let name = plan.names.get(index as usize);
        let name = name.filter(|name| name.kind == NameKind::File);
        if let Some(&file) = name.and_then(|name| read.get(&(name.volume, &name.path))) {
            files.expect_name(file);
            served[index as usize] = true;
        }
    }
    served
}
