//! ext4 images made and read back by e2fsprogs, without root and without mounting.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::run;

/// A program of e2fsprogs; a user's PATH may lack /sbin.
fn e2fs(program: &str) -> Command {
    let path = ["/usr/sbin", "/sbin", "/usr/bin"].iter().map(|d| Path::new(d).join(program)).find(|p| p.exists());
    Command::new(path.unwrap_or_else(|| PathBuf::from(program)))
}

/// An ext4 file system of `size_mib` in the file `path`, holding what is below `contents`.
pub fn ext4(path: &Path, size_mib: u64, label: &str, contents: Option<&Path>) -> PathBuf {
    let file = File::create(path).unwrap_or_else(|e| panic!("make {}: {e}", path.display()));
    file.set_len(size_mib << 20).unwrap_or_else(|e| panic!("size {}: {e}", path.display()));
    let mut command = e2fs("mke2fs");
    command.args(["-q", "-F", "-t", "ext4", "-L", label, "-E", "lazy_itable_init=0,lazy_journal_init=0"]);
    if let Some(dir) = contents {
        command.arg("-d").arg(dir);
    }
    run(command.arg(path));
    path.to_owned()
}

/// All regular files in an ext4 image, with their paths from its root; `lost+found` is left out.
/// The journal is replayed into the image first, as a mount would do.
pub fn files(image: &Path) -> Vec<String> {
    // Exit 1: errors corrected (the replay). The image of a machine that was reset is worth no less.
    let check = e2fs("e2fsck").args(["-p", "-f"]).arg(image).output().expect("start e2fsck");
    let code = check.status.code().unwrap_or(-1);
    assert!(code <= 1, "e2fsck of {}: {}", image.display(), String::from_utf8_lossy(&check.stdout));
    let mut found = Vec::new();
    let mut waiting = vec![String::new()];
    while let Some(dir) = waiting.pop() {
        let list = run(e2fs("debugfs").args(["-R", &format!("ls -p \"{dir}/\"")]).arg(image));
        // "/inode/mode/uid/gid/name/size/": mode in octal, 04xxxx for a directory.
        for line in String::from_utf8_lossy(&list.stdout).lines() {
            let fields: Vec<&str> = line.split('/').collect();
            let (Some(mode), Some(name)) = (fields.get(2), fields.get(5)) else { continue };
            let path = format!("{dir}/{name}");
            match mode.get(..2) {
                Some("04") if !["", ".", "..", "lost+found"].contains(name) => waiting.push(path),
                Some("10") => found.push(path),
                _ => {}
            }
        }
    }
    found.sort();
    found
}

/// Copies the file `path` out of an image to `to`.
pub fn copy_out(image: &Path, path: &str, to: &Path) -> PathBuf {
    drop(fs::remove_file(to));
    let said = run(e2fs("debugfs").args(["-R", &format!("dump \"{path}\" \"{}\"", to.display())]).arg(image));
    // debugfs exits 0 whatever happens.
    assert!(to.is_file(), "{path} in {}: {}", image.display(), String::from_utf8_lossy(&said.stderr));
    to.to_owned()
}
