//! Keeps the direction of dependencies: a module uses only modules in rows above its own.

use std::{fs, path::Path};

const ROWS: [&[&str]; 6] = [
    &["api", "clock", "random", "wire"],
    &["store", "proxmox", "zfs", "git", "llm", "remote"],
    &["admission", "auth", "budget", "lineage", "evolution", "boundary", "agent", "placement"],
    &["objects", "ledger", "driver", "world", "runtime"],
    &["apiserver", "gateway", "controller", "gitops", "lab", "guest", "web"],
    &["config", "telemetry", "cli"],
];

fn row(module: &str) -> Option<usize> {
    ROWS.iter().position(|row| row.contains(&module))
}

fn sources(dir: &Path, out: &mut Vec<std::path::PathBuf>) {
    for entry in fs::read_dir(dir).expect("src can be read") {
        let path = entry.expect("src can be read").path();
        if path.is_dir() {
            sources(&path, out);
        } else if path.extension().is_some_and(|e| e == "rs") {
            out.push(path);
        }
    }
}

/// Every `crate::X` of a file, with its line; `use crate::{a::…, b}` counts as each.
fn uses(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (start, _) in text.match_indices("crate::") {
        let line = text[..start].matches('\n').count() + 1;
        let line_text = text.lines().nth(line - 1).unwrap_or_default().trim_start();
        if line_text.starts_with("//") || text[..start].ends_with('$') {
            continue;
        }
        let rest = &text[start + "crate::".len()..];
        let word = |s: &str| s.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
        if let Some(list) = rest.strip_prefix('{') {
            let (mut depth, mut item) = (1, String::new());
            for c in list.chars() {
                match c {
                    '{' => depth += 1,
                    '}' => depth -= 1,
                    _ => {}
                }
                if depth == 0 || (depth == 1 && c == ',') {
                    found.push((line, word(&item)));
                    item.clear();
                    if depth == 0 {
                        break;
                    }
                } else {
                    item.push(c);
                }
            }
        } else {
            found.push((line, word(rest)));
        }
    }
    found
}

#[test]
fn modules_use_only_rows_above() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&src, &mut files);
    let mut wrong = Vec::new();
    for file in files {
        let relative = file.strip_prefix(&src).expect("below src");
        let first = relative.iter().next().expect("not empty").to_string_lossy();
        let module = first.trim_end_matches(".rs");
        if matches!(module, "lib" | "main") {
            continue;
        }
        let Some(own) = row(module) else {
            wrong.push(format!("{}: module `{module}` has no row in tests/it/layers.rs", relative.display()));
            continue;
        };
        for (line, used) in uses(&fs::read_to_string(&file).expect("readable")) {
            match row(&used) {
                _ if used == module || used.is_empty() => {}
                // Within the last row, the program may compose its own parts.
                Some(theirs) if theirs < own || (own == ROWS.len() - 1 && theirs == own) => {}
                Some(_) => wrong.push(format!("{}:{line}: `{module}` (row {}) uses `{used}`", relative.display(), own + 1)),
                None => wrong.push(format!("{}:{line}: uses `{used}`, which has no row", relative.display())),
            }
        }
    }
    assert!(wrong.is_empty(), "dependencies against the floor plan:\n{}", wrong.join("\n"));
}

#[test]
fn api_imports_nothing_from_the_crate() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/api");
    let mut files = Vec::new();
    sources(&src, &mut files);
    for file in files {
        for (line, used) in uses(&fs::read_to_string(&file).expect("readable")) {
            assert!(used == "api", "{}:{line}: api is written as if it were a crate, but uses `{used}`", file.display());
        }
    }
}

#[test]
fn the_reader_of_use_lines_sees_nested_lists() {
    let seen: Vec<String> =
        uses("use crate::{api::{Machine, Hub}, store};\nlet x = crate::zfs::y();").into_iter().map(|(_, m)| m).collect();
    assert_eq!(seen, ["api", "store", "zfs"]);
}
