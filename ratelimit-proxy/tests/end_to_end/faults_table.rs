//! The table of faults names tests that exist.

use std::collections::HashMap;
use std::path::Path;

/// The rows: number, and the tests it names as file and function.
fn rows(table: &str) -> Vec<(u32, Vec<(&str, &str)>)> {
    let cells =
        |line: &'static str| line.trim().trim_matches('|').split(" | ").map(str::trim).collect::<Vec<_>>();
    let table: &'static str = table.to_owned().leak();
    let row = |line| {
        let cells = cells(line);
        let number = cells.first()?.parse().ok()?;
        assert_eq!(cells.len(), 4, "row {number} has other cells than number, what, what happens, tests");
        let named = cells[3].split('`').skip(1).step_by(2);
        let split = |test: &'static str| {
            test.split_once("::").unwrap_or_else(|| panic!("row {number}: {test} is no file::test"))
        };
        Some((number, named.map(split).collect()))
    };
    table.lines().filter(|line| line.starts_with("| ")).filter_map(row).collect()
}

/// Whether a source has a test of that name: a function with an attribute that makes it one, in this file or in
/// what a macro of it makes tests of.
fn has_test(source: &str, name: &str) -> bool {
    let Some(at) = source.find(&format!("fn {name}(")) else { return false };
    let before = &source[..at];
    // The attributes stand between the end of what comes before and the function.
    let attributes = before.rfind("}\n").map_or(before, |end| &before[end..]);
    attributes.contains("#[test]") || attributes.contains("::test")
}

#[test]
fn every_test_in_the_table_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let table = std::fs::read_to_string(root.join("docs/faults.md")).unwrap();
    let rows = rows(&table);
    assert!(rows.len() > 50, "only {} rows were understood", rows.len());
    let mut sources = HashMap::new();
    let mut missing = Vec::new();
    for (number, tests) in &rows {
        if tests.is_empty() {
            missing.push(format!("row {number} names no test"));
        }
        for (file, test) in tests {
            let source = sources.entry(*file).or_insert_with(|| std::fs::read_to_string(root.join(file)));
            match source {
                Ok(source) if has_test(source, test) => {}
                Ok(_) => missing.push(format!("row {number}: {file} has no test {test}")),
                Err(error) => missing.push(format!("row {number}: {file}: {error}")),
            }
        }
    }
    assert!(missing.is_empty(), "{}", missing.join("\n"));
    let mut numbers: Vec<u32> = rows.iter().map(|(number, _)| *number).collect();
    numbers.dedup();
    assert!(numbers.is_sorted() && numbers.len() == rows.len(), "rows stand once and in order");
}

#[test]
fn a_test_is_a_function_that_is_run() {
    let source = "fn helper() {\n}\n\n#[test]\nfn works() {\n}\n\n#[tokio::test(flavor = \"x\")]\nasync fn waits() {\n}\n";
    assert!(has_test(source, "works") && has_test(source, "waits"));
    assert!(!has_test(source, "helper") && !has_test(source, "gone") && !has_test(source, "work"));
}
