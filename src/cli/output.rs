//! Where `kdump-save` and `makedumpfile` put a dump: one file, several, or a stream.

use std::fs::File;
use std::io::{IsTerminal, stdout};
use std::os::fd::AsFd;
use std::path::Path;

use crate::error::{Context, Error, Kind, Result};
use crate::target::file::{FileSink, SinkWriter};
use crate::target::flat::FlatSink;
use crate::target::{Nowhere, Sink};

/// An output that is open; nothing has its final name before [`Output::finish`].
pub(super) enum Output {
    /// One file for each part.
    Files(Vec<FileSink>),
    /// A flattened stream: to this file, or to the standard output.
    Flat(Option<FileSink>),
    /// So many parts, of which only the sizes are wanted.
    Nowhere(usize),
}

impl Output {
    /// Opens the files that are named.
    pub(super) fn create(paths: &[impl AsRef<Path>], flatten: bool, force: bool) -> Result<Self> {
        let mut files: Vec<FileSink> = Vec::with_capacity(paths.len());
        for path in paths {
            let file = FileSink::create(path.as_ref(), force);
            files.push(file.inspect_err(|_| files.iter().for_each(FileSink::discard))?);
        }
        if !flatten {
            return Ok(Self::Files(files));
        }
        if files.is_empty() && stdout().is_terminal() {
            let rule = "the standard output is a terminal, which takes no dump; send it to a pipe or a file";
            return Err(Error::new(Kind::Usage, rule));
        }
        Ok(Self::Flat(files.pop()))
    }

    /// Calls `write` with the places; what it wrote is out when this returns.
    pub(super) fn fill(&self, write: &mut dyn FnMut(&[&dyn Sink]) -> Result<()>) -> Result<()> {
        if let Self::Nowhere(parts) = self {
            return write(&vec![&Nowhere as &dyn Sink; *parts]);
        }
        let out: Box<dyn std::io::Write + Send + '_> = match self {
            Self::Files(files) => {
                let sinks: Vec<&dyn Sink> = files.iter().map(|f| f as &dyn Sink).collect();
                return write(&sinks);
            }
            Self::Flat(Some(file)) => Box::new(SinkWriter::new(file)),
            _ => {
                let out = stdout().as_fd().try_clone_to_owned().context(|| "use the standard output")?;
                Box::new(File::from(out))
            }
        };
        let mut sink = FlatSink::new(out);
        write(&[&sink])?;
        sink.finish()
    }

    /// Gives the files their names.
    pub(super) fn finish(&mut self) -> Result<()> {
        self.files_mut().iter_mut().try_for_each(Sink::finish)
    }

    fn files_mut(&mut self) -> &mut [FileSink] {
        match self {
            Self::Files(files) => files,
            Self::Flat(file) => file.as_mut_slice(),
            Self::Nowhere(_) => &mut [],
        }
    }

    /// The names until then.
    pub(super) fn working_names(&self) -> String {
        let files = match self {
            Self::Files(files) => files.as_slice(),
            Self::Flat(file) => file.as_slice(),
            Self::Nowhere(_) => &[],
        };
        let names: Vec<String> = files.iter().map(|f| f.working_path().display().to_string()).collect();
        if names.is_empty() { "in the stream".into() } else { names.join(", ") }
    }
}
