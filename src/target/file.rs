//! A dump in a file system: written as `PATH-incomplete`, renamed to `PATH` once it is synced.
//!
//! Both names are created exclusively and links are not followed: in the crash kernel, root writes into a directory
//! whose contents may be anybody's.

use std::ffi::OsString;
use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use super::Sink;
use crate::error::{Context, Error, Kind, Result};

/// See the module.
#[derive(Debug)]
pub struct FileSink {
    file: File,
    directory: File,
    path: PathBuf,
    name: OsString,
    working_name: OsString,
    overwrite: bool,
}

impl FileSink {
    /// Creates `PATH-incomplete`. With `overwrite`, files under either name go; without, they are an error.
    ///
    /// # Errors
    /// [`Kind::Exists`] for what is there already, [`Kind::Missing`] for a directory that is not; nothing is changed.
    pub fn create(path: &Path, overwrite: bool) -> Result<Self> {
        let shown = path.display();
        let Some(name) = path.file_name().filter(|_| !path.as_os_str().as_encoded_bytes().ends_with(b"/")) else {
            return Err(Error::new(Kind::Usage, format!("output {shown} names no file")));
        };
        let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let directory = rustix::fs::open(parent, OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .context(|| format!("open the directory {} of output {shown}", parent.display()))?;
        check_place(&directory, path, name, overwrite)?;
        let mut working_name = name.to_owned();
        working_name.push("-incomplete");
        let working = parent.join(&working_name);
        if overwrite {
            match rustix::fs::unlinkat(&directory, &working_name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(e) => return Err(Error::errno(e, format!("replace {}", working.display()))),
            }
        }
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::WRONLY | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&directory, &working_name, flags, Mode::RUSR | Mode::WUSR).map_err(|e| {
            let hint = if e == Errno::EXIST { " (left by an earlier attempt; -f replaces it)" } else { "" };
            Error::errno(e, format!("create {}{hint}", working.display()))
        })?;
        Ok(Self {
            file: file.into(),
            directory: directory.into(),
            path: path.to_owned(),
            name: name.to_owned(),
            working_name,
            overwrite,
        })
    }

    /// Where the dump is until it is finished.
    pub fn working_path(&self) -> PathBuf {
        self.path.with_file_name(&self.working_name)
    }

    /// Removes what was written: nothing of it is worth keeping.
    pub fn discard(&self) {
        let _ = rustix::fs::unlinkat(&self.directory, &self.working_name, AtFlags::empty());
    }

    /// The final name, never over a file that appeared meanwhile unless that was asked for.
    fn rename(&self) -> rustix::io::Result<()> {
        let (dir, from, to) = (self.directory.as_fd(), &self.working_name, &self.name);
        if self.overwrite {
            return rustix::fs::renameat(dir, from, dir, to);
        }
        match rustix::fs::renameat_with(dir, from, dir, to, RenameFlags::NOREPLACE) {
            // File systems without that flag (NFS): a link is never made over a file either.
            Err(Errno::INVAL | Errno::NOSYS) => {
                rustix::fs::linkat(dir, from, dir, to, AtFlags::empty())?;
                rustix::fs::unlinkat(dir, from, AtFlags::empty())
            }
            other => other,
        }
    }
}

/// Refuses what can't become a dump: an existing file, a directory, a pipe, a device.
fn check_place(directory: impl AsFd, path: &Path, name: &std::ffi::OsStr, overwrite: bool) -> Result<()> {
    let shown = path.display();
    // The target of a link counts here: /dev/stdout is no place either.
    if let Ok(meta) = std::fs::metadata(path)
        && !meta.is_file()
    {
        let (kind, message) = if meta.is_dir() {
            (Kind::Exists, format!("output {shown} is a directory; name the file to be made in it"))
        } else {
            (
                Kind::Invalid,
                format!(
                    "output {shown} is not a regular file, and a dump is written at offsets: give a path in a file system"
                ),
            )
        };
        return Err(Error::new(kind, message));
    }
    match rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(_) if !overwrite => Err(Error::new(Kind::Exists, format!("output {shown} exists; -f replaces it"))),
        _ => Ok(()),
    }
}

