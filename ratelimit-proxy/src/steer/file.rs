//! The file that keeps overrides: JSON, replaced as a whole, so that it is always one or the other.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::book::{Book, Gives, Id, Record};

/// Most bytes of a file: several times what fits into a full book.
const MOST: u64 = 64 << 20;
const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    version: u32,
    overrides: Vec<Entry>,
}

#[derive(Serialize, Deserialize)]
struct Entry {
    limit: String,
    key: String,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    gives: Option<Gives>,
    stamp: u64,
}

/// The file of that name.
#[derive(Clone, Debug)]
pub(crate) struct BookFile(PathBuf);

impl BookFile {
    pub(crate) fn at(path: &Path) -> Self {
        Self(path.to_owned())
    }

    /// What it keeps; nothing if it is not there yet.
    ///
    /// # Errors
    /// When it can't be read, or is not what [`BookFile::save`] wrote. The text names the file.
    pub(crate) fn load(&self) -> io::Result<Book> {
        let fault = |error: &dyn std::fmt::Display| {
            io::Error::other(format!("overrides_file {}: {error}", self.0.display()))
        };
        let length = match fs::metadata(&self.0) {
            Ok(metadata) if metadata.is_file() => metadata.len(),
            Ok(_) => return Err(fault(&"not a file")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Book::default()),
            Err(error) => return Err(fault(&error)),
        };
        if length > MOST {
            return Err(fault(&format!("larger than {MOST} bytes")));
        }
        let bytes = fs::read(&self.0).map_err(|error| fault(&error))?;
        let hint = "repair it, or move it away to begin without overrides";
        let content: Content =
            serde_json::from_slice(&bytes).map_err(|error| fault(&format!("{error} ({hint})")))?;
        if content.version != VERSION {
            let version = content.version;
            return Err(fault(&format!("version {version} is of another release ({hint})")));
        }
        let mut book = Book::default();
        for Entry { limit, key, gives, stamp } in content.overrides {
            book.take(Id { limit, key }, Record { gives, stamp });
        }
        Ok(book)
    }

    /// Keeps a book instead of the one before. Blocks.
    ///
    /// # Errors
    /// When it can't be written; then the one before is still there.
    pub(crate) fn save(&self, book: &Book) -> io::Result<()> {
        let overrides = book.records().map(|(id, record)| Entry {
            limit: id.limit.clone(),
            key: id.key.clone(),
            gives: record.gives.clone(),
            stamp: record.stamp,
        });
        let content = Content { version: VERSION, overrides: overrides.collect() };
        let mut bytes = serde_json::to_vec_pretty(&content)?;
        bytes.push(b'\n');
        let mut beside = self.0.clone().into_os_string();
        beside.push(".new");
        // Keys may be secrets.
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        fs::rename(&beside, &self.0)?;
        // The new name is there after a crash, too.
        let directory = self.0.parent().filter(|path| !path.as_os_str().is_empty());
        File::open(directory.unwrap_or(Path::new("."))).and_then(|directory| directory.sync_all())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn book(key: &str) -> Book {
        let mut book = Book::default();
        let gives = Gives { deny: true, ..Gives::default() };
        book.take(Id { limit: "l".to_owned(), key: key.to_owned() }, Record { gives: Some(gives), stamp: 7 });
        book
    }

    fn records(book: &Book) -> Vec<(Id, Record)> {
        book.records().map(|(id, record)| (id.clone(), record.clone())).collect()
    }

    #[test]
    fn what_is_kept_is_what_was_there_and_nobody_else_reads_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("overrides.json");
        let file = BookFile::at(&path);
        assert!(records(&file.load().unwrap()).is_empty(), "it is not there yet");
        for key in ["a", "%FF,@missing"] {
            file.save(&book(key)).unwrap();
            assert_eq!(records(&file.load().unwrap()), records(&book(key)));
        }
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "nothing is left beside it");
    }

    #[test]
    fn what_is_broken_is_refused_with_its_name() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("overrides.json");
        for text in ["", "{", "[]", r#"{"version":2,"overrides":[]}"#, r#"{"version":1}"#, "\u{0}"] {
            fs::write(&path, text).unwrap();
            let error = BookFile::at(&path).load().unwrap_err().to_string();
            assert!(error.contains("overrides.json"), "{error}");
        }
        let error = BookFile::at(directory.path()).load().unwrap_err().to_string();
        assert!(error.contains("not a file"), "{error}");
    }

    #[test]
    fn what_can_not_be_written_leaves_what_was_there() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("overrides.json");
        let file = BookFile::at(&path);
        file.save(&book("a")).unwrap();
        fs::create_dir(directory.path().join("overrides.json.new")).unwrap();
        assert!(file.save(&book("b")).is_err());
        assert_eq!(records(&file.load().unwrap()), records(&book("a")));
    }
}
