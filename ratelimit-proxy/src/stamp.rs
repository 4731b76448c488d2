//! [`Stamp`]: what changes when a file does, or when another takes its name. Files are asked for it once in a while
//! rather than watched: see [`crate::reload`].

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

/// How often files are looked at.
pub(crate) const LOOK: Duration = Duration::from_secs(1);
/// How long changed files must have been left alone.
pub(crate) const SETTLED: Duration = Duration::from_millis(200);

/// The state of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    device: u64,
    inode: u64,
    length: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    /// Of the file that a path leads to; `None` if that is no file at the moment.
    pub(crate) fn of(path: &Path) -> Option<Self> {
        let file = fs::metadata(path).ok().filter(fs::Metadata::is_file)?;
        Some(Self {
            device: file.dev(),
            inode: file.ino(),
            length: file.len(),
            modified: (file.mtime(), file.mtime_nsec()),
            changed: (file.ctime(), file.ctime_nsec()),
        })
    }
}
