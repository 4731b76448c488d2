//! What the sources may not have.

use std::path::{Path, PathBuf};

fn sources(directory: &Path, all: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            sources(&path, all);
        } else if name.ends_with(".rs") {
            all.push(path);
        }
    }
}

/// Lines of a source that have the word as code: not in a comment or a text.
fn says<'s>(source: &'s str, word: &str) -> Vec<&'s str> {
    let code = |line: &&str| {
        let line = line.split("//").next().unwrap();
        let outside: String = line.split('"').step_by(2).collect();
        outside.split(|letter: char| !letter.is_alphanumeric() && letter != '_').any(|part| part == word)
    };
    source.lines().filter(code).collect()
}

/// The lint that forbids it binds the crates of the workspace; this binds the fuzzer too, and finds a lint that was
/// taken out.
#[test]
fn there_is_no_unsafe_code() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut all = Vec::new();
    sources(root, &mut all);
    assert!(all.len() > 200, "only {} sources were found", all.len());
    for path in all {
        let source = std::fs::read_to_string(&path).unwrap();
        let word = concat!("un", "safe");
        assert!(says(&source, word).is_empty(), "{}: {:?}", path.display(), says(&source, word));
    }
    let manifest = std::fs::read_to_string(root.join("Cargo.toml")).unwrap();
    assert!(manifest.contains(concat!("un", "safe_code = \"forbid\"")));
}

/// Advice that names a test is true only while the test is there.
#[test]
fn documents_name_files_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let tests = root.join("ratelimit-proxy/tests/end_to_end");
    for document in ["SECURITY.md", "docs/guarantees.md"] {
        let text = std::fs::read_to_string(root.join(document)).unwrap();
        let named =
            text.split('`').skip(1).step_by(2).filter(|name| name.contains(".rs") && !name.contains(' '));
        for name in named {
            let (file, test) = name.split_once("::").map_or((name, None), |(file, test)| (file, Some(test)));
            let path = if file.contains('/') { root.join(file) } else { tests.join(file) };
            let source = std::fs::read_to_string(&path);
            let source = source.unwrap_or_else(|error| panic!("{document} names {name}: {error}"));
            if let Some(test) = test {
                assert!(
                    source.contains(&format!("fn {test}(")),
                    "{document} names {name}, which is not there"
                );
            }
        }
    }
}

#[test]
fn code_is_told_from_comments_and_texts() {
    assert_eq!(says("let a = 1;\nword { b }\n", "word"), ["word { b }"]);
    assert!(says("// word\nlet a = \"word\"; // word\nlet sword = 1;", "word").is_empty());
}
