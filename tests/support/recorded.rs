//! Recorded machines: one text file each in `tests/fixtures/machines`, unfolded into the `/proc` and `/sys` it came from.
//!
//! ```text
//! # a comment
//! @include NAME                  everything of another machine; what follows replaces it
//! @PATH = TEXT                   a file of one line
//! @PATH                          a file of the lines that follow
//! @PATH hex BYTES                a binary file: 'offset: bytes' where it is not zero
//! @PATH without                  no such file or directory
//! @sys/firmware/memmap entries   'first last type', one directory each
//! ```

use std::fs;
use std::path::Path;

/// Unfolds the machine `name` below `root`.
pub fn unfold(name: &str, root: &Path) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/machines").join(format!("{name}.txt"));
    let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("read {}: {e}", path.display()));
    let mut lines = text.lines().filter(|l| !l.starts_with('#')).peekable();
    while let Some(line) = lines.next() {
        let head = line.strip_prefix('@').unwrap_or_else(|| panic!("{name}: '{line}' belongs to no file"));
        let mut body = Vec::new();
        while let Some(line) = lines.next_if(|l| !l.starts_with('@')) {
            body.push(line);
        }
        if let Some(other) = head.strip_prefix("include ") {
            unfold(other, root);
        } else if let Some((file, value)) = head.split_once(" = ") {
            write(&root.join(file), format!("{value}\n").as_bytes());
        } else {
            match head.split(' ').collect::<Vec<_>>()[..] {
                [file] => write(&root.join(file), format!("{}\n", body.join("\n")).as_bytes()),
                [file, "hex", len] => write(&root.join(file), &bytes(&body, len.parse().expect("a length"))),
                [file, "without"] => remove(&root.join(file)),
                [dir, "entries"] => entries(&root.join(dir), &body),
                _ => panic!("{name}: '@{head}' is of no known form"),
            }
        }
    }
}

fn write(path: &Path, bytes: &[u8]) {
    fs::create_dir_all(path.parent().expect("below the root")).expect("make a directory");
    fs::write(path, bytes).unwrap_or_else(|e| panic!("write {}: {e}", path.display()));
}

fn remove(path: &Path) {
    let gone = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    gone.unwrap_or_else(|e| panic!("remove {}: {e}", path.display()));
}

fn bytes(lines: &[&str], len: usize) -> Vec<u8> {
    let mut all = vec![0; len];
    for line in lines {
        let (at, hex) = line.split_once(": ").expect("offset and bytes");
        let at = usize::from_str_radix(at, 16).expect("an offset");
        for (i, pair) in hex.as_bytes().chunks(2).enumerate() {
            let pair = std::str::from_utf8(pair).expect("hexadecimal");
            all[at + i] = u8::from_str_radix(pair, 16).expect("hexadecimal");
        }
    }
    all
}

fn entries(dir: &Path, lines: &[&str]) {
    if dir.exists() {
        remove(dir);
    }
    for (number, line) in lines.iter().enumerate() {
        let mut words = line.splitn(3, ' ');
        for file in ["start", "end", "type"] {
            let value = words.next().expect("three words");
            write(&dir.join(number.to_string()).join(file), format!("{value}\n").as_bytes());
        }
    }
}