impl Sink for FileSink {
    fn write_at(&self, offset: u64, data: &[u8]) -> Result<()> {
        let written = self.file.write_all_at(data, offset);
        written.context(|| format!("write {} bytes at {offset:#x} of {}", data.len(), self.working_path().display()))
    }

    fn sync(&self) -> Result<()> {
        self.file.sync_data().context(|| format!("sync {}", self.working_path().display()))
    }

    fn restart(&self) -> Result<()> {
        self.file.set_len(0).context(|| format!("empty {}", self.working_path().display()))
    }

    fn finish(&mut self) -> Result<()> {
        self.file.sync_all().context(|| format!("sync {}", self.working_path().display()))?;
        self.rename().context(|| format!("rename {} to {}", self.working_path().display(), self.path.display()))?;
        self.directory.sync_all().context(|| format!("sync the directory of {}", self.path.display()))
    }
}

/// A sink written from front to back.
pub struct SinkWriter<'a> {
    sink: &'a dyn Sink,
    at: u64,
}

impl<'a> SinkWriter<'a> {
    /// From its start on.
    pub fn new(sink: &'a dyn Sink) -> Self {
        Self { sink, at: 0 }
    }
}

impl std::io::Write for SinkWriter<'_> {
    fn write(&mut self, data: &[u8]) -> std::io::Result<usize> {
        self.sink.write_at(self.at, data).map_err(|e| match e.raw_errno() {
            Some(errno) => std::io::Error::from_raw_os_error(errno),
            None => std::io::Error::other(e),
        })?;
        self.at += data.len() as u64;
        Ok(data.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_dump_has_its_name_only_once_it_is_finished() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("vmcore");
        let mut sink = FileSink::create(&path, false).expect("created");
        sink.write_at(5, b"world").expect("written");
        sink.write_at(0, b"hello").expect("written");
        assert!(!path.exists() && sink.working_path().ends_with("vmcore-incomplete"));
        sink.finish().expect("finished");
        assert_eq!(std::fs::read(&path).expect("read"), b"helloworld");
        assert!(!sink.working_path().exists());
        assert_eq!(std::fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn what_is_there_is_replaced_only_when_asked() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("vmcore");
        std::fs::write(&path, "old").expect("written");
        let refused = FileSink::create(&path, false).expect_err("exists");
        assert_eq!(refused.kind(), Kind::Exists);
        assert!(!dir.path().join("vmcore-incomplete").exists(), "nothing changed");
        let mut sink = FileSink::create(&path, true).expect("created");
        assert_eq!(std::fs::read(&path).expect("read"), b"old", "until the new one is finished");
        sink.write_at(0, b"new").expect("written");
        sink.finish().expect("finished");
        assert_eq!(std::fs::read(&path).expect("read"), b"new");
    }

    #[test]
    fn a_file_that_appears_meanwhile_is_not_lost() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("vmcore");
        let mut sink = FileSink::create(&path, false).expect("created");
        std::fs::write(&path, "other").expect("written");
        assert_eq!(sink.finish().expect_err("exists").kind(), Kind::Exists);
        assert_eq!(std::fs::read(&path).expect("read"), b"other");
        assert!(sink.working_path().exists(), "the dump is still there under its working name");
    }

    #[test]
    fn places_that_cannot_take_a_dump() {
        let dir = tempfile::tempdir().expect("a directory");
        let link = dir.path().join("link-incomplete");
        std::os::unix::fs::symlink("/etc/passwd", &link).expect("linked");
        std::os::unix::fs::symlink("nowhere", dir.path().join("dangling")).expect("linked");
        for (path, kind) in [
            (dir.path().to_owned(), Kind::Exists),
            (dir.path().join("link"), Kind::Exists),
            (dir.path().join("dangling"), Kind::Exists),
            (dir.path().join("no/such/file"), Kind::Missing),
            ("/dev/null".into(), Kind::Invalid),
            ("/".into(), Kind::Usage),
        ] {
            assert_eq!(FileSink::create(&path, false).expect_err("refused").kind(), kind, "{}", path.display());
        }
    }
}
