//! The house rules, checked over the files of the tree.

use std::fs;
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Files below `dir` whose name ends in `.rs`, sorted; build output is left out.
fn rust_files(dir: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut waiting = vec![root().join(dir)];
    while let Some(dir) = waiting.pop() {
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() && path.file_name().is_some_and(|n| n != "target") {
                waiting.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

fn all_rust_files() -> Vec<PathBuf> {
    let files: Vec<PathBuf> = ["src", "tests"].into_iter().flat_map(rust_files).collect();
    assert!(files.len() > 5, "the sources were not found below {}", root().display());
    files
}

fn name(path: &Path) -> String {
    path.strip_prefix(root()).unwrap_or(path).display().to_string()
}

fn text(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|e| panic!("read {}: {e}", path.display()))
}

/// Whether `word` stands in `line` as a word of its own, outside a line comment.
fn has_word(line: &str, word: &str) -> bool {
    let code = line.split("//").next().unwrap_or_default();
    code.split(|c: char| !c.is_alphanumeric() && c != '_').any(|w| w == word)
}

#[test]
fn unsafe_lives_in_three_files() {
    const PINNED: [&str; 3] = ["src/sys/mod.rs", "src/sys/privcmd.rs", "src/boot/purgatory.rs"];
    for path in rust_files("src") {
        let (name, text) = (name(&path), text(&path));
        let uses = text.lines().any(|l| has_word(l, "unsafe"));
        assert!(!uses || PINNED.contains(&name.as_str()), "{name} uses unsafe; only {PINNED:?} may");
        assert!(!uses || text.contains("// UNSAFETY: "), "{name} lacks the line '// UNSAFETY: reason'");
    }
}

#[test]
fn files_are_short_enough_to_read_in_one_sitting() {
    for path in all_rust_files() {
        let lines = text(&path).lines().count();
        assert!(lines <= 800, "{} has {lines} lines, more than 800", name(&path));
    }
}

#[test]
fn every_source_file_says_what_it_is() {
    for path in all_rust_files() {
        assert!(text(&path).starts_with("//!"), "{} does not begin with a '//!' header", name(&path));
    }
}

#[test]
fn nothing_is_left_to_do_later() {
    // Spelt in halves, so that this file does not find itself.
    let words = [["to", "do!("], ["unimple", "mented!("], ["FIX", "ME"], ["#[ig", "nore"]].map(|h| h.concat());
    for path in all_rust_files() {
        let text = text(&path);
        for word in &words {
            assert!(!text.contains(word.as_str()), "{} holds {word}", name(&path));
        }
    }
}

/// The walls of the house: which room may import which. The drivers (cli, init, crashkernel) may import any.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("error", &[]),
    ("abi", &[]),
    ("mem", &["error"]),
    ("codec", &[]),
    ("sys", &["error", "mem", "abi"]),
    ("host", &["error", "mem", "abi", "sys"]),
    ("image", &["error", "mem", "abi", "codec"]),
    ("boot", &["error", "mem", "abi", "image", "host"]),
    ("load", &["error", "mem", "abi", "sys", "host", "boot"]),
    ("vmcore", &["error", "mem", "abi", "sys", "codec"]),
    ("target", &["error", "mem", "abi", "sys"]),
    ("dump", &["error", "mem", "abi", "sys", "codec", "vmcore", "target"]),
    ("capture", &["error", "mem", "abi", "sys", "codec", "vmcore", "target", "dump"]),
    ("initramfs", &["error", "mem", "abi", "sys", "codec"]),
];

const DRIVERS: [&str; 3] = ["cli", "init", "crashkernel"];

fn room(path: &Path) -> String {
    let inside = path.strip_prefix(root().join("src")).unwrap_or(path);
    let first = inside.components().next().map(|c| c.as_os_str().to_string_lossy().into_owned());
    first.unwrap_or_default().trim_end_matches(".rs").to_owned()
}

/// Rooms named behind `crate::` in `line`, groups (`crate::{a, b::c}`) included.
fn imports(line: &str) -> Vec<String> {
    let head = |s: &str| s.trim().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let mut found = Vec::new();
    for tail in line.split("crate::").skip(1) {
        match tail.strip_prefix('{') {
            Some(group) => found.extend(group.split(',').map(head).filter(|h| !h.is_empty())),
            None => found.push(head(tail)),
        }
    }
    found
}

#[test]
fn no_room_imports_past_its_walls() {
    assert_eq!(imports("use crate::{mem::Range, error::Result};"), ["mem", "error"]);
    for path in rust_files("src") {
        let room = room(&path);
        let Some((_, allowed)) = MAY_IMPORT.iter().find(|(r, _)| *r == room) else { continue };
        for (number, line) in text(&path).lines().enumerate() {
            for import in imports(line.split("//").next().unwrap_or_default()) {
                let is_room = MAY_IMPORT.iter().any(|(r, _)| *r == import) || DRIVERS.contains(&import.as_str());
                let fine = !is_room || import == room || allowed.contains(&import.as_str());
                assert!(fine, "{}:{}: {room} must not import {import}", name(&path), number + 1);
            }
        }
    }
}

#[test]
fn every_dependency_has_its_line_in_the_readme() {
    let manifest = text(&root().join("Cargo.toml"));
    let readme = text(&root().join("README.md"));
    let section = manifest.split("[dependencies]").nth(1).and_then(|s| s.split("\n[").next()).unwrap_or_default();
    let names: Vec<&str> = section.lines().filter_map(|l| l.split_once('=')).map(|(n, _)| n.trim()).collect();
    assert!(names.len() > 5, "the list of dependencies was not found");
    for name in names {
        assert!(readme.contains(&format!("| `{name}`")), "README's table of dependencies lacks `{name}`");
    }
}
